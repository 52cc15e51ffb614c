"""The budgets of tasks, as their worker counts them in Redis for all their runs, wherever those are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from core.budget import KINDS, NANO, OUTPUT_TOKENS, Grants, Reservation, Settlement
from core.checkpoints.connection import GroupedConnection
from core.config.model_prices import Prices
from core.errors import BadTask, BudgetExhausted, ServerRefused, TransportDown
from core.ports import Connection
from core.redis_backend.bounded_reads import name_of
from core.redis_backend.budget_scripts import RENEW, RESERVE, SCRIPTS, SETTLE
from core.redis_backend.clock import monotonic_s

__all__ = ["Accounts"]

#: Seconds between two times that calls under way are told to be, and milliseconds without that, since their worker has
#: died, after which nobody waits any more for what they may leave.
RENEWED_S, SILENT_MS = 10.0, 30 * 1000
#: Milliseconds after which what such a call has used counts no more, should it be told yet. A call that takes longer is
#: not told to be under way any more: its run may have cancelled it without a word.
CALL_MS = 10 * 60 * 1000

#: Seconds before what is released is tried again after an outage.
PAUSE_S = 1.0

_packed = msgspec.msgpack.Encoder().encode


class _Call(NamedTuple):
    asked: Reservation
    since_s: float  #: monotonic time


class Accounts:
    """Lives on one event loop."""

    def __init__(self, open_connection: Callable[[], Connection], key: str, prices: Prices) -> None:
        """`key`: of the hash with the ledgers of the hierarchy."""
        self._connection = GroupedConnection(open_connection, SCRIPTS)
        self._key = key
        self._prices = prices
        self._open: dict[str, _Call] = {}  #: by id of the call: what may be reserved, and is not settled
        self._releasing: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def reserve(self, asked: Reservation) -> bool:
        """Whether the call may be made. If not, calls under way may leave enough for it: it is asked for again then.

        Raises BudgetExhausted; BadTask: a budget limits the cost, and the price of the model is not known;
        TransportDown: it may have been reserved, and is asked for again with the same id."""
        wanted_out = asked.output_tokens if asked.output_tokens is not None else OUTPUT_TOKENS
        need = 1, max(1, asked.input_tokens), self._cost(asked, 0)
        want = 1, need[1] + wanted_out, self._cost(asked, wanted_out)
        budgets = [(task_id, budget.limits) for task_id, budget in asked.grants]
        arguments = (
            asked.task_id, asked.attempt, asked.call_id, CALL_MS, _packed(need), _packed(want), _packed(budgets),
            SILENT_MS,
        )  # fmt: skip
        self._open[asked.call_id] = _Call(asked, monotonic_s())  # before it is known, since the run may be over by then
        reply = await self._run(RESERVE, asked.grants, *arguments)
        if reply == [b"reserved"]:
            if self._renewing is None:
                self._renewing = asyncio.get_running_loop().create_task(self._renew())
            return True
        self._has_ended(asked.call_id)
        if len(reply) > 1:
            raise _exhausted(asked.grants, *reply)
        return False

    async def settle(self, used: Settlement) -> None:
        """Counts what a call has used instead of what was reserved for it. Raises TransportDown: ask again."""
        cost = self._prices.cost(used.model, used.input_tokens, used.output_tokens) or 0
        told = _packed((1, used.input_tokens + used.output_tokens, cost)) if used.known else b""
        await self._run(SETTLE, used.grants, used.call_id, told)
        self._has_ended(used.call_id)

    def run_is_over(self, task_id: str, attempt: int) -> None:
        """Has nobody wait for the calls of a run that is over, or has died with its host. What is still reserved for
        them counts as spent, since nobody knows what they have cost."""
        calls = (call.asked for call in self._open.values())
        left = [each for each in calls if (each.task_id, each.attempt) == (task_id, attempt)]
        if left:
            releasing = asyncio.get_running_loop().create_task(self._release(left))
            self._releasing.add(releasing)
            releasing.add_done_callback(self._releasing.discard)

    async def _release(self, left: Sequence[Reservation]) -> None:
        for each in left:
            spent = Settlement(each.call_id, each.grants, each.model, 0, 0, known=False)
            while each.call_id in self._open:
                try:
                    await self.settle(spent)
                except TransportDown:
                    await asyncio.sleep(PAUSE_S)
                except ServerRefused:
                    self._has_ended(each.call_id)  # then nobody waits for it after SILENT_MS

    async def _renew(self) -> None:
        """Says from time to time which calls are under way. A time that fails is left out."""
        while True:
            await asyncio.sleep(RENEWED_S)
            begun_s = monotonic_s() - CALL_MS / 1000
            young = [call.asked for call in self._open.values() if call.since_s >= begun_s]
            for _, of_root in groupby(sorted(young, key=_root), key=_root):
                calls = list(of_root)
                with suppress(TransportDown, ServerRefused):
                    await self._run(RENEW, calls[0].grants, _packed([each.call_id for each in calls]))

    def _has_ended(self, call_id: str) -> None:
        self._open.pop(call_id, None)
        if self._renewing is not None and not self._open:
            self._renewing.cancel()
            self._renewing = None

    async def close(self) -> None:
        """Closes the connection; the next call opens it again."""
        for going_on in (*self._releasing, *filter(None, [self._renewing])):
            going_on.cancel()
        self._renewing = None
        await self._connection.close.aio()

    async def _run(self, script: str, grants: Grants, *arguments: str | int | bytes) -> Any:
        command = ("EVALSHA", name_of(script), 1, self._key, grants[0][0], *arguments)
        [reply] = await self._connection.run(command)
        return reply

    def _cost(self, asked: Reservation, output_tokens: int) -> int:
        cost = self._prices.cost(asked.model, max(1, asked.input_tokens), output_tokens)
        limited = [task_id for task_id, budget in asked.grants if budget.cost_usd is not None]
        if cost is None and limited:
            raise BadTask(
                f"the budget of {limited[0]!r} limits what models cost, and no price of {asked.model!r} is known: name"
                " it, or '*' for all others, in the file that MODEL_PRICES names"
            )
        return cost or 0


def _root(reserved: Reservation) -> str:
    """The id of the task that has the outermost budget."""
    return reserved.grants[0][0]


def _exhausted(grants: Grants, budget_id: bytes, kind: int, spent: int) -> BudgetExhausted:
    task_id = budget_id.decode()
    limit = dict(grants)[task_id].limits[kind]
    part, what = (NANO, "US dollars") if KINDS[kind] == "cost_usd" else (1, KINDS[kind])
    return BudgetExhausted(f"the budget of task {task_id!r} is spent: {spent / part:g} of {limit / part:g} {what}")
