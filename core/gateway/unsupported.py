"""Routes of LangGraph's server that are not here: they say so, and what to do instead."""

from __future__ import annotations

from fastapi import APIRouter, Request

from core.gateway.problems import Problem

__all__ = ["CURES", "router"]

router = APIRouter(include_in_schema=False)

_EVENTS = "use the routes of runs, or client.runs.stream instead of client.threads.stream"
#: What to do instead, by method and path.
CURES: dict[str, str] = {
    "POST /threads/{thread_id}/commands": _EVENTS,
    "POST /threads/{thread_id}/stream/events": _EVENTS,
    "POST /ui/{name}": "serve components for pages from a server of your own",
    "POST /mcp/": "let programs call the routes of runs",
    "POST /a2a/{assistant_id}": "let programs call the routes of runs",
}


async def refuse(request: Request) -> None:
    path = request.scope["route"].path
    raise Problem(422, f"{request.method} {path} is not supported; {CURES[f'{request.method} {path}']}")


for known in CURES:
    method, _, path = known.partition(" ")
    router.add_api_route(path, refuse, methods=[method])
