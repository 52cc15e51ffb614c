"""Redis users that may do what their role does, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.redis_backend.keys import ACTIVE, CellKeys, CoordinatorKeys
from core.roles import Address, Role
from core.tasks import Task
from tests.faults.machines import COORDINATOR, ROOT, Machines
from tests.waiting import until

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

#: Larger than what is read at once.
TOO_LARGE = 14 * 1024 * 1024
#: What a client asks first and, when its user may not, goes without.
OF_CLIENTS_IN_VAIN = {"hmget", "smembers", "zcard", "hgetall"}


def steps(count: int, ms: int) -> list[Task]:
    return [Task(task_type="step", payload={"number": number, "ms": ms}) for number in range(count)]


def denied(server: RedisServer) -> list[tuple[str, str]]:
    """What the agents' users were refused: who, and the command or the key."""
    with server.connect() as admin:
        log = admin.execute_command("ACL LOG", 128)
    found = []
    for entry in log:
        said = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
        who, what = (said.get(name, said.get(name.encode())) for name in ("username", "object"))
        found.append((_text(who), _text(what)))
    return [refusal for refusal in found if not (refusal[0].startswith("client:") and refusal[1] in OF_CLIENTS_IN_VAIN)]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def test_a_hierarchy_lives_its_whole_life_on_the_keys_and_users_that_are_printed(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody but the first coordinator has the root; and nobody was refused anything by the server."""
    processes, server = machines.processes, machines.server
    with server.connect() as admin:
        admin.execute_command("ACL LOG", "RESET")
    for name, whose in [("k", ""), ("d1", ""), ("d2", ""), ("w1", "d1"), ("w2", "d1"), ("w3", "d2")]:
        machines.start(name, whose)
    for name in ("k", "d1"):
        machines.acts(name)
        machines.start(f"{name}b")
    machines.heard("d1", "w1", "w2")
    machines.heard("d2", "w3")

    with machines.client("alice") as alice:
        early = alice.submit_many([Task(task_type="tree"), Task(task_type="flaky")])
        assert {task.result for task in alice.as_completed(early, 20)} == {3, 2}
        letter, other = alice.submit_many([Task(task_type="fail"), Task(task_type="fail")])
        assert {task.status for task in alice.as_completed([letter, other], 20)} == {"failed"}
        again = alice.replay(other)
        assert alice.result(again, 20).status == "failed"
        assert alice.purge_dead_letter(again)
        lingering = alice.submit(Task(task_type="linger"))
        alice.cancel(lingering)
        assert alice.result(lingering, 20).status == "cancelled"

        with server.connect() as admin:  # each looks for the script by its name
            for keys in (machines.keys("k"), machines.keys("d1"), machines.keys("w2", "d1")):
                admin.xadd(keys.inbox, {"body": b"x" * TOO_LARGE})
        ids = alice.submit_many(steps(60, ms=30))
        processes.kill("w1")
        machines.start("w1", "d1")
        processes.kill("d1")
        machines.acts("d1b")
        processes.kill("k")
        machines.acts("kb")
        processes.kill("d2")
        ids += alice.submit_many(steps(20, ms=5))
        assert len(list(alice.as_completed(ids, 20))) == 80

        look_around(machines, monkeypatch, letter)
    for name in ("w1", "w2", "w3", "d1b", "kb"):
        processes.terminate(name)
        assert processes.wait(name) == 0, processes.log(name)
    assert machines.said("kb", "tasks_moved") == 1
    assert denied(server) == []


def look_around(machines: Machines, monkeypatch: pytest.MonkeyPatch, letter: str) -> None:
    """All that operators look at and do: one with a key of its own, then one where the root is."""
    user = machines.user("operator", "ops")
    own = {**dict.fromkeys(ROOT, ""), "A2A_AGENT_KEY": machines.key("operator", "ops"), "A2A_CLIENT_ID": "operator:ops"}
    with monkeypatch.context() as environment:
        for name, value in {**user, **own}.items():
            environment.setenv(name, value)
        assert '"d2"' in machines.agents("status --json")
        assert letter in machines.agents("tasks list --status failed")
        assert "always" in machines.agents("dlq list")
        assert '"FROM"' not in machines.agents("dlq list --quarantined --json")
        assert "cannot be checked here" in machines.agents(f"dlq show {letter}")
        assert "distributor's version" in machines.agents("state show d1")
        assert "append-only file" in machines.agents("doctor")
        assert f"{letter}.replay1" in machines.agents(f"dlq replay {letter}")
    with monkeypatch.context() as environment:
        for name, value in user.items():
            environment.setenv(name, value)
        assert "bob is revoked" in machines.agents("key revoke client bob")
        assert "good" in machines.agents("key revoked")


ALICE, ALICE2, BOB = (Address(Role.CLIENT, f"{name}~1") for name in ("alice", "alice2", "bob"))
K, D1, D2 = CoordinatorKeys(COORDINATOR), CellKeys("d1"), CellKeys("d2")
W1, W10 = D1.worker("w1"), D1.worker("w10")
EVERYWHERE: list[tuple[object, ...]] = [
    ("FLUSHALL",), ("KEYS", "*"), ("SCAN", 0), ("CONFIG", "GET", "requirepass"), ("CONFIG", "SET", "save", ""),
    ("SCRIPT", "FLUSH"), ("EVAL", "while true do end", 0), ("EVALSHA", "0" * 40, 0), ("ACL", "LIST"), ("MONITOR",),
    ("SHUTDOWN",), ("CLIENT", "LIST"), ("SAVE",), ("REPLICAOF", "NO", "ONE"),
    ("FUNCTION", "LIST"), ("SUBSCRIBE", D1.changes), ("GET", "something else"), ("SET", "something else", 1),
    ("DEL", ACTIVE), ("RENAME", K.tasks, K.open), ("APPEND", K.revoked, "x"), ("DEL", K.revoked),
]  # fmt: skip
REFUSED: dict[tuple[str, ...], list[tuple[object, ...]]] = {
    ("worker", "w1", "d1"): [
        ("XREAD", "STREAMS", W10.inbox, 0), ("XADD", W10.inbox, "*", "f", "v"), ("SET", W10.lease, "{}"),
        ("DEL", W10.lease), ("HSET", W10.header, "epoch", 1), ("HGETALL", W10.seen),
        ("XREAD", "STREAMS", D1.inbox, 0), ("XDEL", D1.inbox, "1-1"), ("XTRIM", D1.inbox, "MAXLEN", 0),
        ("DEL", D1.inbox), ("SET", D1.lease, "{}"), ("INCR", D1.fence), ("HGETALL", D1.heartbeats),
        ("DEL", D1.heartbeats), ("HGETALL", D1.actual), ("HSET", D1.actual, "t", "{}"), ("HDEL", D1.wanted, "t"),
        ("HSET", D1.header, "status", "x"), ("HSET", K.tasks, "t", "{}"), ("HDEL", K.tasks, "t"),
        ("HGETALL", K.tasks), ("XADD", K.inbox, "*", "f", "v"), ("XADD", K.replies(ALICE), "*", "f", "v"),
        ("XREAD", "STREAMS", K.replies(ALICE), 0), ("HSET", K.heartbeats, "d1", "x"), ("SET", K.agent.lease, "{}"),
        ("XADD", D2.inbox, "*", "f", "v"), ("HSET", D2.heartbeats, "w1", "x"), ("SMEMBERS", ACTIVE),
        ("PUBLISH", D1.changes, "x"), ("XREVRANGE", D1.agent(COORDINATOR).quarantine, "+", "-"),
    ],
    ("distributor", "d1"): [
        ("SET", K.agent.lease, "{}"), ("HSET", K.tasks, "t", "{}"), ("HMGET", K.tasks, "t"), ("XDEL", K.inbox, "1-1"),
        ("XREAD", "STREAMS", K.inbox, 0), ("HGETALL", K.heartbeats), ("XADD", K.replies(ALICE), "*", "f", "v"),
        ("HSET", D1.wanted, "t", "x"), ("SET", W1.lease, "{}"), ("HSET", W1.header, "epoch", 1), ("DEL", W1.inbox),
        ("HGETALL", D2.actual), ("SET", D2.lease, "{}"), ("XADD", D2.inbox, "*", "f", "v"), ("DEL", D2.header),
        ("XADD", D2.worker_inbox("w3"), "*", "f", "v"), ("PUBLISH", D2.changes, "x"),
    ],
    ("coordinator", COORDINATOR): [
        ("HSET", CoordinatorKeys("other").tasks, "t", "{}"), ("SET", CoordinatorKeys("other").agent.lease, "{}"),
        ("XREAD", "STREAMS", D1.inbox, 0), ("XADD", W1.inbox, "*", "f", "v"), ("SET", W1.lease, "{}"),
        ("HSET", W1.header, "epoch", 1), ("XREAD", "STREAMS", K.replies(ALICE), 0),
    ],
    ("client", "alice"): [
        ("XREAD", "STREAMS", K.replies(BOB), 0), ("XREAD", "STREAMS", K.replies(ALICE2), 0),
        ("XTRIM", K.replies(BOB), "MAXLEN", 0), ("XADD", K.replies(BOB), "*", "f", "v"),
        ("XADD", K.replies(ALICE), "*", "f", "v"), ("XREAD", "STREAMS", K.inbox, 0), ("XDEL", K.inbox, "1-1"),
        ("HMGET", K.tasks, "t"), ("HSET", K.tasks, "t", "{}"), ("HGETALL", K.submissions), ("DEL", K.mark(ALICE)),
        ("HGETALL", D1.actual), ("SET", K.agent.lease, "{}"), ("SMEMBERS", ACTIVE), ("XADD", D1.inbox, "*", "f", "v"),
    ],
    ("operator", "ops"): [
        ("HSET", K.tasks, "t", "{}"), ("XDEL", K.inbox, "1-1"), ("DEL", K.agent.lease), ("HSET", D1.actual, "t", "{}"),
        ("XADD", D1.inbox, "*", "f", "v"), ("SREM", ACTIVE, "x"), ("HGETALL", CoordinatorKeys("other").tasks),
    ],
}  # fmt: skip


@pytest.mark.parametrize("who", REFUSED, ids=lambda who: who[0])
def test_the_user_of_one_role_is_refused_what_belongs_to_others(machines: Machines, who: tuple[str, ...]) -> None:
    user = machines.user(*who)
    commands = [*EVERYWHERE, *REFUSED[who]]
    if who[0] == "operator":
        commands.remove(("APPEND", K.revoked, "x"))

    with entered(machines.server, user) as session:
        assert session.ping()
        allowed = [command for command in commands if not is_denied(session, command)]

    assert allowed == []


def entered(server: RedisServer, user: dict[str, str]) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(server.socket), username=user["REDIS_USERNAME"], password=user["REDIS_PASSWORD"],
        retry=Retry(NoBackoff(), 0),
    )  # fmt: skip


def is_denied(session: Any, command: Sequence[Any]) -> bool:
    try:
        session.execute_command(*command)
    except redis.exceptions.NoPermissionError:
        return True
    except redis.ResponseError as error:
        return "permission" in str(error)
    return False


def test_nobody_enters_as_a_user_for_whom_no_password_was_given(machines: Machines) -> None:
    [line] = [line for line in machines.agents("acl client alice").splitlines() if line.startswith("ACL SETUSER")]
    with machines.server.connect() as admin:
        admin.execute_command(*line.split())
    user = {"REDIS_USERNAME": line.split()[2], "REDIS_PASSWORD": ""}

    with pytest.raises(redis.AuthenticationError), entered(machines.server, user) as session:
        session.ping()


def test_a_worker_whose_user_is_deleted_is_out_at_once(machines: Machines) -> None:
    """What a revocation is followed by."""
    user = machines.user("worker", "w1", "d1")
    with entered(machines.server, user) as session, machines.server.connect() as admin:
        assert session.ping()
        admin.acl_deluser(user["REDIS_USERNAME"])

        until(lambda: is_out(session), "it is out")


def is_out(session: redis.Redis) -> bool:
    try:
        session.ping()
    except (redis.ConnectionError, redis.AuthenticationError):
        return True
    return False
