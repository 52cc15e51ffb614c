"""All routes that clients of LangGraph's server call."""

from __future__ import annotations

from core.gateway import (
    assistant_versions,
    assistants,
    crons,
    protocol_streams,
    run_batches,
    runs,
    states,
    store,
    thread_events,
    threads,
    unsupported,
)

__all__ = ["ROUTERS"]

PARTS = (
    assistants,
    assistant_versions,
    threads,
    states,
    thread_events,
    protocol_streams,
    crons,
    run_batches,
    runs,
    store,
    unsupported,
)
ROUTERS = tuple(part.router for part in PARTS)
