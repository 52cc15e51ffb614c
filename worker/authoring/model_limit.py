"""Limits of models that code declares."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

from core.model_limits import Bucket, Rates, rates_of, sound_name

if TYPE_CHECKING:
    from worker.authoring.model_calls import Gate, ModelCall, ModelCallbacks, Used

__all__ = ["ModelLimit", "fleet_gate"]

#: In a run of a worker: the gate of the limit of that name, which all workers share.
fleet_gate: ContextVar[Callable[[str, Rates], Gate]] = ContextVar("fleet_gate")


class ModelLimit:
    """What all workers of a coordinator together may call: `ModelLimit("openai", requests_per_minute=500)`, whose
    `wrap(model)` is the model with this limit.

    An operator who sets a limit of the same name (`agents limits set`) overrules these numbers. Calls that are not made
    by a graph in a worker, as in a script or a plain function, are limited for their process alone.

    Raises BadTask: the name cannot be one, or there is no number, or it is none.
    """

    def __init__(
        self, name: str, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None
    ) -> None:
        self.name = sound_name(name)
        self.rates = rates_of(requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute)
        self._here = _ProcessGate(self.rates)

    @cached_property
    def callback(self) -> ModelCallbacks:
        """A LangChain callback that takes from the limit before each call of a model, and waits if it has to."""
        from worker.authoring.model_calls import ModelCallbacks

        return ModelCallbacks(self._gate)

    def wrap(self, model: Any) -> Any:
        """The same model, or any other Runnable with models in it, with the callback."""
        from langchain_core.callbacks import BaseCallbackManager
        from langchain_core.language_models import BaseLanguageModel

        if not isinstance(model, BaseLanguageModel):
            return model.with_config(callbacks=[self.callback])
        told = model.callbacks
        if isinstance(told, BaseCallbackManager):
            told = told.copy()
            told.add_handler(self.callback)
        else:
            told = [*(told or ()), self.callback]
        return model.model_copy(update={"callbacks": told})  # so that it is still a model, which binds tools

    def _gate(self) -> Gate:
        of_the_fleet = fleet_gate.get(None)
        return self._here if of_the_fleet is None else of_the_fleet(self.name, self.rates)


class _ProcessGate:
    """A Gate (see worker.authoring.model_calls) of this process alone. Any thread may use it."""

    def __init__(self, rates: Rates) -> None:
        requests, tokens = rates.limits
        self._requests = Bucket(requests) if requests else None
        self._tokens = Bucket(tokens) if tokens else None
        self._lock = Lock()
        self._filled_s = time.monotonic()
        self._frozen_until_s = float("-inf")

    def enter(self, call: ModelCall) -> None:
        wait_s = self._take(1, call.tokens)
        while wait_s > 0:
            time.sleep(wait_s)
            wait_s = self._frozen_until_s - time.monotonic()

    async def aenter(self, call: ModelCall) -> None:
        wait_s = self._take(1, call.tokens)
        try:
            while wait_s > 0:
                await asyncio.sleep(wait_s)
                wait_s = self._frozen_until_s - time.monotonic()
        except asyncio.CancelledError:
            self._take(-1, -call.tokens)
            raise

    def leave(self, call: ModelCall, used: Used) -> None:
        if used.known:
            self._take(0, used.input_tokens + used.output_tokens - call.tokens)
        if used.retry_after_ms:
            until_s = time.monotonic() + used.retry_after_ms / 1000
            self._frozen_until_s = max(self._frozen_until_s, until_s)

    async def aleave(self, call: ModelCall, used: Used) -> None:
        self.leave(call, used)

    def _take(self, calls: int, tokens: int) -> float:
        """Takes at once. Returns how long the call has to wait for what it has taken, in seconds: so who comes first
        goes first."""
        with self._lock:
            now_s = time.monotonic()
            passed_ms, self._filled_s = (now_s - self._filled_s) * 1000, now_s
            wait_ms = 0.0
            for bucket, amount in ((self._requests, calls), (self._tokens, tokens)):
                if bucket is not None:
                    bucket.fill(passed_ms)
                    wait_ms = max(wait_ms, bucket.wait_ms(amount))
                    bucket.take(amount)
        return max(wait_ms / 1000, self._frozen_until_s - now_s)
