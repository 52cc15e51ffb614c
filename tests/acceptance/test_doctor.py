"""`agents doctor` of a hierarchy in which something is wrong: it is found, with its cure, and gone once it is cured."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from core.redis_backend.keys import RegistryKeys
from tests.installation import Installation
from tests.waiting import until

REGISTRY = RegistryKeys("coordinator-1")
#: Whoever dies is missed soon, and a busy machine is no death.
FAST = {"AGENT_HEARTBEAT_S": "0.2", "AGENT_FAILURE_TIMEOUT_S": "1.5", "AGENT_LEASE_S": "3"}

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def here() -> Iterator[Installation]:
    """A hierarchy at work, with one worker."""
    with Installation.opened() as installation:
        installation.environment |= FAST
        [nobody] = findings(installation, "agents")
        assert (nobody["state"], nobody["what"], nobody["cure"]) == ("warn", "none is up", "agents up")
        installation.up("--workers", "1")
        yield installation


@pytest.fixture(scope="module")
def server(here: Installation) -> Iterator[redis.Redis]:
    password = here.environment.get("REDIS_PASSWORD")
    with redis.Redis.from_url(here.environment["REDIS_URL"], password=password, decode_responses=True) as client:
        yield client


def findings(here: Installation, check: str, code: int | None = None, **environment: str) -> Found:
    """What a check finds. `code`: the exit code of the command; None: it is none of this test's."""
    done = here.agents("doctor", "--json", **environment)
    assert code is None or done.returncode == code, done.stdout
    return [finding for finding in json.loads(done.stdout) if finding["check"] == check]


def found(here: Installation, check: str, words: str) -> dict[str, Any]:
    """Waits until a check finds what is told with these words."""

    [finding, *_] = until(
        lambda: [finding for finding in findings(here, check) if words in finding["what"]], f"{check}: {words}"
    )
    assert (finding["state"] == "ok") == (finding["cure"] == "")
    return finding


def is_well(here: Installation, *checks: str) -> None:
    def well() -> bool:
        done = here.agents("doctor", "--json")
        return all(finding["state"] == "ok" for finding in json.loads(done.stdout) if finding["check"] in checks)

    until(well, f"nothing is wrong with {checks} any more")


@contextmanager
def over_and_over(call: Callable[[], object]) -> Iterator[None]:
    """Calls it meanwhile, against an agent that repairs what is its own."""
    over = threading.Event()

    def calls() -> None:
        while not over.wait(0.005):
            call()

    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(calls)
        try:
            yield
        finally:
            over.set()
            calling.result()


def test_a_secret_that_is_not_that_of_the_agents_fails_with_the_code_of_the_client(here: Installation) -> None:
    [secret, other] = findings(here, "secret", code=77, A2A_TOKEN_SECRET="another secret, long enough")
    assert (secret["state"], other["state"]) == ("ok", "fail")
    assert "not that of the agents" in other["what"]
    assert "A2A_TOKEN_SECRET" in other["cure"]
    is_well(here, "secret")


def test_a_server_that_is_full_fails_and_nothing_is_said_of_agents_that_cannot_write(
    here: Installation, server: redis.Redis
) -> None:
    server.config_set("maxmemory", 1_000_000)
    try:
        [memory] = findings(here, "memory", code=69)
        assert (memory["state"], "full" in memory["what"], "maxmemory" in memory["cure"]) == ("fail", True, True)
        assert findings(here, "agents") == []
        text = here.agents("doctor").stdout
        assert "Cure: raise maxmemory" in text
        assert "agents up" not in text
    finally:
        server.config_set("maxmemory", 0)
    is_well(here, "memory", "agents")


def test_a_server_that_writes_nothing_is_found(here: Installation, server: redis.Redis) -> None:
    saves = server.config_get("save")["save"] or ""
    server.config_set("appendonly", "no")
    server.config_set("save", "")
    try:
        [persistence] = findings(here, "persistence", code=0)
        assert (persistence["state"], "every task is lost" in persistence["what"]) == ("warn", True)
        assert "config set appendonly yes" in persistence["cure"]
    finally:
        server.config_set("appendonly", "yes")
        server.config_set("save", saves)
    is_well(here, "persistence")


