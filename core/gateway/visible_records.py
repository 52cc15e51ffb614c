"""Whose threads, runs, assistants and items somebody sees: a key or token of a tenant, only those of the tenant."""

from __future__ import annotations

from fastapi import Request, WebSocket

from core.gateway.access import caller_of
from core.gateway.hierarchy import Hierarchy

__all__ = ["hierarchy_of"]


def hierarchy_of(request: Request | WebSocket) -> Hierarchy:
    """The hierarchy as the caller sees it: to a tenant, what belongs to others is not there."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    return hierarchy.seen_by(caller_of(request).tenant)
