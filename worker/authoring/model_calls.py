"""LangChain callbacks that ask a gate before each call of a model, and tell it how the call has ended. The import takes
a while."""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import CO_COROUTINE
from types import MethodType
from typing import Any, NamedTuple, Protocol

from langchain_core.callbacks import BaseCallbackHandler

from core.budget import OUTPUT_TOKENS
from worker.authoring.rate_limit_errors import retry_after_ms

__all__ = ["Gate", "ModelCall", "ModelCallbacks", "Used", "tokens_of"]

#: How many characters of a text make a token, as an estimate before the model counts them itself.
CHARACTERS_A_TOKEN = 4


class ModelCall(NamedTuple):
    """A call that is about to be made."""

    call_id: str
    provider: str
    model: str
    input_tokens: int  #: as estimated
    output_tokens: int | None  #: at most; None: not known

    @property
    def tokens(self) -> int:
        """In and out, as estimated."""
        return self.input_tokens + (OUTPUT_TOKENS if self.output_tokens is None else self.output_tokens)


class Used(NamedTuple):
    """How a call has ended."""

    input_tokens: int = 0
    output_tokens: int = 0
    known: bool = True  #: whether the model has told
    retry_after_ms: int = 0  #: how long its provider wants to be left alone


class Gate(Protocol):
    """What calls of models pass. What `enter` raises reaches the caller, and the call is not made."""

    def enter(self, call: ModelCall) -> None:
        """Returns when the call may be made."""

    async def aenter(self, call: ModelCall) -> None:
        """As `enter`, without blocking the loop."""

    def leave(self, call: ModelCall, used: Used) -> None:
        """Notes how it has ended."""

    async def aleave(self, call: ModelCall, used: Used) -> None:
        """As `leave`, without blocking the loop."""


class _Either:
    """A method that is a coroutine where a coroutine asks for it, and plain otherwise. LangChain has one handler for
    `await model.ainvoke()` and for `model.invoke()`. It would give a plain method a thread of the loop in the first
    case, so that many that wait keep those out that end; and it would ignore what a coroutine raises in the second."""

    def __init__(self, plain: Callable[..., Any], waiting: Callable[..., Any]) -> None:
        self._plain = plain
        self._waiting = waiting

    def __get__(self, handler: object, _: type | None = None) -> Any:
        in_coroutine = sys._getframe(1).f_code.co_flags & CO_COROUTINE
        return MethodType(self._waiting if in_coroutine else self._plain, handler)


class ModelCallbacks(BaseCallbackHandler):
    """Asks the gate that `gate` gives for each call."""

    run_inline = True
    raise_error = True  # otherwise LangChain only logs a refusal, and makes the call

    def __init__(self, gate: Callable[[], Gate]) -> None:
        self._gate = gate
        self._under_way: dict[Any, tuple[Gate, ModelCall]] = {}

    @property
    def ignore_chain(self) -> bool:
        """Only models pass the gate."""
        return True

    def _starts_chat(self, _: Any, messages: Any, *, run_id: Any, **told: Any) -> None:
        self._starts(_, [message.text for batch in messages for message in batch], run_id=run_id, **told)

    async def _achat(self, _: Any, messages: Any, *, run_id: Any, **told: Any) -> None:
        await self._astarts(_, [message.text for batch in messages for message in batch], run_id=run_id, **told)

    def _starts(self, _: Any, texts: list[str], *, run_id: Any, **told: Any) -> None:
        gate, call = self._gate(), _call(texts, run_id, told)
        gate.enter(call)
        self._under_way[run_id] = gate, call

    async def _astarts(self, _: Any, texts: list[str], *, run_id: Any, **told: Any) -> None:
        gate, call = self._gate(), _call(texts, run_id, told)
        await gate.aenter(call)
        self._under_way[run_id] = gate, call

    def _ends(self, response: Any, *, run_id: Any, **told: Any) -> None:
        self._leaves(run_id, _used(response))

    async def _aends(self, response: Any, *, run_id: Any, **told: Any) -> None:
        await self._aleaves(run_id, _used(response))

    def _fails(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        self._leaves(run_id, Used(retry_after_ms=retry_after_ms(error)))

    async def _afails(self, error: BaseException, *, run_id: Any, **told: Any) -> None:
        await self._aleaves(run_id, Used(retry_after_ms=retry_after_ms(error)))

    def _leaves(self, run_id: Any, used: Used) -> None:
        if (entered := self._under_way.pop(run_id, None)) is not None:  # otherwise the call was refused
            entered[0].leave(entered[1], used)

    async def _aleaves(self, run_id: Any, used: Used) -> None:
        if (entered := self._under_way.pop(run_id, None)) is not None:
            await entered[0].aleave(entered[1], used)

    on_chat_model_start: Any = _Either(_starts_chat, _achat)
    on_llm_start: Any = _Either(_starts, _astarts)
    on_llm_end: Any = _Either(_ends, _aends)
    on_llm_error: Any = _Either(_fails, _afails)


def _call(texts: list[str], run_id: Any, told: dict[str, Any]) -> ModelCall:
    metadata = told.get("metadata") or {}
    most = metadata.get("ls_max_tokens")
    return ModelCall(
        call_id=str(run_id),
        provider=str(metadata.get("ls_provider") or "?"),
        model=str(metadata.get("ls_model_name") or "?"),
        input_tokens=sum(map(len, texts)) // CHARACTERS_A_TOKEN + 1,
        output_tokens=most if isinstance(most, int) and most >= 0 else None,
    )


def _used(response: Any) -> Used:
    told = tokens_of(response)
    return Used(told.get("input_tokens", 0), told.get("output_tokens", 0), known=bool(told))


def tokens_of(response: Any) -> dict[str, int]:
    """The tokens that a model counts in its answer, if it does."""
    try:
        usage = response.generations[0][0].message.usage_metadata or {}
    except (AttributeError, IndexError):
        usage = {}
    return {name: usage[name] for name in ("input_tokens", "output_tokens") if isinstance(usage.get(name), int)}
