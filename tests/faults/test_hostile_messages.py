"""Input that must not be acted on, however it was made: forged, too large, not JSON, or full of control characters."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from core.config.settings import RedisConfig
from core.redis_backend.clock import ServerClock
from core.redis_backend.keys import CellKeys, CoordinatorKeys
from core.redis_client import Wire
from core.reports import task_id_in
from core.roles import Action, Address, Role
from core.runtime.inbox import Inbox
from core.signing import KeyRing, Signed
from tests.builders import SECRET, a_task
from tests.faults.json_suite import SUITE
from tests.faults.keyspace import rejections, state_of
from tests.integration.hierarchy import House, add, house
from tests.integration.speaker import Speaker
from tests.process_memory import root_only
from tests.tiers import Tiers
from tests.waiting import until_async

Redis = Any  # the types of redis-py tell neither bytes from text nor all of its commands

K, D, W = (Address(role, name) for role, name in [(Role.COORDINATOR, "k"), (Role.DISTRIBUTOR, "d"), (Role.WORKER, "w")])
C = Address(Role.CLIENT, "c~1")
CHAINS = {K: (K,), D: (K, D), W: (K, D, W), C: (K, C)}
KEYS, CELL = CoordinatorKeys("k"), CellKeys("d")
INBOX = {K: KEYS.inbox, D: CELL.inbox, W: CELL.worker_inbox("w"), C: KEYS.replies(C)}
#: Every link of the chain of command, and what is said on it.
LINKS = [
    (C, K, Action.SUBMIT_TASK), (K, C, Action.TASK_RESULT), (K, D, Action.ASSIGN_TASK), (D, K, Action.TASK_RESULT),
    (D, W, Action.ASSIGN_TASK), (W, D, Action.TASK_RESULT),
]  # fmt: skip

Fields = dict[bytes, bytes]


def speaker(client: Redis, sender: Address, recipient: Address) -> Speaker:
    """Somebody who can sign as `sender`, under an incarnation that replaces the real one's."""
    return Speaker(client, CHAINS[sender], recipient, INBOX[recipient], incarnation=int(time.time() * 1000) + 3_600_000)


def fields_of(signed: Signed) -> Fields:
    fields = signed.fields()
    return dict(zip(fields[::2], fields[1::2], strict=True))


def coordinators_inbox(wire: Wire) -> Inbox:
    signing = KeyRing.from_secret(SECRET, CHAINS[K])
    return Inbox(wire, K, signing, KEYS.agent, ServerClock(), freshness_ms=600_000, limit_bytes=4 * 1024 * 1024)


@pytest.fixture
async def agents(redis_config: RedisConfig) -> AsyncIterator[House]:
    async with house(redis_config) as opened:
        yield opened


# ---- forged ----


def flipped(fields: Fields, chance: random.Random) -> Iterator[Fields]:
    """Every byte of every field, with one of its bits changed; of the short fields every bit."""
    for name, value in fields.items():
        for at in range(len(value)):
            bits = range(8) if name != b"body" else [chance.randrange(8)]
            for bit in bits:
                changed = bytearray(value)
                changed[at] ^= 1 << bit
                yield {**fields, name: bytes(changed)}


def spoilt_tags(fields: Fields) -> Iterator[Fields]:
    """Tags that are cut, too long, empty, of another spelling; and what other protocols take for no signature."""
    tag = fields[b"sig"]
    for length in range(64):
        yield {**fields, b"sig": tag[:length]}
    for other in (
        tag + b"0",
        tag * 2,
        tag.upper(),
        b" " + tag[1:],
        bytes.fromhex(tag.decode()),
        b"0" * 64,
        b"\xff" * 64,
    ):
        yield {**fields, b"sig": other}
    for none in (b"none", b"None", b"NONE", b"null", b"", b"HS256", b"0" * 8):
        yield {**fields, b"sig": none}
        yield {**fields, b"kid": none}
        yield {**fields, b"kid": none, b"sig": b""}


