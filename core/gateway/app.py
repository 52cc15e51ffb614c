"""The application that answers HTTP requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from core.config.version import installed_version
from core.errors import AgentSystemError
from core.gateway import (
    agents,
    events,
    load_balancer,
    messages,
    metrics,
    quotas,
    schedules,
    system,
    tasks,
    webhooks,
)
from core.gateway.access import LOOPBACK_ORIGIN
from core.gateway.courier import Courier
from core.gateway.description import describe
from core.gateway.fleet_look import FleetLook
from core.gateway.gate import Door, Gate
from core.gateway.hierarchy import Hierarchy
from core.gateway.langgraph_routes import ROUTERS
from core.gateway.metrics import GatewayMeasures, Measured
from core.gateway.problems import as_problems
from core.gateway.thread_expiry import sweep_threads

__all__ = ["gateway_app"]

#: Headers of responses that pages of a browser may read.
EXPOSED = ("Content-Location", "Location", "Retry-After", "Idempotent-Replayed", "X-Pagination-Next")


def gateway_app(hierarchy: Hierarchy, door: Door | None = None) -> FastAPI:
    """The gateway of a hierarchy, which it opens at its start. Without a `door` that asks for keys or tokens, it lets
    in whoever is on this machine. If it cannot be opened, its `state.refused` is the error."""
    door = door or Door()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            try:
                await opened.enter_async_context(hierarchy)
            except AgentSystemError as error:
                app.state.refused = error
                raise
            fleet = await opened.enter_async_context(hierarchy.fleet())
            group = await opened.enter_async_context(asyncio.TaskGroup())
            app.state.hierarchy, app.state.fleet = hierarchy, fleet
            background = [group.create_task(hierarchy.crons.watch()), group.create_task(sweep_threads(hierarchy))]
            if hierarchy.webhooks.secret:
                background.append(group.create_task(Courier(hierarchy).run()))
            yield
            for task in background:
                task.cancel()

    app = FastAPI(
        title="agent-system",
        version=installed_version(),
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # a request is told once, by Measured
    )
    as_problems(app)
    app.state.measures, app.state.fleet_look = GatewayMeasures(), FleetLook(hierarchy.counts)
    app.add_middleware(Gate, door=door, closing=hierarchy.closing)
    app.add_middleware(Measured, measures=app.state.measures)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=door.origins,
        allow_origin_regex=LOOPBACK_ORIGIN.pattern,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
    )
    parts = (system, metrics, tasks, agents, messages, events, load_balancer, quotas, schedules, webhooks)
    for router in (*(part.router for part in parts), *ROUTERS):
        app.router.routes.extend(router.routes)  # one list of them all: included routers would be searched twice
    describe(app)
    return app
