"""States of threads, as clients of LangGraph's server know them."""

from __future__ import annotations

import asyncio
from typing import Any

from core.checkpoints.snapshots import NextTask, Snapshot
from core.checkpoints.threads import Threads

__all__ = ["interrupts_by_task", "no_state", "state_told"]


def no_state(thread_id: str) -> dict[str, Any]:
    """Of a thread in which nothing has run yet."""
    return {
        "values": {}, "next": [], "tasks": [], "metadata": {}, "created_at": None, "interrupts": [],
        "checkpoint": _checkpoint(thread_id, "", None), "parent_checkpoint": None,
    }  # fmt: skip


async def state_told(threads: Threads, snapshot: Snapshot, *, subgraphs: bool = False) -> dict[str, Any]:
    """A thread at a checkpoint. The states of subgraphs are told in full if so asked, else only where they are."""
    parent = snapshot.parent_id and _checkpoint(snapshot.thread_id, snapshot.namespace, snapshot.parent_id)
    return {
        "values": snapshot.values,
        "next": list(snapshot.next),
        "tasks": await asyncio.gather(*(_task(threads, snapshot, task, subgraphs) for task in snapshot.tasks)),
        "metadata": snapshot.metadata,
        "created_at": snapshot.created_at,
        "checkpoint": _checkpoint(snapshot.thread_id, snapshot.namespace, snapshot.checkpoint_id),
        "parent_checkpoint": parent or None,
        "interrupts": interrupts_told(snapshot),
    }


async def _task(threads: Threads, snapshot: Snapshot, task: NextTask, subgraphs: bool) -> dict[str, Any]:
    inner = await threads.snapshot(snapshot.thread_id, namespace=task.namespace)
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": task.error,
        "interrupts": interrupts_told(task),
        "checkpoint": {"thread_id": snapshot.thread_id, "checkpoint_ns": task.namespace}
        if inner is not None and not subgraphs
        else None,
        "state": await state_told(threads, inner, subgraphs=True) if inner is not None and subgraphs else None,
        "result": task.result,
    }


def _checkpoint(thread_id: str, namespace: str, checkpoint_id: str | None) -> dict[str, Any]:
    return {"thread_id": thread_id, "checkpoint_ns": namespace, "checkpoint_id": checkpoint_id}


def interrupts_told(of: NextTask | Snapshot) -> list[dict[str, Any]]:
    return [{"value": interrupt.value, "id": interrupt.id} for interrupt in of.interrupts]


def interrupts_by_task(snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    return {task.id: interrupts_told(task) for task in snapshot.tasks if task.interrupts}