def scrambled(fields: Fields, chance: random.Random) -> Iterator[Fields]:
    """Without end: bytes replaced, inserted, cut out, exchanged between fields."""
    names = list(fields)
    while True:
        changed = dict(fields)
        for name in chance.sample(names, chance.randint(1, 2)):
            value = bytearray(changed[name])
            at, length = chance.randrange(len(value)), chance.randint(1, 8)
            match chance.randrange(3):
                case 0:
                    value[at : at + length] = chance.randbytes(length)
                case 1:
                    value[at:at] = chance.randbytes(length)
                case _:
                    del value[at : at + length]
            changed[name] = bytes(value)
        if changed != fields:
            yield changed


def foreign_tags(body: bytes, sender: Address, recipient: Address) -> Iterator[Fields]:
    """The same message, rightly signed by somebody who is not its sender, for somebody else, or with another secret."""
    said = KeyRing.from_secret(SECRET, CHAINS[sender]).sign(body, recipient)
    for secret in (b"another root secret, 32 bytes long", b"", SECRET + b" "):
        wrong = KeyRing.from_secret(secret or b"\0", CHAINS[sender]).sign(body, recipient)
        yield fields_of(wrong)
        yield {**fields_of(wrong), b"kid": said.key_id.encode()}
    for other_sender, other_recipient, _ in LINKS:
        if (other_sender, other_recipient) != (sender, recipient):
            other = KeyRing.from_secret(SECRET, CHAINS[other_sender]).sign(body, other_recipient)
            yield {**fields_of(other), b"from": str(sender).encode()}
            yield fields_of(other)


def mutations(signed: Signed, recipient: Address, count: int, chance: random.Random) -> list[Fields]:
    """`count` messages that nobody has signed; the last ones at random."""
    fields = fields_of(signed)
    found = [*foreign_tags(signed.body, signed.sender, recipient), *spoilt_tags(fields), *flipped(fields, chance)]
    for _, mutation in zip(range(count - len(found)), scrambled(fields, chance), strict=False):
        found.append(mutation)
    return found


async def post(client: Redis, stream: str, entries: list[Fields]) -> None:
    pipeline = client.pipeline(transaction=False)
    for fields in entries:
        pipeline.xadd(stream, fields)
    await pipeline.execute()


@pytest.fixture
def unheard(caplog: pytest.LogCaptureFixture) -> None:
    """Without a line in the report for every message that is rejected."""
    caplog.set_level(logging.ERROR)


@pytest.mark.matrix(26)
@pytest.mark.usefixtures("unheard")
async def test_of_10_000_forged_messages_none_is_taken_and_none_ends_the_reader(
    redis_config: RedisConfig, client: Redis
) -> None:
    friend = speaker(client, C, K)
    tasks = [orjson.loads(a_task("forged").to_json())]
    good = await friend.signed(Action.SUBMIT_TASK, tasks=tasks)
    forged = mutations(good, K, 10_000, random.Random(26))
    await post(client, KEYS.inbox, forged)
    await friend.post(good)
    wire = Wire(redis_config)
    inbox = coordinators_inbox(wire)

    taken = []
    while await client.xlen(KEYS.inbox):
        taken += inbox.verify(await inbox.read(), 1)
        await wire.exchange(inbox.settle(now_ms=0))
    await wire.close()

    assert [message.message.encode() for message in taken] == [good.body]
    assert sum(inbox.rejected.values()) == len(forged) >= 10_000
    # The last: said by a distributor under its own name, with the client's message inside.
    assert set(inbox.rejected) == {"bad_signature", "unknown_key", "malformed", "not_permitted"}
    assert set(await state_of(client)) == {KEYS.agent.seen}  # of the good one


