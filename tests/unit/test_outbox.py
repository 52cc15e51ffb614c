"""What an agent says, as commands."""

from __future__ import annotations

import pytest

from core.ports import Command
from core.redis_backend.keys import CoordinatorKeys
from core.roles import Action, Address, Role
from core.runtime.outbox import EXTENDED_AFTER_MS, REPLIES_TTL_S, Outbox
from core.signing import KeyRing
from core.step import Sending, Step
from tests.builders import CLIENT, COORDINATOR, SECRET

OTHER = Address(Role.CLIENT, "other")
NOW_MS = 1_700_000_000_000


@pytest.fixture
def outbox() -> Outbox:
    chain = (COORDINATOR,)
    return Outbox(chain, KeyRing.from_secret(SECRET, chain))


def extensions(outbox: Outbox, now_ms: int, *clients: Address) -> list[Command]:
    """The commands that set a time to live, of an answer to each of `clients`."""
    step = Step()
    for client in clients:
        step.extras[Sending(client, Action.TASK_ACCEPTED)] = {"accepted": 1}
    return [command for command in outbox.commands(step, now_ms) if command[0] == "EXPIRE"]


def extension(client: Address) -> Command:
    return ("EXPIRE", CoordinatorKeys(COORDINATOR.agent_id).replies(client), REPLIES_TTL_S)


def test_the_first_reply_gives_a_stream_its_time_to_live_and_so_does_the_first_after_a_while(outbox: Outbox) -> None:
    answered_ms = [0, 1, EXTENDED_AFTER_MS - 1, EXTENDED_AFTER_MS, EXTENDED_AFTER_MS + 1, 2 * EXTENDED_AFTER_MS]

    extended = [bool(extensions(outbox, NOW_MS + ms, CLIENT)) for ms in answered_ms]

    assert extended == [True, False, False, True, False, True]


def test_each_stream_has_a_time_to_live_of_its_own(outbox: Outbox) -> None:
    assert extensions(outbox, NOW_MS, CLIENT) == [extension(CLIENT)]
    assert extensions(outbox, NOW_MS + 1, CLIENT, OTHER) == [extension(OTHER)]


def test_a_clock_that_was_set_back_leaves_no_stream_without_its_time(outbox: Outbox) -> None:
    extensions(outbox, NOW_MS + 3600_000, CLIENT)

    assert extensions(outbox, NOW_MS, CLIENT) == [extension(CLIENT)]


def test_clients_that_are_gone_are_forgotten(outbox: Outbox) -> None:
    for number in range(100):
        extensions(outbox, NOW_MS + number, Address(Role.CLIENT, f"c{number}"))

    extensions(outbox, NOW_MS + 2 * EXTENDED_AFTER_MS, CLIENT)

    assert len(outbox._extended_ms) == 1
