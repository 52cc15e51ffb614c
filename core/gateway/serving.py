"""A gateway as a process."""

from __future__ import annotations

import errno
import logging
import os
import socket
from functools import partial
from types import FrameType

import uvicorn

from core.config.settings import GatewayConfig, Settings
from core.config.variables import secret_text
from core.errors import ConfigError
from core.gateway.access import is_loopback, keys_in
from core.gateway.app import gateway_app
from core.gateway.connections import give_up_dead_peers, limited_protocol
from core.gateway.gate import Door
from core.gateway.hierarchy import Hierarchy
from core.gateway.open_requests import Closing
from core.gateway.tokens import Tokens
from core.machine.own_process import spare_collector
from core.runtime.logs import configure_logging
from core.runtime.tracing import listen
from core.webhooks import WebhookRules, allowed_hosts

__all__ = ["serve"]

#: Seconds that open streams get when the process is asked to end. Their clients go on at another gateway.
END_S = 2
#: Connections that wait until they are taken, as uvicorn has it.
BACKLOG = 2048
#: The exit code when the gateway could not be opened, as uvicorn has it; its log says why.
NOT_STARTED = 3
#: The exit code when it was told twice to end, as of agents.
AT_ONCE = 130
#: What uvicorn says of an answer that was cut; why is told where it is cut.
CUT = "ASGI callable returned without completing response."
#: Why an address cannot be listened at, in place of the words of the system.
WHY_NOT = {
    errno.EADDRINUSE: "another program listens there already. Stop it, or choose another port",
    errno.EACCES: "this user may not listen there. Choose a port above 1023",
    errno.EADDRNOTAVAIL: "that is no address of this machine. Set GATEWAY_HOST to one that is",
}

log = logging.getLogger(__name__)


def serve(settings: Settings, client_id: str) -> None:
    """Answers requests until a signal ends it. `client_id`: as whom it submits tasks. Raises ConfigError: it would be
    open to others, or a setting is wrong; TransportDown: Redis cannot be reached."""
    config = settings.gateway
    webhooks = WebhookRules(allowed_hosts(config.webhook_hosts), secret_text(config.webhook_secret) or "")
    hierarchy = Hierarchy(settings.redis, settings.a2a, settings.coordinator_id, client_id, settings.agent, webhooks)
    door = _door(config, hierarchy)
    if door.is_open and not is_loopback(config.host):
        raise ConfigError(
            f"GATEWAY_HOST={config.host}: others can reach it there, so it needs keys or tokens. Set GATEWAY_KEYS or"
            " GATEWAY_JWT_KEYS, or leave it."
        )
    configure_logging(settings.agent.log_level, settings.agent.log_format)
    listen("agent_system.gateway", f"{config.host}:{config.port}")
    if door.is_open:
        log.warning("no GATEWAY_KEYS: whoever is on this machine may use it", extra={"action": "gateway_open"})
    sockets = _listening(config.host, config.port)
    app = gateway_app(hierarchy, door)
    errors = logging.getLogger("uvicorn.error")
    errors.setLevel(logging.WARNING)
    # That it is not opened is told below, without a traceback.
    errors.addFilter(lambda record: not hasattr(app.state, "refused") and record.msg != CUT)
    spare_collector()
    server = Serving(
        hierarchy.closing,
        uvicorn.Config(
            app, http=limited_protocol(), log_config=None, access_log=False, server_header=False,
            timeout_graceful_shutdown=END_S, ws_max_size=door.body_bytes,
        ),
    )  # fmt: skip
    try:
        server.run(sockets)
    except SystemExit:  # uvicorn's, since the application has not started
        raise getattr(app.state, "refused", SystemExit(NOT_STARTED)) from None


class Serving(uvicorn.Server):
    """Says so once it answers. The first signal to end has it finish; a second one ends it at once."""

    def __init__(self, closing: Closing, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._closing = closing

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            host, port = listening.getsockname()[:2]
            log.info("answers at http://%s:%d", host, port, extra={"action": "gateway_started"})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Takes a signal, which, unlike with uvicorn, is not raised again in the end: to be stopped is no failure."""
        if self.should_exit:
            os._exit(AT_ONCE)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("ends; what is open goes on at another gateway", extra={"action": "gateway_ends"})
        self._closing.begin()
        await super().shutdown(sockets)


def _listening(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of that host. Raises ConfigError."""
    sockets: list[socket.socket] = []
    try:
        for family, *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            sockets.append(socket.create_server(where[:2], family=family, backlog=BACKLOG))
            give_up_dead_peers(sockets[-1])
    except OSError as error:
        why = WHY_NOT.get(error.errno or 0, f"{error.strerror}. Set GATEWAY_HOST and GATEWAY_PORT")
        raise ConfigError(f"cannot listen at {host}:{port}: {why}.") from None
    return sockets


def _door(config: GatewayConfig, hierarchy: Hierarchy) -> Door:
    return Door(
        keys=keys_in(secret_text(config.keys) or ""),
        tokens=Tokens(config),
        origins=tuple(origin.strip() for origin in config.cors_origins.split(",") if origin.strip()),
        body_bytes=int(config.body_mb * 1024 * 1024),
        max_requests=config.max_requests,
        rates=partial(hierarchy.wait_s, per_s=config.rate_per_s) if config.rate_per_s else None,
    )