@pytest.mark.matrix(26)
@pytest.mark.usefixtures("unheard")
async def test_forged_messages_change_nothing_in_any_tier_nor_in_a_client(agents: House, client: Redis) -> None:
    await agents.coordinator()
    await agents.distributor()
    worker = await agents.worker()
    submitter = await agents.client("c~1")
    await submitter.submit.aio(add("before", 1, 2))
    assert await submitter.value.aio("before", 20) == 3
    await until_async(lambda: worker.loop.outbox.sent, "the worker has reported")
    await settled(client)
    before = await state_of(client)
    chance = random.Random(26)
    posted = 0

    for sender, recipient, action in LINKS:
        tasks = [orjson.loads(a_task("forged").to_json())]
        good = await speaker(client, sender, recipient).signed(action, tasks=tasks)
        forged = chance.sample(mutations(good, recipient, 0, chance), 100)
        await post(client, INBOX[recipient], forged)
        posted += len(forged) if recipient != C else 0
    await until_async(lambda: _count(client, posted), "all are put aside")

    reply_stream = KEYS.replies(C)
    after = await state_of(client)
    before.pop(reply_stream, None)
    after.pop(reply_stream, None)  # what lies there was put there; the client has passed over it:
    assert after == before
    await submitter.submit.aio(add("after", 1, 2))
    assert await submitter.value.aio("after", 20) == 3
    assert agents.runs == {"before": 1, "after": 1}


async def _count(client: Redis, count: int) -> bool:
    return len(await rejections(client)) == count


async def settled(client: Redis) -> None:
    """Returns when nothing is under way: no inbox holds anything."""
    inboxes = [INBOX[K], INBOX[D], INBOX[W]]

    async def empty() -> bool:
        return not any([await client.xlen(key) for key in inboxes])

    await until_async(empty, "every inbox is empty")


# ---- too large, too deep, no JSON ----

HUGE = 50 * 1024 * 1024


def with_payload(good: bytes, payload: bytes) -> bytes:
    """A body whose task has `payload`, as it stands."""
    return good.replace(b'"PAYLOAD"', payload)


BOMBS: dict[str, bytes] = {
    "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects nested 20,000 deep": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "nested 500 deep": b"[" * 500 + b"]" * 500,
    "an integer of 100,000 digits": b"1" * 100_000,
    "not a number": b"NaN",
    "infinity": b"-Infinity",
    "a float that overflows": b"1e400",
    "a lone surrogate": b'"\\ud800"',
    "a surrogate as bytes": b'"\xed\xa0\x80"',
    "a name twice": b'{"a":1,"a":2}',
    "a name twice, spelt differently": b'{"a":1,"\\u0061":2}',
    "invalid UTF-8": b'"\xff"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "300 KiB of no JSON": b"x" * 300 * 1024,
}


