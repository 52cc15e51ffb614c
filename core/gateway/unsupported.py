"""Routes of LangGraph's server that are not here: they say so, and what to do instead."""

from __future__ import annotations

from fastapi import APIRouter, Request, WebSocket

from core.gateway.problems import Problem, response_of

__all__ = ["CURES", "router"]

router = APIRouter(include_in_schema=False)

EVENTS = "/threads/{thread_id}/stream/events"
_EVENTS = "use the routes of runs, or client.runs.stream instead of client.threads.stream"
_RUNS = "let programs call the routes of runs: POST /threads/{thread_id}/runs/wait"
#: What to do instead, by method and path.
CURES: dict[str, str] = {
    "POST /threads/{thread_id}/commands": _EVENTS,
    f"POST {EVENTS}": _EVENTS,
    "GET /ui/{name}": "serve components for pages from a server of your own",
    "POST /ui/{name}": "serve components for pages from a server of your own",
    **{f"{method} {path}": _RUNS for path in ("/mcp", "/mcp/") for method in ("GET", "POST", "DELETE")},
    "POST /a2a/{assistant_id}": _RUNS,
    "GET /.well-known/agent-card.json": _RUNS,
    "GET /.well-known/agent.json": _RUNS,
}


async def refuse(request: Request) -> None:
    raise _problem(request.method, request.scope["route"].path)


def _problem(method: str, path: str) -> Problem:
    return Problem(422, f"{method} {path} is not supported; {CURES[f'{method} {path}']}")


for known in CURES:
    method, _, path = known.partition(" ")
    router.add_api_route(path, refuse, methods=[method])


@router.websocket(EVENTS)
async def refuse_socket(websocket: WebSocket) -> None:
    await websocket.send_denial_response(response_of(_problem("POST", EVENTS)))
