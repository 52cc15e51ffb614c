"""What a tenant, or a type of task, may have of a fleet: its weight, and how many tasks begin in a minute and at once.

Values and rules only. The coordinator counts what it hands out, in the whole hierarchy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from core.errors import BadTask
from core.fair_shares import MAX_WEIGHT
from core.model_limits import MOST_PER_MINUTE, Bucket
from core.tasks import TASK_TYPE, Task, in_words, tenant_of

__all__ = [
    "MAX_QUOTAS", "OF_TENANT", "OF_TYPE", "Quota", "QuotaChange", "QuotaUse", "Told", "Usage", "names_of",
    "quota_change", "quota_of", "stored_quota", "told_in",
]  # fmt: skip

#: A wait that is shorter, ms, is an error of floating point.
ROUNDED_MS = 0.001
#: How the name of a quota begins: `tenant:acme` and `type:resize`.
OF_TENANT, OF_TYPE = "tenant:", "type:"
MAX_QUOTAS, MAX_AT_ONCE, MAX_NAME = 1_000, 1_000_000, 207


class Quota(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one may have. None: as much as there is; of a weight, 1."""

    weight: Annotated[int, Meta(ge=1, le=MAX_WEIGHT)] | None = None  #: of a tenant, among others with waiting tasks
    per_minute: Annotated[int, Meta(ge=1, le=MOST_PER_MINUTE)] | None = None  #: hand-overs to distributors, on average
    at_once: Annotated[int, Meta(ge=0, le=MAX_AT_ONCE)] | None = None  #: tasks in flight; 0: none begins


class QuotaChange(Quota, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What an operator asks for: this quota from now on. If it says nothing, there is none any more."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]

    @property
    def quota(self) -> Quota | None:
        """The quota; None: it says nothing."""
        quota = Quota(weight=self.weight, per_minute=self.per_minute, at_once=self.at_once)
        return None if quota == Quota() else quota

    def check(self) -> None:
        """Raises BadTask, which names the cure, when nothing can have that name, or a type has a weight."""
        kind, _, name = self.name.partition(":")
        if kind == "type" and TASK_TYPE.fullmatch(name):
            if self.weight is not None:
                raise BadTask(f"a weight is a tenant's; {self.name!r} can have per_minute and at_once")
        elif kind != "tenant" or not name:
            raise BadTask(
                f"a quota is that of tenant:NAME or type:TASK_TYPE (got {self.name[:80]!r}); tasks that name no tenant"
                " belong to the one of their client, such as tenant:client:bob"
            )


def quota_of(name: str, **limits: int | None) -> QuotaChange:
    """The change, checked. Raises BadTask, which names the cure."""
    try:
        change = msgspec.convert({"name": name, **limits}, QuotaChange)
    except msgspec.ValidationError as error:
        where, what = in_words(error)
        raise BadTask(f"quota {name!r}: {where}: {what}") from None
    change.check()
    return change


_change = msgspec.json.Decoder(QuotaChange)
_quota = msgspec.json.Decoder(Quota)


def quota_change(item: Raw) -> QuotaChange:
    """What an operator asks for. Raises BadTask."""
    try:
        change = _change.decode(item)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadTask(f"this is no quota: {str(error)[:120]}") from None
    change.check()
    return change


def stored_quota(text: bytes) -> Quota | None:
    """The quota as stored; None: somebody else wrote it."""
    try:
        return _quota.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def names_of(task: Task) -> tuple[str, str]:
    """The names of the quotas that a task is counted in."""
    return f"{OF_TYPE}{task.task_type}", f"{OF_TENANT}{tenant_of(task)}"


class QuotaUse(Struct, frozen=True, gc=False):
    """What a coordinator tells of the use of a quota, with each heartbeat."""

    in_flight: int = 0  #: tasks that were handed out and have not come back
    at_once: int | None = None  #: as the quota says
    per_minute: int | None = None
    full: bool = False  #: whether as many are in flight as may be
    until_ms: int | None = None  #: when the rate lets the next one begin; None: it does


class Told(Struct, frozen=True):
    """What a coordinator tells of its waiting tasks in its header."""

    waiting: dict[str, int] = {}  #: how many wait for what, of those that no distributor has
    quotas: dict[str, QuotaUse] = {}  #: by name
    draining: bool = False  #: whether the coordinator stops


def told_in(text: bytes | None) -> Told:
    """What a coordinator told; empty if nothing is there, or somebody else wrote it."""
    try:
        return msgspec.json.decode(text or b"{}", type=Told)
    except (msgspec.DecodeError, RecursionError):
        return Told()


@dataclass(slots=True)
class Usage:
    """A quota, and what is used of it."""

    quota: Quota
    in_flight: int = 0  #: tasks that were handed out and have not come back
    held: bool = False  #: whether nothing is handed out for it now
    filled_ms: int = 0  #: the time of the last look at the bucket
    bucket: Bucket | None = field(default=None)

    def start(self, now_ms: int, *, empty: bool = False) -> None:
        """Begins to count; with `empty`, without the burst that a quota begins with, since a predecessor may have had
        it."""
        if self.quota.per_minute is not None:
            self.bucket, self.filled_ms = Bucket(self.quota.per_minute), now_ms
            if empty:
                self.bucket.level = 0

    def take(self, now_ms: int) -> None:
        """Counts a task that is handed out."""
        self.in_flight += 1
        if self.bucket is not None:
            self._fill(now_ms)
            self.bucket.take(1)

    @property
    def is_full(self) -> bool:
        """Whether as many tasks are in flight as may be."""
        return self.quota.at_once is not None and self.in_flight >= self.quota.at_once

    def wait_ms(self, now_ms: int) -> int:
        """How long until the rate lets another task begin; 0: it does now."""
        if self.bucket is None:
            return 0
        self._fill(now_ms)
        return math.ceil(self.bucket.wait_ms(1) - ROUNDED_MS)

    def _fill(self, now_ms: int) -> None:
        assert self.bucket
        self.bucket.fill(max(0, now_ms - self.filled_ms))
        self.filled_ms = now_ms

    def told(self, now_ms: int) -> QuotaUse:
        """What is told of it to people."""
        wait_ms = self.wait_ms(now_ms)
        until_ms = now_ms + wait_ms if wait_ms else None
        return QuotaUse(self.in_flight, self.quota.at_once, self.quota.per_minute, self.is_full, until_ms)