@dataclass
class Memory:
    """Of a process, in MiB."""

    pid: int

    def resident(self) -> float:
        return self._read("VmRSS")

    def peak(self) -> float:
        return self._read("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _read(self, name: str) -> float:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


@pytest.mark.matrix(29)
@root_only
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from /proc")
async def test_what_is_too_large_too_deep_or_no_json_is_put_aside_within_64_mib_while_the_neighbours_are_served(
    agents: House, redis_config: RedisConfig, client: Redis, tmp_path: Path
) -> None:
    with Tiers(redis_config, tmp_path, A2A_TOKEN_SECRET=SECRET.decode()) as tiers:
        tiers.start("coordinator", "k")
        await agents.distributor()
        await agents.worker()
        neighbour = await agents.client()
        assert await neighbour.value.aio(await neighbour.submit.aio(add("before", 1, 2)), 30) == 3
        memory = Memory(tiers.pid("k"))
        memory.forget_peak()
        before_mib = memory.resident()
        enemy = speaker(client, C, K)

        for size in (HUGE, HUGE, HUGE):
            await client.xadd(KEYS.inbox, {**fields_of(await enemy.signed("x")), b"body": b"[" * size})
        large = [{**orjson.loads(a_task("large").to_json()), "payload": "x" * 300 * 1024}]
        await enemy.say(Action.SUBMIT_TASK, tasks=large)
        bombed = [{**orjson.loads(a_task("bomb").to_json()), "payload": "PAYLOAD"}]
        for bomb in BOMBS.values():
            good = await enemy.signed(Action.SUBMIT_TASK, tasks=bombed)
            await enemy.say(Action.SUBMIT_TASK, body=with_payload(good.body, bomb))
        ids = await neighbour.submit_many.aio([add(f"meanwhile-{n}", n, 1) for n in range(50)])
        ended = [task async for task in neighbour.as_completed(ids, 30)]
        await until_async(lambda: _count(client, 3 + len(BOMBS)), "all are put aside")
        peak_mib = memory.peak()

        assert {task.status for task in ended} == {"completed"}
        assert sorted(await rejections(client)) == ["malformed"] * len(BOMBS) + ["too_large"] * 3
        assert {task_id.decode() for task_id in await client.hkeys(KEYS.tasks)} == {"before", *ids}
        assert peak_mib - before_mib < 64
        assert tiers.runs("k")


@pytest.mark.matrix(29)
@pytest.mark.usefixtures("unheard")
async def test_good_messages_that_are_too_much_together_are_taken_one_by_one_beside_what_is_too_large(
    redis_config: RedisConfig, client: Redis
) -> None:
    friend = speaker(client, C, K)
    for number in range(8):
        payload = "x" * 3 * 1024 * 1024
        await friend.say(Action.SUBMIT_TASK, tasks=[{"task_id": f"t{number}", "payload": payload}])
        await client.xadd(
            KEYS.inbox, {**fields_of(await friend.signed("x")), b"body": b"[" * HUGE if number == 3 else b""}
        )
    wire = Wire(redis_config)
    inbox = coordinators_inbox(wire)

    taken: list[str] = []
    while len(taken) < 8:
        taken += [task_id_in(message.message.tasks[0]) or "" for message in inbox.verify(await inbox.read(), 1)]
    await wire.close()

    assert taken == [f"t{number}" for number in range(8)]
    assert inbox.rejected == {"too_large": 1, "bad_signature": 7}


# ---- texts that are no JSON ----


@pytest.mark.matrix(30)
@pytest.mark.usefixtures("unheard")
async def test_every_text_that_is_no_json_is_rejected_and_every_other_accepted_as_the_payload_of_a_task(
    agents: House, client: Redis
) -> None:
    """Rightly signed, so that it is the parser that must refuse; once as a whole body, once inside a good one."""
    await agents.coordinator()
    friend = speaker(client, C, K)
    ids = {name: f"json-{index}" for index, name in enumerate(SUITE)}
    for name, text in SUITE.items():
        task = {"task_id": ids[name], "task_type": "json", "payload": "PAYLOAD"}
        good = await friend.signed(Action.SUBMIT_TASK, tasks=[task])
        signing = KeyRing.from_secret(SECRET, CHAINS[C])
        await friend.post(signing.sign(with_payload(good.body, text), K))
        await friend.post(signing.sign(text, K))

    await friend.submit("afterwards")
    await until_async(lambda: client.hexists(KEYS.tasks, "afterwards"), "the coordinator has come to the last one")

    known = {task_id.decode() for task_id in await client.hkeys(KEYS.tasks)}
    verdicts = {name: task_id in known for name, task_id in ids.items()}
    assert [name for name, accepted in verdicts.items() if name[0] == "y" and not accepted] == []
    assert [name for name, accepted in verdicts.items() if name[0] == "n" and accepted] == []
    refused = sum(not accepted for accepted in verdicts.values())
    assert await client.hget(KEYS.header, "rejected:malformed") == b"%d" % (refused + len(SUITE))


@pytest.mark.matrix(30)
def test_the_suite_has_texts_of_every_kind() -> None:
    assert len(SUITE) >= 240
    assert min(sum(name[0] == kind for name in SUITE) for kind in "yni") >= 10
