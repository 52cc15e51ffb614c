"""What a network does to connections: it is slow, it resets them, it loses a reply, it flaps.

Lines 14, 15, 16 and 19 of the matrix.
"""

from __future__ import annotations

import time

import pytest

from core.chaos.proxy import Action, command
from core.config.settings import RedisConfig
from core.errors import TransportDown
from tests.faults.outages import under_load
from tests.faults.stage import CLIENT, COORDINATOR, PROFILE, Stage
from tests.waiting import until

#: It is the network that is tried here, and not the server.
ONE_SERVER = pytest.mark.parametrize("chaos_server", ["bundled"], indirect=True)
TIERS = (COORDINATOR, "distributor-1", "worker-1")
#: What may go wrong, by the word in a request that shows it: an agent's messages, its lease and its state are all in
#: the EXEC of its commit; TIME stands first in its heartbeat.
REQUESTS = {"commit": "EXEC", "read": "XREAD", "beat": "TIME"}
#: So many tasks are under way when it does.
TASKS = 20
#: An agent has two connections. For a moment the server may see three: one that is gone, and the one that follows it.
CONNECTIONS = 3
#: The matrix asks for a minute of it.
FLAPS, FLAP_S = 25, 0.2
MAX_LINES_A_SECOND = 20


@ONE_SERVER
@pytest.mark.matrix(14)
@pytest.mark.parametrize(("delay_ms", "tasks"), [(5, 100), (50, 100), (300, 4)])
def test_a_slow_link_costs_nobody_a_lease_and_no_task_a_second_run(linked: Stage, delay_ms: int, tasks: int) -> None:
    """Up to almost a third of a lease, there and back. Few tasks where each takes many seconds."""
    before = linked.verdict()
    for link in linked.links.values():
        link.delay(to_server_s=delay_ms / 1000, to_client_s=delay_ms / 1000)

    linked.submit(tasks)
    linked.collect()

    for link in linked.links.values():
        link.heal()
    verdict = linked.verdict()
    assert verdict.clean, verdict
    assert verdict.executed - before.executed == tasks
    assert verdict.grants == before.grants


@ONE_SERVER
@pytest.mark.matrix(14)
def test_a_link_that_takes_half_of_a_lease_there_and_back_loses_nothing(linked: Stage) -> None:
    """Heartbeats come so late that tasks may be given to others, and half a second in which this machine stands still
    costs a lease; what then runs twice counts once."""
    for link in linked.links.values():
        link.delay(to_server_s=0.5, to_client_s=0.5)

    linked.submit(4)
    linked.collect()

    for link in linked.links.values():
        link.heal()
    verdict = linked.verdict()
    assert verdict.clean, verdict


@pytest.mark.matrix(15, 16)
@pytest.mark.parametrize("action", ["reset", "swallow"])
@pytest.mark.parametrize("request_of", REQUESTS)
@pytest.mark.parametrize("agent_id", TIERS)
def test_an_agents_request_that_is_lost_or_whose_reply_is_lost_takes_effect_once(
    linked: Stage, agent_id: str, request_of: str, action: Action
) -> None:
    link = linked.links[linked.acting(agent_id)]
    rule = link.on_request(command(REQUESTS[request_of]), action)

    linked.submit(TASKS)

    until(lambda: rule.hits == 1, f"a {request_of} of {agent_id} goes wrong")
    verdict = linked.verdict()
    assert verdict.clean, verdict


@pytest.mark.matrix(15, 16)
@pytest.mark.parametrize("action", ["reset", "swallow"])
@pytest.mark.parametrize("agent_id", TIERS)
def test_a_renewal_may_be_lost_and_after_it_the_request_that_watches_the_lease_again(
    linked: Stage, agent_id: str, action: Action
) -> None:
    """Nobody has anything to do, so what is sent is a renewal."""
    link = linked.links[linked.acting(agent_id)]
    renewal, watch = (link.on_request(command(word), action) for word in ("EXEC", "UNWATCH"))

    until(lambda: renewal.hits == watch.hits == 1, f"{agent_id} has lost both")
    linked.submit(TASKS)

    verdict = linked.verdict()
    assert verdict.clean, verdict


@pytest.mark.matrix(15, 16)
@pytest.mark.parametrize("action", ["reset", "swallow"])
@pytest.mark.parametrize("agent_id", TIERS)
def test_a_process_whose_request_for_its_lease_is_lost_acts_when_it_is_started_again(
    linked: Stage, agent_id: str, action: Action
) -> None:
    of_this_id = [name for name in PROFILE if name.removesuffix("b") == agent_id]
    linked.submit(TASKS)
    linked.processes.kill_all(*of_this_id)
    rule = linked.links[agent_id].on_request(command("EXEC"), action)

    linked.start(agent_id)
    assert linked.processes.wait(agent_id) == TransportDown.exit_code
    assert rule.hits == 1
    linked.start(agent_id)
    linked.ready(agent_id)
    for standby in of_this_id[1:]:
        linked.start(standby)

    verdict = linked.verdict()
    assert verdict.clean, verdict


@pytest.mark.matrix(15, 16)
@pytest.mark.parametrize("action", ["reset", "swallow"])
@pytest.mark.parametrize("word", ["XADD", "XREAD"])
def test_a_clients_request_that_is_lost_or_whose_reply_is_lost_is_one_task_each(
    linked: Stage, word: str, action: Action
) -> None:
    rule = linked.links[CLIENT].on_request(command(word), action)
    before = linked.verdict()

    linked.submit(TASKS)

    until(lambda: rule.hits == 1, f"the client's {word} goes wrong")
    verdict = linked.verdict()
    assert verdict.clean, verdict
    assert verdict.accepted - before.accepted == verdict.executed - before.executed == TASKS


@ONE_SERVER
@pytest.mark.matrix(19)
def test_links_that_come_and_go_lose_nothing_pile_up_no_connections_and_fill_no_log(linked: Stage) -> None:
    through = RedisConfig(url=linked.links[CLIENT].url, password=linked.server.password, mode="external")
    with under_load(linked, redis=through) as load:
        load.progress()
        began_s, lines = time.monotonic(), {name: len(linked.processes.log(name).splitlines()) for name in PROFILE}
        for link in linked.links.values():
            link.counters.peak_open = link.counters.open
        for _ in range(FLAPS):
            for link in linked.links.values():
                link.cut()
            time.sleep(FLAP_S)
            for link in linked.links.values():
                link.heal()
            time.sleep(FLAP_S)
        flapped_s = time.monotonic() - began_s
        load.turnover()

    verdict = linked.verdict()
    assert verdict.clean, verdict
    for name in PROFILE:
        said = len(linked.processes.log(name).splitlines()) - lines[name]
        assert said / flapped_s < MAX_LINES_A_SECOND, name
        assert linked.links[name].counters.peak_open <= CONNECTIONS, name
