"""A gateway as a process."""

from __future__ import annotations

import logging

import uvicorn

from core.config.settings import Settings
from core.errors import ConfigError
from core.gateway.access import is_loopback, keys_in
from core.gateway.app import gateway_app
from core.gateway.hierarchy import Hierarchy
from core.runtime.logs import configure_logging

__all__ = ["serve"]

#: Seconds that open streams get when the process is asked to end. Their clients go on at another gateway.
END_S = 2

log = logging.getLogger(__name__)


def serve(settings: Settings, keys: str, host: str, port: int, client_id: str) -> None:
    """Answers requests until a signal ends it. `keys`: as in GATEWAY_KEYS; empty: whoever is on this machine may use
    it. Raises ConfigError: it would be open to others."""
    known = keys_in(keys)
    if not known and not is_loopback(host):
        raise ConfigError(f"--host {host}: others can reach it there, so it needs keys. Set GATEWAY_KEYS, or leave it.")
    configure_logging(settings.agent.log_level, settings.agent.log_format)
    if not known:
        log.warning("no GATEWAY_KEYS: whoever is on this machine may use it", extra={"action": "gateway_open"})
    hierarchy = Hierarchy(settings.redis, settings.a2a, settings.coordinator_id, client_id)
    log.info("answers at http://%s:%d", host, port, extra={"action": "gateway_started"})
    uvicorn.run(
        gateway_app(hierarchy, known), host=host, port=port, log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=END_S,
    )  # fmt: skip
