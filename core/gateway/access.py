"""Who asks something of a gateway: API keys, the roles they have, and which pages of a browser are let in."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from fastapi import Request, WebSocket

from core.errors import ConfigError
from core.gateway.problems import Problem

__all__ = [
    "LOOPBACK_ORIGIN", "NAME", "NOBODY", "OF_THIS_MACHINE", "ApiKey", "Caller", "CallerRole", "caller_of",
    "is_loopback", "keys_in", "of_loopback", "whose",
]  # fmt: skip

LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: A name of a key, or of a tenant.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
LOOPBACK_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")


class CallerRole(StrEnum):
    """What somebody is to a gateway; core/gateway/rbac.py has what each role may do."""

    VIEWER = "viewer"
    AGENT = "agent"  #: an agent in another program, which is only itself
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was let in."""

    name: str
    role: CallerRole
    tenant: str | None = None  #: sees and submits only what belongs to this tenant; None: whatever there is
    until_s: float | None = field(default=None, compare=False)  #: when its token expires, s since 1970; None: never

    @property
    def full_name(self) -> str:
        """The name, which only within its tenant is that of nobody else."""
        return self.name if self.tenant is None else f"{self.tenant}\0{self.name}"

    def sees(self, tenant: str | None) -> bool:
        """Whether the caller sees what belongs to this tenant, or to none."""
        return self.tenant in (None, tenant)

    def check_speaks_for(self, agent_id: str) -> None:
        """Raises Problem unless the caller may act as this agent."""
        if self.role is CallerRole.AGENT and agent_id != self.name:
            raise Problem(403, f"this key or token is that of agent {self.name!r}; it cannot act as {agent_id[:80]!r}")


#: Who asks where no keys are needed.
OF_THIS_MACHINE = Caller("this machine", CallerRole.ADMIN)
#: Who asks without a key for what needs none.
NOBODY = Caller("nobody", CallerRole.VIEWER, tenant="")


def caller_of(connection: Request | WebSocket) -> Caller:
    """Whom the gate has let in with this request."""
    caller = connection.scope["caller"]
    assert isinstance(caller, Caller)
    return caller


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, known by its SHA-256 alone."""

    digest: bytes  #: in hexadecimal
    caller: Caller


def keys_in(text: str) -> tuple[ApiKey, ...]:
    """The keys of GATEWAY_KEYS, `name:role:sha256` or `name:role:sha256:tenant`, separated by commas or lines. Raises
    ConfigError."""
    return tuple(_key(line.strip()) for line in re.split(r"[,\n]", text) if line.strip())


def _key(line: str) -> ApiKey:
    name, role, digest, tenant, *more = [*line.split(":"), "", "", ""]
    sound = NAME.fullmatch(name) and (not tenant or NAME.fullmatch(tenant)) and not any(more)
    if role not in set(CallerRole) or not re.fullmatch("[0-9a-f]{64}", digest) or not sound:
        raise ConfigError(
            f"GATEWAY_KEYS: the entry of {name[:40]!r} is not name:role:hash or name:role:hash:tenant, with a role of"
            f" {', '.join(CallerRole)}, and the SHA-256 of the key in 64 hexadecimal digits:"
            " `printf %s KEY | sha256sum`."
        )
    return ApiKey(digest.encode(), Caller(name, CallerRole(role), tenant or None))


def whose(key: str, known: Iterable[ApiKey]) -> Caller | None:
    """Who has this key; None: nobody. It takes as long for a key that is nearly right."""
    digest = hashlib.sha256(key.encode()).hexdigest().encode()
    found = [entry.caller for entry in known if hmac.compare_digest(entry.digest, digest)]
    return found[0] if found else None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    return host in LOOPBACK


def of_loopback(origin: str) -> bool:
    """Whether a page comes from this machine."""
    return LOOPBACK_ORIGIN.fullmatch(origin) is not None
