"""Routes of LangGraph's server that are not here: they say so, and what to do instead."""

from __future__ import annotations

from fastapi import APIRouter, Request

from core.gateway.problems import Problem

__all__ = ["CURES", "router"]

router = APIRouter(include_in_schema=False)

_RUNS = "let programs call the routes of runs: POST /threads/{thread_id}/runs/wait"
#: What to do instead, by method and path.
CURES: dict[str, str] = {
    "GET /ui/{name}": "serve components for pages from a server of your own",
    "POST /ui/{name}": "serve components for pages from a server of your own",
    **{f"{method} {path}": _RUNS for path in ("/mcp", "/mcp/") for method in ("GET", "POST", "DELETE")},
    "POST /a2a/{assistant_id}": _RUNS,
    "GET /.well-known/agent-card.json": _RUNS,
    "GET /.well-known/agent.json": _RUNS,
}


async def refuse(request: Request) -> None:
    route = f"{request.method} {request.scope['route'].path}"
    raise Problem(422, f"{route} is not supported; {CURES[route]}")


for known in CURES:
    method, _, path = known.partition(" ")
    router.add_api_route(path, refuse, methods=[method])
