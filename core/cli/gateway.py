"""`agents gateway`: the hierarchy over HTTP."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from core.cli.session import settings

__all__ = ["gateway"]


def gateway(
    host: Annotated[str, typer.Option(help="The address at which it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 9001,
    name: Annotated[str, typer.Option("--id", help="The client as which it submits tasks.")] = "gateway",
) -> None:
    """Answer HTTP requests as LangGraph's own server does, for `langgraph_sdk` and RemoteGraph.

    GATEWAY_KEYS has the keys that are let in, name:role:sha256, separated by commas. Without it, it listens on this
    machine only. Several may run side by side.
    """
    from core.errors import ConfigError

    try:
        from core.gateway.serving import serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise ConfigError(f"the gateway needs {error.name}: pip install 'agent-system[gateway]'") from None
    serve(settings(), os.environ.pop("GATEWAY_KEYS", ""), host, port, name)
