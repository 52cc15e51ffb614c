"""What a task and all below it may spend on models, and what is charged for a call. Values only."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Self

import msgspec
from msgspec import Meta, Struct

from core.errors import BadTask
from core.record_fields import Count

__all__ = [
    "KINDS", "NANO", "OUTPUT_TOKENS", "Budget", "Grants", "Ledger", "Reservation", "Settlement", "Spending",
    "grants_below", "ledger_of", "left_of", "reserved_by_others",
]  # fmt: skip

#: The tokens that a model is taken to answer with, if it has no limit that is known.
OUTPUT_TOKENS = 1024
#: A dollar is counted in so many parts, as whole numbers, so that small prices add up exactly.
NANO = 1_000_000_000
#: In US dollars. As parts it is below 2**53, up to which every number is exact.
MAX_COST_USD = 1_000_000

#: What a field must be, as the end of a sentence.
NEEDS = {
    "calls": "a whole number, 0 or more, of calls of models",
    "tokens": "a whole number, 0 or more, of tokens, in and out",
    "cost_usd": f"US dollars, from 0 to {MAX_COST_USD}",
}
KINDS = tuple(NEEDS)


class _Validated(type(Struct)):  # type: ignore[misc]  # the class of classes of msgspec has no name
    """Checks the arguments of a Budget that a program makes. Decoded ones do not pass here."""

    def __call__(cls, **fields: Any) -> Any:
        for name in fields:
            if name not in NEEDS:
                close = difflib.get_close_matches(name, list(NEEDS), n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(NEEDS)}"
                raise BadTask(f"budget: {name!r} is nothing that it can limit; {hint}")
        given = {name: value for name, value in fields.items() if value is not None}
        if not given:
            raise BadTask("budget: it limits nothing; name calls, tokens or cost_usd, or leave the budget out")
        for name, value in given.items():
            try:
                msgspec.convert({name: value}, cls)
            except msgspec.ValidationError:
                raise BadTask(f"budget: {name!r} must be {NEEDS[name]} (got {str(value)[:80]!r})") from None
        return msgspec.convert(given, cls)


class Budget(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, metaclass=_Validated):
    """What a task, and all tasks below it together, may spend on the models that graphs call:
    `Task(task_type="research", payload=..., budget=Budget(calls=50, cost_usd=0.5))`. None: it is not limited.

    Raises BadTask when a limit is malformed, or there is none."""

    calls: Count | None = None
    tokens: Count | None = None  #: in and out, as the models count them
    cost_usd: Annotated[float, Meta(ge=0, le=MAX_COST_USD)] | None = None  #: by the prices of the workers

    if TYPE_CHECKING:  # a type checker takes the metaclass's arguments otherwise

        def __init__(
            self, *, calls: int | None = None, tokens: int | None = None, cost_usd: float | None = None
        ) -> None: ...

    @classmethod
    def from_fields(cls, fields: Any) -> Self:
        """The Budget, given as such or as a dict of its fields. Raises BadTask for anything else."""
        if isinstance(fields, cls):
            return fields
        if not isinstance(fields, dict):
            raise BadTask(f"task field 'budget': expected Budget(...), got {type(fields).__name__}")
        return cls(**fields)

    @property
    def limits(self) -> tuple[int, int, int]:
        """Calls, tokens and parts of a dollar (see NANO), as whole numbers; -1: not limited."""
        cost = -1 if self.cost_usd is None else round(self.cost_usd * NANO)
        return -1 if self.calls is None else self.calls, -1 if self.tokens is None else self.tokens, cost


#: The budgets that a task spends from, the outermost first, each with the id of its task.
Grants = tuple[tuple[str, Budget], ...]


def grants_below(above: Grants, task_id: str, budget: Budget | None) -> Grants:
    """The budgets that a task spends from, which has one of its own or not, and `above` it those of its parent."""
    return above if budget is None else (*above, (task_id, budget))


class Reservation(Struct, frozen=True, gc=False):
    """What a run asks for before it calls a model."""

    call_id: str
    task_id: str
    attempt: int
    grants: Grants
    model: str
    input_tokens: int  #: as estimated
    output_tokens: int | None  #: at most; None: not known


class Settlement(Struct, frozen=True, gc=False):
    """What a call of a model has used."""

    call_id: str
    grants: Grants
    model: str
    input_tokens: int
    output_tokens: int
    known: bool = True  #: whether the model has told; otherwise it is taken to be what was reserved


class Spending(Struct, frozen=True, gc=False, array_like=True):
    """What was spent from one budget, with what is reserved for calls under way."""

    calls: int = 0
    tokens: int = 0
    cost: int = 0  #: parts of a dollar, see NANO

    def to_dict(self) -> dict[str, float]:
        return {"calls": self.calls, "tokens": self.tokens, "cost_usd": self.cost / NANO}


class Ledger(Struct, frozen=True):
    """What is stored of the budgets of a tree: by the id of the task that has the budget."""

    spent: Any = {}
    open: Any = {}  #: what is reserved for calls under way, by their ids

    def of(self, task_id: str) -> Spending:
        told = self.spent.get(task_id) if isinstance(self.spent, dict) else None
        try:
            return msgspec.convert(told or (), Spending)
        except msgspec.ValidationError:  # somebody else wrote it
            return Spending()

    def callers_of(self, task_id: str) -> set[str]:
        """The tasks whose calls under way have reserved something of the budget of that task."""
        found = set()
        for held in self.open.values() if isinstance(self.open, dict) else ():
            if isinstance(held, dict) and isinstance(held.get("ids"), list) and task_id in held["ids"]:
                found.add(str(held.get("task")))
        return found


def ledger_of(packed: bytes | None) -> Ledger:
    """The stored ledger; one without an entry for what is none."""
    try:
        return msgspec.msgpack.decode(packed, type=Ledger) if packed else Ledger()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Ledger()


def reserved_by_others(grants: Grants, ledger: Ledger, task_id: str) -> str:
    """The first of these budgets of which nothing is left for a task until calls of others have ended; empty: there is
    none, or the task has a call under way itself."""
    for budget_id, budget in grants:
        callers = ledger.callers_of(budget_id)
        if task_id in callers:
            return ""
        left = left_of(((budget_id, budget),), ledger)
        if callers and left.get("calls") != 0 and 0 in left.values():
            return budget_id
    return ""


def left_of(grants: Grants, ledger: Ledger) -> dict[str, float]:
    """What is left of these budgets: of each kind that one of them limits, the least."""
    left: dict[str, float] = {}
    for task_id, budget in grants:
        spent = ledger.of(task_id)
        for kind, limit, used in zip(KINDS, budget.limits, (spent.calls, spent.tokens, spent.cost), strict=True):
            if limit >= 0:
                part = NANO if kind == "cost_usd" else 1
                left[kind] = min(left.get(kind, float("inf")), max(0, limit - used) / part)
    return left
