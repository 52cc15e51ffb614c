"""The address of a Redis server, parsed from REDIS_URL or taken from single settings."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from pydantic import SecretStr

from core.config.variables import BadSetting

__all__ = ["Endpoint", "endpoint_of_url", "is_loopback"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a server, and the credentials for it."""

    host: str
    port: int
    socket_path: str | None  #: a Unix socket, which makes host and port meaningless; None: there is none
    db: int
    username: str | None
    password: SecretStr | None
    use_tls: bool

    @property
    def is_local(self) -> bool:
        """Whether the server must be on this machine, since it has a Unix socket or a loopback address."""
        return self.socket_path is not None or is_loopback(self.host)

    def __str__(self) -> str:
        """The address as a URL, without user and password."""
        if self.socket_path is not None:
            return f"unix://{quote(self.socket_path)}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.use_tls else 'redis'}://{host}:{self.port}/{self.db}"


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address. Names are not resolved, so among them only localhost is."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"


def endpoint_of_url(url: str, parts: Endpoint) -> Endpoint:
    """The endpoint of a URL, completed from `parts`. Errors do not contain the URL, since it may hold a password."""
    try:
        split = urlsplit(url)
        port, options = split.port or 6379, dict(parse_qsl(split.query, strict_parsing=bool(split.query)))
        path = "" if split.scheme == "unix" else split.path.strip("/")
        db = int(options.pop("db", path or parts.db))
    except ValueError:
        raise BadSetting("REDIS_URL", f"its port, database or options are malformed. {_cure(url)}") from None
    if options or split.fragment:
        raise BadSetting("REDIS_URL", f"it has options other than db, which are not supported. {_cure(url)}")
    if split.scheme not in {"redis", "rediss", "unix"}:
        raise BadSetting("REDIS_URL", f"it begins with {split.scheme[:20]!r}. {_cure(url)}")
    if not (split.path.strip("/") if split.scheme == "unix" else split.hostname) or not 0 <= db <= 65_535:
        raise BadSetting("REDIS_URL", f"it names no server, or no possible database. {_cure(url)}")
    if parts.use_tls and split.scheme != "rediss":
        raise BadSetting("REDIS_URL", "it asks for no TLS, but REDIS_USE_TLS=true does. Write rediss://, or unset one.")
    return Endpoint(
        host=split.hostname or parts.host,
        port=port,
        socket_path=unquote(split.path) if split.scheme == "unix" else None,
        db=db,
        username=unquote(split.username) if split.username else parts.username,
        password=SecretStr(unquote(split.password)) if split.password else parts.password,
        use_tls=split.scheme == "rediss",
    )


_URL_CURE = "Write redis://user:password@host:6379/0, rediss://... for TLS, or unix:///path/to/socket?db=0."
_ENCODING = (
    " In a password, write # as %23, / as %2F, ? as %3F, [ as %5B, ] as %5D, @ as %40 and % as %25 (percent-encoding);"
    " or set it as REDIS_PASSWORD, which takes it as it is."
)


def _cure(url: str) -> str:
    """A hint on the format of the URL, and if it may hold a password, on the characters that must be escaped there."""
    return _URL_CURE + (_ENCODING if "@" in url else "")
