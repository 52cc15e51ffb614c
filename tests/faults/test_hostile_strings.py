"""Strings that would forge a line, move a cursor, run as a script or leave a path, wherever others may put strings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from core.chaos.processes import Processes
from core.client.agent_client import AgentClient
from core.config.settings import A2AConfig, RedisConfig
from core.redis_backend.keys import ACTIVE, CoordinatorKeys
from core.roles import Action, Address, Role
from core.signing import KeyRing
from core.tasks import Task
from tests.builders import SECRET, a_message
from tests.redis_server import RedisServer
from tests.tiers import ForkedTiers
from tests.waiting import until

#: What is tested here is the same on every server.
pytestmark = pytest.mark.parametrize("redis_server", ["bundled"], indirect=True, scope="session")

K, ENEMY = Address(Role.COORDINATOR, "k"), Address(Role.CLIENT, "enemy")
KEYS = CoordinatorKeys("k")
#: Begins a line wherever somebody takes it for one, in eight ways; and at the end what some programs would act on.
HOSTILE = (
    "".join(f"{end}FORGED" for end in ("\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"))
    + '\n{"level": "INFO", "message": "FORGED"}\n12:00:00 info    FORGED\n'
    + "\x1b[2J\x1b]0;title\x07\x9b31m\x08\x7f\u202e[red]{{7*7}}<script>alert(1)</script>../../../etc/passwd\0%n%s"
)
USER_CODE = f"""
import sys
from worker import Context, task

HOSTILE = {HOSTILE!r}
Failure = type("Failure" + HOSTILE.replace("\\0", ""), (Exception,), {{}})

@task("say")
def say(payload: str, ctx: Context) -> dict:
    print(HOSTILE)
    print(HOSTILE, file=sys.stderr)
    ctx.progress(0.5, HOSTILE)
    return {{HOSTILE: HOSTILE, "payload": payload}}

@task("fail", retries=0)
def fail() -> None:
    raise Failure(HOSTILE)
