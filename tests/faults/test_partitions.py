"""When nothing gets through for a while: a server that stands still, connections half open, a replica that is cut off.

Lines 13, 17 and 18 of the matrix.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from core.chaos.proxy import command
from core.redis_backend.keys import CellKeys
from core.runtime.inbox import READ_WITHIN_S
from tests.faults.outages import under_load
from tests.faults.stage import CLIENT, COORDINATOR, LEASE_S, PROFILE, WORKERS, Stage
from tests.waiting import until

#: It is the network that is tried here, and not the server.
ONE_SERVER = pytest.mark.parametrize("chaos_server", ["bundled"], indirect=True)
#: Beside what the matrix allows: two cores run a dozen processes, and whoever measures is one of them.
SLACK_S = 1.0
PAUSE_S = 3 * LEASE_S
HEARTBEAT_S = 0.4
#: So many tasks are under way when the server stops: half of what the workers run at once.
TASKS = 8
#: An agent has two connections, and tries each again a few times before the server goes on.
CONNECTS = 8
#: What the tests themselves send while they look.
READ_ONLY = ("auth", "client", "hello", "info", "mget", "ping")


def pause_clients(stage: Stage) -> None:
    """The server answers nobody."""
    stage.server.ask("CLIENT", "PAUSE", f"{PAUSE_S * 1000:.0f}", "ALL")
    time.sleep(PAUSE_S)


def stop_server(stage: Stage) -> None:
    """The server's process stands still, as if its machine did."""
    stage.server.stop()
    time.sleep(PAUSE_S)
    stage.server.cont()


def commands(stage: Stage) -> int:
    """How many the server has carried out for others."""
    with stage.server.connect() as client:
        statistics = client.info("commandstats")
    names = {name: name.removeprefix("cmdstat_").partition("|")[0] for name in statistics}
    return sum(statistics[name]["calls"] for name in names if names[name] not in READ_ONLY)


def commands_within(stage: Stage, seconds: float) -> int:
    """How many it carries out from now on."""
    before = commands(stage)
    time.sleep(seconds)
    return commands(stage) - before


def all_hear(stage: Stage, within_s: float) -> None:
    """Each agent takes something in and acts on it: tasks reach every worker, through all who are above."""
    began_s, since_ns = time.monotonic(), time.monotonic_ns()
    workers = {stage.processes.pid(name) for name in WORKERS}
    heard: set[int] = set()
    while not workers <= heard:
        stage.submit(20, ms=10)
        heard = {entry.pid for entry in stage.entries() if entry.kind == "began" and entry.at_ns > since_ns}
        assert time.monotonic() - began_s <= within_s, f"{len(workers - heard)} workers have heard nothing"


@pytest.mark.matrix(13)
@pytest.mark.parametrize("pause", [pause_clients, stop_server])
def test_after_a_server_stood_still_for_three_leases_all_are_back_within_one_and_without_a_storm(
    linked: Stage, pause: Callable[[Stage], None]
) -> None:
    """Tasks are under way that take longer than all this, so what is sent meanwhile is not work. DEBUG SLEEP, which the
    matrix names as well, is for a client what a stopped server is."""
    linked.submit(TASKS, ms=(PAUSE_S + 4 * LEASE_S) * 1000)
    calm = commands_within(linked, LEASE_S)
    accepted = {name: linked.links[name].counters.accepted for name in PROFILE}
    before = commands(linked)

    pause(linked)
    began_s = time.monotonic()
    linked.ready()
    took_s = time.monotonic() - began_s
    time.sleep(max(0.0, began_s + 2 * LEASE_S - time.monotonic()))
    storm = commands(linked) - before
    all_hear(linked, 2 * LEASE_S)

    verdict = linked.verdict()
    assert verdict.clean, verdict
    assert took_s <= LEASE_S
    assert storm / 2 < 2 * calm
    for name in PROFILE:
        assert linked.links[name].counters.accepted - accepted[name] <= CONNECTS, name


@ONE_SERVER
@pytest.mark.matrix(17)
def test_a_reader_whose_connection_hangs_alone_notices_and_nobody_loses_a_lease(linked: Stage) -> None:
    before = linked.verdict()
    links = [linked.links[name] for name in (linked.acting(COORDINATOR), "distributor-1", "worker-1", CLIENT)]
    accepted = [link.counters.accepted for link in links]
    rules = [link.on_request(command("XREAD"), "hold") for link in links]

    until(lambda: all(rule.hits == 1 for rule in rules), "all read into the void")
    until(
        lambda: all(link.counters.accepted > count for link, count in zip(links, accepted, strict=True)),
        "all have connected again",
        READ_WITHIN_S + SLACK_S,
    )
    all_hear(linked, 2 * LEASE_S)

    verdict = linked.verdict()
    assert verdict.clean, verdict
    assert verdict.grants == before.grants


@ONE_SERVER
@pytest.mark.matrix(17)
@pytest.mark.parametrize(("to_server", "to_client"), [(True, False), (False, True)])
def test_who_is_in_a_black_hole_notices_and_is_not_deaf_afterwards(
    linked: Stage, to_server: bool, to_client: bool
) -> None:
    """One agent of each tier at once, until all have noticed, which takes less than the 30 s of the matrix."""
    names = (linked.acting(COORDINATOR), "distributor-2", "worker-1")
    with under_load(linked) as load:
        load.progress()
        noticed = {name: linked.said(name, "transport_down") for name in names}
        for name in names:
            linked.links[name].black_hole(to_server=to_server, to_client=to_client)
        until(
            lambda: all(linked.said(name, "transport_down") > noticed[name] for name in names),
            "all three notice",
            READ_WITHIN_S + HEARTBEAT_S + SLACK_S,
        )
        for name in names:
            linked.links[name].heal()
        all_hear(linked, 2 * LEASE_S + SLACK_S)

    linked.ready()
    verdict = linked.verdict()
    assert verdict.clean, verdict


@ONE_SERVER
@pytest.mark.matrix(18)
@pytest.mark.parametrize("how", ["cut", "black_hole"])
def test_a_distributor_that_is_parted_from_the_server_is_replaced_and_writes_nothing_more(
    linked: Stage, how: str
) -> None:
    """In a black hole, what it has sent arrives when its successor has long been at work. The coordinator may have
    been there before that one, and have given the tasks to others."""
    old, new = "distributor-1", "distributor-1b"
    keys = CellKeys(old).agent(COORDINATOR)
    linked.processes.kill(old)
    linked.start(old, AGENT_STANDBY="true")
    linked.ready(old)
    linked.start(new)
    with linked.server.connect() as client:
        until(lambda: client.exists(keys.standbys), f"{new} waits")
    with under_load(linked) as load:
        load.progress()
        began_s, stepped_down = time.monotonic(), linked.said(old, "agent_starts_over")
        getattr(linked.links[old], how)()
        linked.ready(new)
        took_s = time.monotonic() - began_s
        load.progress()
        linked.links[old].heal()
        until(lambda: linked.said(old, "agent_starts_over") > stepped_down, f"{old} steps down")
        load.progress()

    verdict = linked.verdict()
    assert verdict.clean, verdict
    held = [grant.pid for grant in verdict.grants[keys.lease]]
    assert held[-1] == linked.processes.pid(new)
    assert held.count(linked.processes.pid(old)) == 1
    assert took_s <= LEASE_S + 1 + SLACK_S
    linked.processes.kill_all(old, new)
    linked.start(old)
    linked.ready(old)