def test_other_versions_and_clocks_are_told_as_agents_have_registered_them(
    here: Installation, server: redis.Redis
) -> None:
    record = REGISTRY.record("distributor-1")
    told: Any = {"version": "0.0.9", "clock_ahead_ms": "-60000"}
    with over_and_over(lambda: server.hset(record, mapping=told)):
        versions = found(here, "versions", "others are not")
        clocks = found(here, "clocks", "differ")
    assert "distributor-1 0.0.9" in versions["what"]
    assert "one by one" in versions["cure"]
    assert "distributor-1 -60.0 s" in clocks["what"]
    assert "NTP" in clocks["cure"]
    server.delete(record)  # it registers anew
    found(here, "registry", "3 agent(s) can be discovered")


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.mark.skipif(FAKETIME is None, reason="there is no libfaketime")
def test_a_clock_of_this_machine_that_differs_is_found(here: Installation) -> None:
    wrong = {"LD_PRELOAD": f"{FAKETIME}", "FAKETIME": "+1h", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "PYTHONUTF8": "1"}
    [clock] = findings(here, "clock", code=0, **wrong)
    assert (clock["state"], clock["cure"]) == ("warn", "use NTP")
    assert "3600 s" in clock["what"]


def test_a_skill_that_nobody_has_is_named_with_a_task_that_needs_it(here: Installation) -> None:
    here.agents("submit", "draw", "1", "--id", "a-drawing")
    skill = found(here, "capabilities", "'draw'")
    assert "a-drawing" in skill["what"]
    assert "agents tasks cancel a-drawing" in skill["cure"]
    assert "1 task(s) wait for an agent that has what they need" in found(here, "distribution", "1 task")["what"]
    here.agents("tasks", "cancel", "a-drawing")
    is_well(here, "distribution")
    assert findings(here, "capabilities") == []


def test_who_is_not_in_the_registry_cannot_be_discovered(here: Installation, server: redis.Redis) -> None:
    record = REGISTRY.record("worker-1")
    with over_and_over(lambda: server.delete(record)):
        registry = found(here, "registry", "nobody discovers them: worker:worker-1")
        assert "their log says why" in registry["cure"]
    with over_and_over(lambda: server.hset(record, "place", "coordinator:coordinator-1/distributor:d/worker:worker-1")):
        twice = found(here, "registry", "its id is that of coordinator:coordinator-1/distributor:d/worker:worker-1")
        assert "an id of its own" in twice["cure"]
    server.delete(record)  # it registers anew
    is_well(here, "registry")


def test_a_worker_whose_distributor_is_not_up_is_named_with_it(here: Installation) -> None:
    lone = here.start("worker", "--id", "worker-2", "--distributor", "distributor-2", "--import", "./tasks.py")
    try:
        unheard = found(here, "agents", "worker:worker-2 is not heard by distributor:distributor-2")
        assert unheard["cure"] == "start distributor:distributor-2, which is not up"
    finally:
        lone.terminate()
        lone.communicate(timeout=30)
    is_well(here, "agents")


def test_tasks_that_nobody_is_left_for_are_found_and_who_is_gone_without_notice(
    here: Installation, server: redis.Redis
) -> None:
    supervisor = here.record()["pid"]
    os.kill(supervisor, signal.SIGSTOP)  # it starts nobody again
    try:
        for agent in ("worker:worker-1", "distributor:distributor-1"):
            os.kill(here.pids()[agent], signal.SIGKILL)
        gone = found(here, "agents", "gone without notice: distributor:distributor-1, worker:worker-1")
        assert "start them again" in gone["cure"]
        forgets = gone["cure"].rpartition("redis-cli ")[2].split()
        server.execute_command(*forgets)  # type: ignore[no-untyped-call]
        assert "worker-1" not in found(here, "agents", "gone without notice: distributor:distributor-1")["what"]
        assert "tasks only wait" in found(here, "tiers", "nobody below it")["what"]
        os.kill(here.pids()["coordinator:coordinator-1"], signal.SIGKILL)
        assert found(here, "agents", "none is up")["cure"] == "agents up"
    finally:
        os.kill(supervisor, signal.SIGCONT)
    is_well(here, "agents", "tiers")
