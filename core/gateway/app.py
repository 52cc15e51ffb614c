"""The application that answers HTTP requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from core.gateway import assistants, runs, threads
from core.gateway.access import ApiKey
from core.gateway.gate import gate
from core.gateway.hierarchy import Hierarchy
from core.gateway.problems import as_problems

__all__ = ["gateway_app"]


def gateway_app(hierarchy: Hierarchy, keys: tuple[ApiKey, ...] = ()) -> FastAPI:
    """The gateway of a hierarchy, which it opens at its start. Without `keys`, it lets in whoever is on this
    machine."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with hierarchy:
            app.state.hierarchy = hierarchy
            yield

    app = FastAPI(title="agent-system", version="0.1.0", lifespan=lifespan)
    as_problems(app)
    app.middleware("http")(gate(keys))
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?",
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Content-Location", "Location"],
    )
    for part in (assistants, threads, runs):
        app.include_router(part.router)

    @app.get("/ok", tags=["system"])
    async def ok() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/health", tags=["system"])
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.get("/info", tags=["system"])
    async def info() -> dict[str, Any]:
        return {"version": app.version, "flags": {"assistants": True, "crons": False, "langsmith": False}}

    return app
