"""What each role may do: one table from routes to actions, and one from actions to roles.

A route that is in no table is for admins only, and a test finds it.
"""

from __future__ import annotations

import re
from enum import StrEnum

from core.gateway.access import Caller, CallerRole
from core.gateway.problems import Problem

__all__ = ["ROLES_OF", "ROUTES", "Action", "action_of", "check_may"]

R = CallerRole
EVERYBODY = frozenset(R)
PEOPLE = frozenset({R.VIEWER, R.OPERATOR, R.ADMIN})
WHO_CHANGE = frozenset({R.OPERATOR, R.ADMIN})


class Action(StrEnum):
    """What a request does."""

    KNOCK = "knock"  #: asks whether somebody is there, and how to speak; needs no key
    SEE_TASKS = "see tasks"
    CHANGE_TASKS = "change tasks"
    SEE_THREADS = "see threads"
    CHANGE_THREADS = "change threads"
    SEE_FLEET = "see the fleet"
    SEE_TOTALS = "see what all tenants have together"
    BE_AGENT = "be an agent"  #: registers, is alive, takes work, answers
    SEE_MESSAGES = "see messages"
    SEND_MESSAGES = "send messages"
    RECEIVE_MESSAGES = "receive messages"
    CONNECT_AGENTS = "connect agents"
    SEE_EVENTS = "see events"
    SEE_SCHEDULES = "see schedules"
    CHANGE_SCHEDULES = "change schedules"
    SEE_CRONS = "see crons"
    CHANGE_CRONS = "change crons"
    CHANGE_FLEET = "change the fleet"


A = Action
ROLES_OF: dict[Action, frozenset[CallerRole]] = {
    A.KNOCK: EVERYBODY,
    A.SEE_TASKS: PEOPLE,
    A.CHANGE_TASKS: WHO_CHANGE,
    A.SEE_THREADS: PEOPLE,
    A.CHANGE_THREADS: WHO_CHANGE,
    A.SEE_FLEET: EVERYBODY,
    A.SEE_TOTALS: EVERYBODY,
    A.BE_AGENT: WHO_CHANGE | {R.AGENT},
    A.SEE_MESSAGES: PEOPLE,
    A.SEND_MESSAGES: WHO_CHANGE | {R.AGENT},
    A.RECEIVE_MESSAGES: WHO_CHANGE | {R.AGENT},
    A.CONNECT_AGENTS: WHO_CHANGE | {R.AGENT},
    A.SEE_EVENTS: PEOPLE,
    A.SEE_SCHEDULES: PEOPLE,
    A.CHANGE_SCHEDULES: WHO_CHANGE,
    A.SEE_CRONS: PEOPLE,
    A.CHANGE_CRONS: WHO_CHANGE,
    A.CHANGE_FLEET: frozenset({R.ADMIN}),
}
#: What somebody may do who sees one tenant only. Of what belongs to tenants, the routes show and change its own; agents
#: belong to none. What is left out tells of others, changes what is of all, or has no tenant and shows work.
OF_A_TENANT = frozenset(
    {
        A.KNOCK, A.SEE_TASKS, A.CHANGE_TASKS, A.SEE_EVENTS, A.SEE_MESSAGES, A.SEND_MESSAGES, A.RECEIVE_MESSAGES,
        A.SEE_SCHEDULES, A.CHANGE_SCHEDULES, A.SEE_THREADS, A.CHANGE_THREADS, A.SEE_CRONS, A.CHANGE_CRONS, A.SEE_FLEET,
    }
)  # fmt: skip

