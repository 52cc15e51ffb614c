"""How often a fleet calls models: what a limit is, and what a call asks of it. Values and rules only."""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from core.errors import BadTask

__all__ = [
    "Bucket", "CallEnd", "LimitedCall", "Rates", "StoredRates", "names_of", "rates_of", "sound_name", "stored_rates",
]  # fmt: skip

#: The name of a model or of its provider, or both: `gpt-5`, `openai`, `openai:gpt-5`.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@/+-]{0,127}")
MOST_PER_MINUTE = 1_000_000_000
#: A fleet that was idle may begin at once what comes in this part of a minute, and at least one call.
BURST_PART = 10
MINUTE_MS = 60_000

PerMinute = Annotated[int, Meta(ge=1, le=MOST_PER_MINUTE)]


class Rates(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a limit allows a minute, on average. None: it is not limited."""

    requests_per_minute: PerMinute | None = None
    tokens_per_minute: PerMinute | None = None  #: in and out, as the models count them

    @property
    def limits(self) -> tuple[int, int]:
        """Requests and tokens a minute; 0: not limited."""
        return self.requests_per_minute or 0, self.tokens_per_minute or 0


def rates_of(**given: Any) -> Rates:
    """The Rates, checked. Raises BadTask, which names the cure."""
    if all(value is None for value in given.values()):
        raise BadTask("a limit of models limits nothing: give requests_per_minute, tokens_per_minute or both")
    for name, value in given.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_PER_MINUTE
        if value is not None and not whole:
            raise BadTask(
                f"{name} must be a whole number from 1 to {MOST_PER_MINUTE} (got {str(value)[:80]!r}); to stop all"
                " calls for a while, freeze the limit"
            )
    return Rates(**given)


def sound_name(name: Any) -> str:
    """The name of a limit. Raises BadTask if it cannot be one."""
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise BadTask(
            "a limit of models needs the name of a provider or a model, such as 'openai', 'gpt-5' or 'openai:gpt-5', of"
            f" at most 128 letters, digits and _.:@/+- (got {str(name)[:80]!r})"
        )
    return name


def names_of(provider: str, model: str) -> tuple[str, ...]:
    """The names by which a limit may mean this model. The first that there is counts, and no other."""
    names = (f"{provider}:{model}", model, provider)
    return tuple(name for name in names if NAME.fullmatch(name))


class LimitedCall(Struct, frozen=True, gc=False):
    """A call of a model that is about to be made."""

    call_id: str
    task_id: str
    names: tuple[str, ...]  #: of limits; the first that there is counts
    tokens: int  #: as estimated, in and out
    rates: Rates | None = None  #: what the first of `names` allows unless an operator has said; None: what was said


class CallEnd(Struct, frozen=True, gc=False):
    """How a call has ended that a limit has let through."""

    call_id: str
    name: str  #: of the limit
    reserved: int  #: tokens, as they were asked for
    used: int | None  #: tokens; None: the model has not told, so they are taken to be those
    frozen_ms: int = 0  #: how long the provider wants to be left alone


class Bucket:
    """A token bucket: it fills with `per_minute` a minute, and is full with what comes in a part of one."""

    def __init__(self, per_minute: int) -> None:
        self.full = max(1.0, per_minute / BURST_PART)
        self._per_ms = per_minute / MINUTE_MS
        self.level = self.full

    def fill(self, ms: float) -> None:
        """Lets time pass."""
        self.level = min(self.full, self.level + ms * self._per_ms)

    def wait_ms(self, amount: float) -> float:
        """How long until `amount` can be taken. More than the bucket holds is taken from a full one, which then has
        debts: so on average no more is taken than comes."""
        return max(0.0, (min(amount, self.full) - self.level) / self._per_ms)

    def take(self, amount: float) -> None:
        """Takes it, or, if it is negative, puts it back."""
        self.level -= amount


class StoredRates(Rates, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """As the server has them."""

    by_code: bool = False  #: whether code has said so, which may say something else the next time


def stored_rates(text: bytes) -> StoredRates | None:
    """The rates as stored; None: somebody else wrote them."""
    try:
        return msgspec.json.decode(text, type=StoredRates)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
