"""The server is killed, loses power, or comes back with nothing: lines 10 to 12 of the matrix."""

from __future__ import annotations

import time

import pytest

from core.chaos.append_log import AppendLog
from core.chaos.proxy import Proxy
from core.config.settings import RedisConfig
from tests.faults.outages import (
    DOWN_S,
    all_act,
    crash,
    cut_log,
    fences_used_again,
    first_commit_s,
    history_of,
    judged_after_loss,
    one_server,
    setting,
    told_by_now,
    under_load,
)
from tests.faults.stage import LEASE_S, Stage
from tests.waiting import until

#: The matrix asks for 20; each costs some two seconds.
CRASHES = 4
#: Power fails after everything that was acknowledged, and so much of what was written after that.
SHARES = (0.0, 0.5, 0.99)
#: With `everysec`, so much may not have reached the disk.
UNSYNCED_S = 1.0
#: A client looks twice, five seconds apart, before it says that a task is lost.
NOTICED_S = 30.0
#: Two cores for a dozen processes.
SLACK_S = 2.0


@pytest.mark.matrix(10)
def test_a_server_that_is_killed_under_load_comes_back_to_agents_that_go_on_within_a_second(stage: Stage) -> None:
    """Four times instead of twenty."""
    stage.start()
    all_act(stage)
    times_s = []
    with under_load(stage) as load:
        for _ in range(CRASHES):
            load.progress()
            crash(stage.server)
            times_s.append(first_commit_s(stage))
        load.progress()

    verdict = stage.verdict()
    assert verdict.clean, verdict
    assert load.submitter.lost == []
    assert max(times_s) <= 1.0


@pytest.mark.matrix(11)
def test_with_fsync_always_a_power_loss_takes_nothing_that_was_acknowledged(stage: Stage) -> None:
    """What was written after the last acknowledgement is cut off, all or some of it."""
    server, log = stage.server, AppendLog(stage.server.append_directory)
    unacknowledged = 0
    with Proxy(server.socket) as proxy:
        stage.start(REDIS_URL=proxy.url)
        all_act(stage)
        through = RedisConfig(url=proxy.url, password=server.password, mode="external")
        with under_load(stage, redis=through) as load:
            for share in SHARES:
                with setting(server, appendfsync="always"):
                    load.progress()
                    proxy.black_hole(to_server=False)
                    acknowledged = log.end()
                    until(lambda size=acknowledged: log.end() > size, "something is written")  # type: ignore[misc]
                    server.kill()
                    proxy.cut()
                    written = log.end()
                    unacknowledged += written - acknowledged
                    cut_log(server, acknowledged + int((written - acknowledged) * share))
                    server.start()
                proxy.heal()
            load.progress()

        verdict = stage.verdict()
        stage.processes.forget_all()
    assert verdict.clean, verdict
    assert load.submitter.lost == []
    assert unacknowledged > 0


@pytest.mark.matrix(11)
def test_with_fsync_every_second_a_power_loss_takes_a_second_which_is_noticed_and_done_again(stage: Stage) -> None:
    server, log = stage.server, AppendLog(stage.server.append_directory)
    since = log.end()
    stage.start()
    all_act(stage)
    with under_load(stage, run_ms=100) as load:
        load.progress()
        synced = log.end()
        time.sleep(UNSYNCED_S)
        server.write_log()
        server.kill()
        before = history_of(log.transactions(since))
        cut_log(server, synced + 7)  # in the middle of a command
        kept = history_of(log.transactions(since))
        told = told_by_now(stage)
        server.start()
        load.turnover(NOTICED_S)
        load.progress()

    verdict = judged_after_loss(stage, lambda: log.transactions(since), told & (before.ends.keys() - kept.ends.keys()))
    assert verdict.clean, verdict
    assert load.submitter.lost
    assert set(load.submitter.lost) <= before.records.keys() - kept.records.keys()
    assert fences_used_again(before.grants, verdict.grants) == {}


@one_server
@pytest.mark.matrix(12)
def test_a_server_that_comes_back_empty_finds_all_at_work_within_a_lease_and_what_it_lost_is_told(
    stage: Stage,
) -> None:
    server, log = stage.server, AppendLog(stage.server.append_directory)
    since = log.end()
    stage.start()
    all_act(stage)
    with under_load(stage) as load:
        load.progress()
        server.write_log()
        server.kill()
        before = history_of(log.transactions(since))
        server.lose_data()
        time.sleep(DOWN_S)
        told = told_by_now(stage)
        server.start()
        back_s = time.monotonic()
        all_act(stage)
        took_s = time.monotonic() - back_s
        load.turnover(NOTICED_S)
        load.progress()

    verdict = judged_after_loss(stage, log.transactions, told)
    assert verdict.clean, verdict
    assert load.submitter.lost
    assert set(load.submitter.lost) <= before.records.keys()
    assert took_s <= LEASE_S + SLACK_S
    assert fences_used_again(before.grants, verdict.grants) == {}
    assert verdict.grants.keys() == before.grants.keys()
