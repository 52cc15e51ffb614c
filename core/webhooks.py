"""Webhooks: whom a gateway may call when a task has ended, how it signs what it says, and when it tries again. No I/O.

A host is allowed by a pattern of its name, and then only at public addresses. Other addresses, those of this machine
and of private networks among them, are allowed by their network. So a name that somebody else controls leads nowhere
inside.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from core.errors import BadWebhook

__all__ = ["MAX_TRIES", "AllowedHosts", "WebhookRules", "allowed_hosts", "check_url", "retry_delay_s", "signature"]

#: How often a delivery is tried: the last time about 25 minutes after the first, when its task is still recorded.
MAX_TRIES = 12
URL_LENGTH = 2_000

#: Networks of IPv6 whose addresses end in the IPv4 address that they stand for.
OF_IPV4 = tuple(map(IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")))

Network = IPv4Network | IPv6Network


def check_url(url: str) -> str:
    """The host of a URL, in small letters. Raises BadWebhook for one that nobody can call."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise BadWebhook("webhook: this is no URL; give one as https://hooks.example/ended") from None
    if parts.scheme not in ("https", "http") or not host or len(url) > URL_LENGTH or not url.isascii():
        raise BadWebhook("webhook: give a URL as https://hooks.example/ended, in ASCII, of at most 2000 characters")
    if parts.username is not None or parts.fragment:
        raise BadWebhook("webhook: leave the user, the password and the fragment out of the URL")
    return host


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Whom a gateway may call."""

    names: tuple[str, ...] = ()  #: patterns of names of hosts, in small letters
    networks: tuple[Network, ...] = ()

    def check(self, url: str) -> None:
        """Raises BadWebhook unless that URL may be called, as far as it tells."""
        host = check_url(url)
        address = _address(host)
        if address is not None:
            if not self.has(address):
                raise BadWebhook(f"webhook: address {host} is not allowed; GATEWAY_WEBHOOK_HOSTS has networks that are")
        elif not any(fnmatchcase(host, pattern) for pattern in self.names):
            raise BadWebhook(f"webhook: host {host[:80]!r} is not allowed; GATEWAY_WEBHOOK_HOSTS has those that are")

    def has(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether an address is allowed by its network."""
        return any(address in network for network in self.networks)

    def reachable(self, addresses: Iterable[str]) -> str | None:
        """The first of the addresses of an allowed host that may be connected to; None: there is none."""
        for text in addresses:
            inner = _within(ip_address(text))
            if self.has(inner) or (inner.is_global and not inner.is_multicast):
                return text
        return None


@dataclass(frozen=True, slots=True)
class WebhookRules:
    """Whom a gateway may call, and with which secret it signs; without one it calls nobody."""

    hosts: AllowedHosts = AllowedHosts()
    secret: str = field(default="", repr=False)

    def check(self, url: str) -> None:
        """Raises BadWebhook unless that URL may be called."""
        if not self.secret:
            raise BadWebhook("webhook: this gateway calls nobody; set its WEBHOOK_SECRET, and GATEWAY_WEBHOOK_HOSTS")
        self.hosts.check(url)


def allowed_hosts(text: str) -> AllowedHosts:
    """The hosts of a setting, separated by commas: patterns such as `*.example.com`, addresses, and networks such as
    `10.0.0.0/8`. Raises ValueError."""
    names, networks = [], []
    for entry in filter(None, (part.strip().lower() for part in text.split(","))):
        try:
            networks.append(ip_network(entry))
        except ValueError:
            if not entry.replace("*", "a").replace("-", "a").replace(".", "a").isalnum() or entry.strip("*.") == "":
                raise ValueError(f"{entry[:80]!r} is neither a host nor a network") from None
            names.append(entry)
    return AllowedHosts(tuple(names), tuple(networks))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _within(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for; the address itself, if it stands for none."""
    if isinstance(address, IPv4Address):
        return address
    if any(address in network for network in OF_IPV4) and not address.is_loopback:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address


def signature(secret: str, at_s: int, body: bytes) -> str:
    """The header that shows who has sent a body, and when: `t=SECONDS,v1=HMAC-SHA256 of "SECONDS.BODY"`, in
    hexadecimal."""
    mac = hmac.new(secret.encode(), f"{at_s}.".encode() + body, hashlib.sha256)
    return f"t={at_s},v1={mac.hexdigest()}"


def retry_delay_s(delivery_id: str, tries: int) -> float:
    """The pause after that many tries: a second, doubled for each, of which the id chooses between half and all, so
    that deliveries that fail together are not tried again at one moment."""
    longest_s = 2.0 ** (tries - 1)
    spread = hashlib.sha256(f"{delivery_id} {tries}".encode()).digest()[0] / 255
    return longest_s * (1 + spread) / 2
