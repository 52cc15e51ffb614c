"""Asks an agent's health port. It imports almost nothing, since a probe may run every few seconds beside every agent,
and importing the rest of `agents` takes ten times as long as a probe."""

from __future__ import annotations

import os
import socket
import sys

__all__ = ["ask", "probe", "target"]

#: Seconds to wait for the answer. Probes of containers have a limit of their own.
TIMEOUT_S = 3.0
MAX_BYTES = 65536
#: The local address for each address that means all addresses of a machine.
_HERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def probe(arguments: list[str]) -> int | None:
    """Runs `agents healthcheck ARGUMENTS`, and returns its exit code; None: the arguments need help or an error
    message."""
    url, port, live = "", os.environ.get("AGENT_HEALTH_PORT", ""), False
    rest = iter(arguments)
    for argument in rest:
        if argument == "--live":
            live = True
        elif argument == "--port":
            port = next(rest, "")
        elif argument.startswith("-") or url:
            return None
        else:
            url = argument
    try:
        return ask(*target(url, port, live))
    except ValueError:
        return None


def target(url: str, port: str, live: bool) -> tuple[str, int, str]:
    """The host, port and path to ask: those of `url` (http://HOST:PORT, with or without a path), or else `port` on this
    machine. Raises ValueError when that is not an address."""
    scheme, _, rest = url.rpartition("://")
    if scheme not in ("", "http"):
        raise ValueError(f"{url!r}: only http:// can be asked")
    where, _, path = rest.partition("/")
    host, _, number = where.rpartition(":") if url else (os.environ.get("AGENT_HEALTH_HOST", ""), "", port)
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        raise ValueError(f"{number!r} is no port" if number else "which port? There is no --port and no URL")
    host = host.strip("[]")
    return _HERE.get(host, host), int(number), f"/{path}" if path else "/livez" if live else "/readyz"


def ask(host: str, port: int, path: str) -> int:
    """Prints the agent's answer in one line. Returns 0 if its status is 200; otherwise, or without an answer, 1."""
    try:
        code, said = _answer(host, port, path)
    except OSError as error:
        code, said = 0, f"no answer at {host}:{port}: {error}"
    if not said.isprintable():  # no agent answers like that, and the import takes a sixth of a probe
        from core.printable import printable

        said = printable(said)
    print(said, file=sys.stdout if code == 200 else sys.stderr)
    return 0 if code == 200 else 1


def _answer(host: str, port: int, path: str) -> tuple[int, str]:
    with socket.create_connection((host, port), TIMEOUT_S) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        said = b""
        while len(said) < MAX_BYTES and (more := connection.recv(MAX_BYTES)):
            said += more
    head, _, body = said.partition(b"\r\n\r\n")
    status = head.split(None, 2)[1:2]
    return int(status[0]) if status and status[0].isdigit() else 0, (body or head).decode(errors="replace").strip()
