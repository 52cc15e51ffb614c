"""Who owns which task or schedule. No I/O, no clock.

A client sees and changes the tasks that it has submitted, in any session, and those that are shared with it; the same
holds for their children. An operator sees and changes all tasks. To everybody else a task is unknown.
"""

from __future__ import annotations

from functools import lru_cache

from core.roles import Address, Role
from core.tasks import Task

__all__ = ["EVERYBODY", "may_change", "may_touch", "may_use_thread", "owner_of"]

#: In `shared_with`: every client.
EVERYBODY = "*"


@lru_cache(maxsize=4096)
def owner_of(asker: Address) -> str:
    """The owner of a task that `asker` submits."""
    return f"{asker.role.value}:{asker.name}"


def may_change(asker: Address, owner: str | None) -> bool:
    """Whether `asker` may see and change what belongs to `owner` alone, such as a schedule."""
    return asker.role is Role.OPERATOR or owner == owner_of(asker)


def may_touch(asker: Address, task: Task) -> bool:
    """Whether `asker` may be told of a task, and cancel, replay or purge it."""
    if may_change(asker, task.owner):
        return True
    return bool(task.shared_with) and not {EVERYBODY, asker.name}.isdisjoint(task.shared_with)


def may_use_thread(asker: str, owner: str, shared_with: str) -> bool:
    """Whether `asker`, named as owners are, may see, change and continue a thread of `owner`; empty: it has none.
    `shared_with`: names of clients, separated by commas."""
    role, _, name = asker.partition(":")
    if not owner or asker == owner or role == Role.OPERATOR.value:
        return True
    return bool(name) and not {name, EVERYBODY}.isdisjoint(shared_with.split(","))
