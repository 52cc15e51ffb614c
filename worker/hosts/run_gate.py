"""What the calls of models of one run pass: the limits of the fleet, and the budgets of its task. Its worker counts
both, so the calls travel over the socket of the host."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from random import random
from typing import Any

from core.backoff import Backoff
from core.budget import Grants, Reservation, Settlement
from core.errors import AgentSystemError, BadTask
from core.event_types import EventType
from core.model_limits import CallEnd, LimitedCall, Rates, names_of
from worker.authoring.context import Context
from worker.authoring.model_calls import ModelCall, Used
from worker.hosts.storage_calls import Remote

__all__ = ["CallLedger", "RunGate", "limit_gate"]

#: Seconds between two looks at whether calls under way have left enough of a budget.
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 1.0
#: Seconds after which a blocking call that waits is no longer counted among the threads that its host may have.
LENT_AFTER_S = 0.05


class CallLedger:
    """The calls to the worker of one run, from wherever its models are called."""

    def __init__(
        self, remote: Remote, loop: asyncio.AbstractEventLoop, lent_thread: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        """It is made in the thread of `loop`. `lent_thread`: for as long as it is entered, the host may have one thread
        more."""
        self.remote = remote
        self._loop = loop
        self._thread = threading.get_ident()
        self._lent_thread = lent_thread
        self._asked: set[Future[Any]] = set()
        self._forgetting: set[asyncio.Task[None]] = set()

    def wait(self, call: Coroutine[Any, Any, Any]) -> None:
        """Runs it on the loop of the host, and blocks this thread meanwhile. Raises BadTask on the loop itself;
        CancelledError: the run has ended."""
        if threading.get_ident() == self._thread:
            call.close()
            raise BadTask(
                "a model is called in a way that blocks the event loop, so that its limit or budget cannot be asked"
                " for: await model.ainvoke(...); or make the node a plain function, unless it runs in virtual time"
            )
        asked = self._begin(call)
        try:
            asked.result(LENT_AFTER_S)
        except TimeoutError:
            if asked.done():  # just now, or it has raised this itself
                asked.result()
                return
            with self._lent_thread():
                asked.result()

    async def go_on(self, call: Coroutine[Any, Any, Any]) -> None:
        """Runs it on the loop of the host, whatever loop this is."""
        if _running_loop() is self._loop:
            await call
        else:
            await asyncio.wrap_future(self._begin(call))

    def forget(self, call_id: str) -> None:
        """Has the worker forget a call that waits, since nobody wants to make it any more."""
        forgetting = self._loop.create_task(self._forget(call_id))
        self._forgetting.add(forgetting)
        forgetting.add_done_callback(self._forgetting.discard)

    def close(self) -> None:
        """Lets go all that wait in threads, since the run has ended."""
        for asked in list(self._asked):
            asked.cancel()

    def _begin(self, call: Coroutine[Any, Any, Any]) -> Future[Any]:
        asked = asyncio.run_coroutine_threadsafe(call, self._loop)
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        return asked

    async def _forget(self, call_id: str) -> None:
        await self.remote.ask("leave", call_id)


@dataclass(slots=True)
class RunGate:
    """A Gate (see worker.authoring.model_calls)."""

    ledger: CallLedger
    context: Context
    grants: Grants = ()
    limit: str = ""  #: the only limit to take from; empty: that of the model
    rates: Rates | None = None  #: what it allows, as code says
    _let_through: dict[str, CallEnd] = field(default_factory=dict, init=False)  #: by call, as if it had used nothing

    def enter(self, call: ModelCall) -> None:
        self.ledger.wait(self._enter(call))

    async def aenter(self, call: ModelCall) -> None:
        await self.ledger.go_on(self._enter(call))

    def leave(self, call: ModelCall, used: Used) -> None:
        self.ledger.wait(self._leave(call, used))

    async def aleave(self, call: ModelCall, used: Used) -> None:
        await self.ledger.go_on(self._leave(call, used))

    async def _enter(self, call: ModelCall) -> None:
        """Raises BudgetExhausted, BadTask."""
        await self._take(call)
        if self.grants:
            try:
                await self._reserve(call)
            except AgentSystemError:
                await self._settle(call, Used())
                raise

    async def _leave(self, call: ModelCall, used: Used) -> None:
        await self._settle(call, used)
        if self.grants:
            told = Settlement(
                call.call_id, self.grants, call.model, used.input_tokens, used.output_tokens, used.known
            )  # fmt: skip
            await self.ledger.remote.ask("settle", told)

    async def _take(self, call: ModelCall) -> None:
        names = (self.limit,) if self.limit else names_of(call.provider, call.model)
        asked = LimitedCall(call.call_id, self.context.task_id, names, call.tokens, self.rates)
        try:
            name = await self.ledger.remote.ask("take", asked)
        except asyncio.CancelledError:
            self.ledger.forget(call.call_id)
            raise
        if name:
            self._let_through[call.call_id] = CallEnd(call.call_id, name, call.tokens, 0)

    async def _settle(self, call: ModelCall, used: Used) -> None:
        if end := self._let_through.pop(call.call_id, None):
            tokens = used.input_tokens + used.output_tokens if used.known else None
            told = CallEnd(call.call_id, end.name, end.reserved, tokens, used.retry_after_ms)
            await self.ledger.remote.ask("settle_call", told)
            if told.frozen_ms:
                self.context.emit(EventType.MODEL_LIMIT_FROZEN, {"limit": told.name, "ms": told.frozen_ms})

    async def _reserve(self, call: ModelCall) -> None:
        """While calls under way may leave enough for it, it waits for those."""
        asked = Reservation(
            call_id=call.call_id,
            task_id=self.context.task_id,
            attempt=self.context.attempt,
            grants=self.grants,
            model=call.model,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
        )
        pauses = Backoff(FIRST_PAUSE_S, LAST_PAUSE_S)
        while not await self.ledger.remote.ask("reserve", asked):  # noqa: ASYNC110 - nobody tells when that is
            await asyncio.sleep(pauses.next(random()))  # not all at once, since only one may get what is left


def limit_gate(ledger: CallLedger, context: Context, name: str, rates: Rates) -> RunGate:
    """The gate of a limit that code has declared."""
    return RunGate(ledger, context, limit=name, rates=rates)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