ROUTES: dict[Action, tuple[str, ...]] = {
    A.KNOCK: ("GET /ok", "GET /health", "GET /openapi.json", "GET /docs"),
    A.SEE_TASKS: (
        "GET /tasks", "GET /tasks/{task_id:path}", "GET /tasks/{task_id:path}/result",
        "GET /tasks/{task_id:path}/wait", "GET /tasks/{task_id:path}/explain",
    ),
    A.CHANGE_TASKS: ("POST /tasks/submit", "POST /tasks/{task_id:path}/cancel"),
    A.SEE_THREADS: (
        "GET /info", "GET /ui/{name}", "GET /.well-known/agent-card.json", "GET /.well-known/agent.json",
        "GET /threads/{thread_id}/stream/events", "POST /threads/{thread_id}/stream/events",
        "POST /assistants/search", "POST /assistants/count", "GET /assistants/{assistant_id}",
        "GET /assistants/{assistant_id}/graph", "GET /assistants/{assistant_id}/schemas",
        "GET /assistants/{assistant_id}/subgraphs", "GET /assistants/{assistant_id}/subgraphs/{namespace}",
        "POST /assistants/{assistant_id}/versions",
        "POST /threads/search", "POST /threads/count", "GET /threads/{thread_id}", "GET /threads/{thread_id}/stream",
        "GET /threads/{thread_id}/state", "GET /threads/{thread_id}/state/{checkpoint_id}",
        "POST /threads/{thread_id}/state/checkpoint",
        "GET /threads/{thread_id}/history", "POST /threads/{thread_id}/history",
        "GET /store/items", "POST /store/items/search", "POST /store/namespaces",
        "GET /threads/{thread_id}/runs", "GET /threads/{thread_id}/runs/{run_id}",
        "GET /threads/{thread_id}/runs/{run_id}/join", "GET /threads/{thread_id}/runs/{run_id}/stream",
    ),
    A.CHANGE_THREADS: (
        "POST /assistants", "PATCH /assistants/{assistant_id}", "DELETE /assistants/{assistant_id}",
        "POST /assistants/{assistant_id}/latest",
        "PUT /store/items", "DELETE /store/items",
        "POST /threads/prune", "POST /threads/{thread_id}/state",
        "POST /threads", "PATCH /threads/{thread_id}", "DELETE /threads/{thread_id}", "POST /threads/{thread_id}/copy",
        "POST /threads/{thread_id}/commands",
        "POST /ui/{name}", "POST /a2a/{assistant_id}",
        "GET /mcp", "POST /mcp", "DELETE /mcp", "GET /mcp/", "POST /mcp/", "DELETE /mcp/",
        "POST /runs", "POST /runs/wait", "POST /runs/stream", "POST /runs/batch", "POST /runs/cancel",
        "POST /threads/{thread_id}/runs", "POST /threads/{thread_id}/runs/wait",
        "POST /threads/{thread_id}/runs/stream",
        "POST /threads/{thread_id}/runs/{run_id}/cancel", "DELETE /threads/{thread_id}/runs/{run_id}",
    ),
    A.SEE_SCHEDULES: (
        "GET /webhooks/failed",
        "GET /schedules", "GET /schedules/{name}",
    ),
    A.SEE_CRONS: ("POST /runs/crons/search", "POST /runs/crons/count"),
    A.CHANGE_SCHEDULES: (
        "PUT /schedules/{name}", "DELETE /schedules/{name}", "POST /schedules/{name}/pause",
        "POST /schedules/{name}/resume",
    ),
    A.CHANGE_CRONS: (
        "POST /runs/crons", "POST /threads/{thread_id}/runs/crons", "PATCH /runs/crons/{cron_id}",
        "DELETE /runs/crons/{cron_id}",
    ),
    A.SEE_FLEET: (
        "GET /agents", "GET /agents/{agent_id}", "GET /agents/service/{service}",
        "GET /agents/capability/{capability}", "POST /agents/discover", "GET /registry/stats",
        "GET /load-balancer/strategy", "GET /load-balancer/stats", "GET /quotas",
    ),
    A.SEE_TOTALS: ("GET /metrics", "GET /tasks/status"),
    A.CHANGE_FLEET: ("PUT /load-balancer/strategy", "PUT /quotas/{name:path}", "DELETE /quotas/{name:path}"),
    A.BE_AGENT: (
        "POST /agents/register", "DELETE /agents/{agent_id}", "PUT /agents/{agent_id}/status",
        "POST /agents/{agent_id}/heartbeat", "GET /agents/{agent_id}/tasks",
        "POST /agents/{agent_id}/tasks/{task_id:path}/progress", "POST /agents/{agent_id}/tasks/{task_id:path}/result",
    ),
    A.RECEIVE_MESSAGES: (
        "GET /agents/{agent_id}/messages", "POST /agents/{agent_id}/messages/ack", "GET /agents/{agent_id}/peers",
    ),
    A.CONNECT_AGENTS: (
        "PUT /agents/{agent_id}/peers/{peer_id}", "DELETE /agents/{agent_id}/peers/{peer_id}",
    ),
    A.SEE_MESSAGES: ("GET /messages/history",),
    A.SEND_MESSAGES: ("POST /messages/send",),
    A.SEE_EVENTS: ("GET /events/stream", "GET /events/ws"),
}  # fmt: skip


def _pattern(route: str) -> str:
    """A pattern that matches the requests of a route, `METHOD PATH`."""
    parts = re.split(r"(\{[^}]+\})", route)
    return "".join(
        (".+" if part.endswith(":path}") else "[^/]+") if part.startswith("{") else re.escape(part) for part in parts
    )


_STATIC: dict[str, Action] = {
    route: action for action, routes in ROUTES.items() for route in routes if "{" not in route
}
#: Those that match more come later, as in the order of the routes.
_PATTERNS: list[tuple[re.Pattern[str], Action]] = sorted(
    ((re.compile(_pattern(route)), action) for action, routes in ROUTES.items() for route in routes if "{" in route),
    key=lambda entry: (entry[0].pattern.endswith(".+"), -len(entry[0].pattern)),
)


def action_of(method: str, path: str) -> Action:
    """What a request does. HEAD asks what GET does."""
    request = f"{'GET' if method == 'HEAD' else method} {path}"
    if (action := _STATIC.get(request)) is not None:
        return action
    return next((action for pattern, action in _PATTERNS if pattern.fullmatch(request)), A.CHANGE_FLEET)


def check_may(caller: Caller, action: Action) -> None:
    """Raises Problem unless the table lets the caller do this."""
    if caller.role not in ROLES_OF[action]:
        allowed = ", ".join(role for role in CallerRole if role in ROLES_OF[action])
        raise Problem(403, f"the role {caller.role} may not {action}; use the key or token of one of {allowed}")
    if caller.tenant is not None and action not in OF_A_TENANT:
        raise Problem(
            403,
            f"this key or token sees what belongs to tenant {caller.tenant!r} alone, and so it may not {action};"
            " use one without a tenant",
        )
