"""The audit trail of a state: who wrote which version under which fence, and what it changed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import orjson

from core.ports import Command

__all__ = ["Changes", "audit_entry"]

#: Number of a commit's changes that its entry lists, and of entries that are kept.
MAX_CHANGES, MAX_ENTRIES = 64, 1000
Changes = Mapping[str, tuple[str, ...]]  #: the transitions of tasks, by their ids


def audit_entry(key: str, *, side: str, by: str, version: int, epoch: int, changes: Changes) -> Command:
    """Appends an entry to the trail at `key`. `side` is the role whose half of the state it was, `by` an agent id."""
    shown = dict(islice(changes.items(), MAX_CHANGES))
    return (
        "XADD", key, "MAXLEN", "~", MAX_ENTRIES, "*", "side", side, "by", by, "version", version, "epoch", epoch,
        "changed", len(changes), "changes", orjson.dumps(shown),
    )  # fmt: skip
