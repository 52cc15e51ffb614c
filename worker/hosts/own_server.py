"""Where a graph finds the server that runs it: `langgraph_sdk.get_client()` without a URL asks a gateway.

LangGraph's own server passes such requests on within its process. Hosts have no server in theirs, so the SDK would
refuse them with a TypeError.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import httpx

from core.errors import ConfigError

__all__ = ["ToGateway", "find_gateway_at"]


def find_gateway_at(url: str) -> None:
    """Lets the graphs of this process find the gateway at `url`; empty: they are told what to do. Where the SDK has
    another shape, it goes its own way."""
    from langgraph_sdk._async import client

    names: dict[str, Any] = vars(client)
    if "get_asgi_transport" in names and "_registered_transports" in names:
        names["get_asgi_transport"] = lambda: lambda *app, **options: ToGateway(url)
        # It would hold every one for as long as the process lives, and a node may make one each time.
        names["_registered_transports"] = deque[Any](maxlen=0)


class ToGateway(httpx.AsyncBaseTransport):
    """Takes the requests of one client to a gateway, whatever host they name."""

    def __init__(self, url: str) -> None:
        self._base = httpx.URL(url)
        self._wire = httpx.AsyncHTTPTransport(retries=5)  # to connect, as the SDK has it for a URL

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises ConfigError: no gateway is named."""
        if not self._base.host:
            raise ConfigError(
                "get_client() without a URL asks the server that runs the graph. Start a gateway (`agents gateway`) and"
                " give the workers its address as AGENT_GATEWAY_URL, or give get_client a URL."
            )
        request.url = self._base.copy_with(raw_path=self._base.raw_path.rstrip(b"/") + request.url.raw_path)
        request.headers["Host"] = self._base.netloc.decode()
        return await self._wire.handle_async_request(request)

    async def aclose(self) -> None:
        await self._wire.aclose()
