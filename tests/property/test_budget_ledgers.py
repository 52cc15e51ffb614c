"""Whatever becomes of calls and of who makes them: no budget is overdrawn, and nothing that was used is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from core.redis_backend.budget_scripts import RENEW, RESERVE, SETTLE
from worker.hosts.accounts import CALL_MS, SILENT_MS
from worker.hosts.memory_accounts import CHANGES

LIMITS = {"root": (5, 400, -1), "child": (3, -1, 500)}
packed = msgspec.msgpack.encode

call_id = st.sampled_from([f"call-{number}" for number in range(6)])
#: Milliseconds that pass before it.
passes = st.sampled_from([0, 1, SILENT_MS, SILENT_MS + 1, CALL_MS + 1])
reserves = st.tuples(
    st.just(RESERVE), passes, call_id, st.sampled_from(["root", "child"]), st.integers(1, 3), st.integers(0, 90),
    st.integers(0, 90),
)  # fmt: skip
settles = st.tuples(st.just(SETTLE), passes, call_id, st.one_of(st.none(), st.integers(0, 90)))
renews = st.tuples(st.just(RENEW), passes, st.sets(call_id))


class Model:
    """What must be true of the ledger, from what its callers were told."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.ledger: dict[str, Any] = {"spent": {}, "open": {}}
        self.used = {name: [0, 0, 0] for name in LIMITS}  #: what calls were told to have used

    def reserve(self, call: str, task_id: str, attempt: int, tokens: int, most: int) -> None:
        budgets = [(name, LIMITS[name]) for name in (["root", "child"] if task_id == "child" else ["root"])]
        need, want = (1, tokens, tokens), (1, tokens + most, tokens + most)
        before, spent = dict(self.ledger["open"]), _copy(self.ledger["spent"])
        reply = CHANGES[RESERVE](
            self.ledger, self.now_ms, task_id, attempt, call, CALL_MS, *map(packed, (need, want, budgets)), SILENT_MS
        )
        if reply != [b"reserved"]:
            assert self.ledger["spent"] == spent  # what was refused has taken nothing
        elif call not in before:
            for name, limits in budgets:
                for kind, limit in enumerate(limits):
                    assert limit < 0 or self.ledger["spent"][name][kind] <= limit
        if reply == [b"wait"]:
            others = [each for each in before.values() if self.now_ms - each["at"] <= SILENT_MS]
            assert any(each["task"] != task_id or each["attempt"] >= attempt for each in others)

    def settle(self, call: str, tokens: int | None) -> None:
        held = self.ledger["open"].get(call)
        told = b"" if tokens is None else packed((1, tokens, tokens))
        for _ in range(2):  # the worker asks again after an outage
            CHANGES[SETTLE](self.ledger, self.now_ms, call, told)
        if held:
            used = held["got"] if tokens is None else (1, tokens, tokens)
            for name in held["ids"]:
                self.used[name] = [sum(both) for both in zip(self.used[name], used, strict=True)]

    def renew(self, calls: Sequence[str]) -> None:
        spent = _copy(self.ledger["spent"])
        CHANGES[RENEW](self.ledger, self.now_ms, packed(sorted(calls)))
        assert self.ledger["spent"] == spent

    def check(self) -> None:
        for name, spent in self.ledger["spent"].items():
            held = [each["got"] for each in self.ledger["open"].values() if name in each["ids"]]
            known = [sum(kind) for kind in zip(self.used[name], *held, strict=True)]
            assert all(at_least <= counted for at_least, counted in zip(known, spent, strict=True))
            calls = LIMITS[name][0]
            assert spent[0] <= calls


def _copy(spent: dict[str, Any]) -> dict[str, Any]:
    return {name: list(parts) for name, parts in spent.items()}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(reserves, settles, renews), max_size=30))
def test_no_budget_is_overdrawn_and_nothing_that_was_used_is_forgotten(changes: list[Any]) -> None:
    model = Model()
    for script, passed_ms, *arguments in changes:
        model.now_ms += passed_ms
        change: Any = {RESERVE: model.reserve, SETTLE: model.settle, RENEW: model.renew}[script]
        change(*arguments)
        model.check()