"""
KEY = re.compile(rb"agents:active|\{?(coordinator:k|shared:distributor:d)\}?(:[a-zA-Z0-9_.~-]+)*")


def posted(server: RedisServer) -> int:
    """Puts messages and entries with hostile strings in every place into the coordinator's inbox. Returns how many
    must be put aside."""
    signing = KeyRing.from_secret(SECRET, (K, ENEMY))
    entries = []
    with server.connect() as client:
        now_ms = client.time()[0] * 1000
        fields = {"timestamp": now_ms, "incarnation": now_ms}
        tasks = [
            {"task_id": task_id, "task_type": "say"} for task_id in (HOSTILE, "../../../etc/passwd", "{x}", "a\nb")
        ]
        tasks += [{"task_id": "t", "task_type": HOSTILE}]
        good = a_message(ENEMY, K, Action.SUBMIT_TASK, number=1, tasks=tasks, **fields)  # answered: these are refused
        entries += [signing.sign(good.encode(), K)]
        entries += [
            signing.sign(message.encode(), K)
            for message in (
                a_message(ENEMY, K, HOSTILE, number=2, **fields),
                a_message(ENEMY, K, Action.SUBMIT_TASK, number=3, **{**fields, "version": HOSTILE}),
                replace(a_message(ENEMY, K, Action.SUBMIT_TASK, number=4, **fields), sender=HOSTILE),
            )
        ]
        for signed in entries:
            parts = signed.fields()
            client.xadd(KEYS.inbox, dict(zip(parts[::2], parts[1::2], strict=True)))
        text = HOSTILE.encode()
        for sender in (text, b"client:" + text, b"client:../../x", b"king:k"):
            client.xadd(KEYS.inbox, {"from": sender, "kid": text, "sig": text, "body": text})
        client.xadd(
            KEYS.inbox, {"from": b"client:c", "kid": HOSTILE.encode("ascii", "ignore"), "sig": text, "body": text}
        )
        client.hset(KEYS.heartbeats, text, text)
        client.hset(KEYS.header, b"rejected:" + text, 1)
        client.zadd(KEYS.agent.standbys, {text: 9e15})
        client.sadd(ACTIVE, text)
    return 3 + 5


def unprintable(text: str) -> set[str]:
    return {char for char in text if not char.isprintable() and char not in "\n "}


def starts_of_lines(text: str) -> Iterator[str]:
    """As any program would cut it."""
    for line in text.splitlines():
        yield line.strip()


@pytest.mark.matrix(53)
def test_no_string_forges_a_line_of_a_log_moves_a_cursor_or_becomes_a_key(
    redis_server: RedisServer,
    redis_config: RedisConfig,
    processes: Processes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command_line: Callable[[str], str],
) -> None:
    (tmp_path / "mine.py").write_text(USER_CODE)
    secret = {"A2A_TOKEN_SECRET": SECRET.decode()}
    a2a = A2AConfig(agent_id="c", token_secret=SECRET.decode())
    worker = ("--coordinator", "k", "--distributor", "d", "--import", "./mine.py")
    with (
        ForkedTiers(processes, redis_config, tmp_path, **secret) as in_json,
        ForkedTiers(processes, redis_config, tmp_path, **secret, LOG_FORMAT="console") as for_people,
    ):
        for_people.start("coordinator", "k")
        in_json.start("distributor", "d", "--coordinator", "k")
        in_json.start("worker", "w1", *worker)
        for_people.start("worker", "w2", *worker)
        with AgentClient(redis_config, a2a, "k", "c") as client:
            strange = Task(task_id="strange", task_type="say", payload=HOSTILE, capabilities=(HOSTILE[:200],))
            client.submit(strange, 90)  # nobody can do it: that it waits, and for what, is shown
            ids = client.submit_many(
                [Task(task_type="say", payload=HOSTILE, metadata={HOSTILE: HOSTILE}) for _ in range(8)]
                + [Task(task_type="fail") for _ in range(8)]
            )
            ended = {task.task_id: task for task in client.as_completed(ids, 90)}
            refused = posted(redis_server)
            with redis_server.connect() as server:
                until(lambda: server.xlen(KEYS.agent.quarantine) == refused, "what is hostile is put aside")
            for name, value in {**redis_server.environment, **secret, "COORDINATOR_ID": "k"}.items():
                monkeypatch.setenv(name, value)
            failed = next(task_id for task_id, task in ended.items() if task.status == "failed")
            put_aside = json.loads(command_line("dlq list --quarantined --json"))
            shown = {
                command: command_line(command)
                for command in (
                    "tasks list", f"tasks show {ids[0]}", f"tasks show {failed}", "tasks show strange", "status",
                    "state show d", "state history d", "tasks list --json", f"tasks show {ids[0]} --json",
                    "state history d --json", "status --json", "doctor", "dlq list", "dlq list --quarantined",
                    f"dlq show {failed}", f"dlq replay {put_aside[0]['name']}",
                    *(f"dlq show --quarantined {letter['name']}" for letter in put_aside),
                    f"tasks wait {ids[0]}", f"tasks wait {failed}",
                )
            }  # fmt: skip
            client.cancel("strange")
        with redis_server.connect() as server:
            keys = server.keys("*")
        logs = {name: in_json.log(name) for name in ("k", "d", "w1", "w2")}

    assert ended[ids[0]].result == {HOSTILE: HOSTILE, "payload": HOSTILE}
    assert {task.status for task in ended.values()} == {"completed", "failed"}
    assert [key for key in keys if not KEY.fullmatch(key)] == []
    for name, log in logs.items():
        assert unprintable(log) <= {"\t"}, name
        assert not [line for line in starts_of_lines(log) if line.startswith(("FORGED", "12:00:00"))], name
    for name in ("d", "w1"):
        assert [line for line in logs[name].splitlines() if not is_json_or_marked(line)] == [], name
    assert "FORGED" in logs["w1"] + logs["w2"]
    assert "message rejected" in logs["k"]
    for command, text in shown.items():
        assert text, command
        assert unprintable(text) == set(), command
        indented = command.startswith(("tasks show", "tasks wait", "dlq show"))  # what was printed, line by line
        lines = text.splitlines() if indented else starts_of_lines(text)
        assert not [line for line in lines if line.startswith(("FORGED", "12:00:00", '{"level'))], command


def is_json_or_marked(line: str) -> bool:
    """A line of the agent, or of user code under its task's id."""
    return "time" in json.loads(line) if line.startswith("{") else re.match(r"\[task-[0-9a-f]{20}\] ", line) is not None
