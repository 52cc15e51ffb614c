"""Whose a thread is, so that no client goes on where another one's runs have ended.

The coordinator knows that of threads that are in use. Of others, the checkpoints say it: the owner of the thread's
first run, and the clients that it is shared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.access import may_use_thread
from core.errors import BadTask

__all__ = ["thread_owner"]


def thread_owner(thread: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, str]:
    """What the checkpoints of a run say of its thread's owner. `thread`: as the run asks for it. `metadata`: of the
    newest checkpoint, which may be of another run. Raises BadTask: the thread is another client's."""
    asker, owner = thread["owner"], metadata.get("owner", "")
    if not asker or not owner or asker == owner:
        return {"owner": asker or owner, "shared_with": ",".join(thread["shared_with"])}
    shared_with = metadata.get("shared_with", "")
    if not may_use_thread(asker, owner, shared_with):
        raise BadTask(f"thread {thread['id']!r} is another client's; choose another thread_id")
    return {"owner": owner, "shared_with": shared_with}
