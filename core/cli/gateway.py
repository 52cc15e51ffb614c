"""`agents gateway`: the hierarchy over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["gateway"]


def gateway(
    host: Annotated[str | None, typer.Option(help="The address at which it listens. Default: GATEWAY_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: GATEWAY_PORT, 9001.")] = None,
    name: Annotated[
        str, typer.Option("--id", help="As whom it submits tasks: a client's name, or operator:NAME to see all tasks.")
    ] = "gateway",
) -> None:
    """Answer HTTP requests: an API of its own, and that of LangGraph's server, for `langgraph_sdk` and RemoteGraph.

    GATEWAY_KEYS has the keys that are let in, GATEWAY_JWT_KEYS what checks tokens. Without either, it listens on this
    machine only. Several may run side by side.
    """
    from core.errors import ConfigError

    try:
        from core.gateway.__main__ import run_gateway

        run_gateway(name, {"GATEWAY_HOST": host, "GATEWAY_PORT": port})
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "jwt", "uvicorn", "starlette"):
            raise
        raise ConfigError(
            f"the gateway needs {error.name}: pip install 'agent-system[gateway]', or in a checkout run .ci/setup"
            " requirements-gateway.txt"
        ) from None
