"""The configuration of the embedded server. It only has settings that Redis 6.2 and every Valkey know."""

from __future__ import annotations

from pathlib import Path

from core.embedded_server.server_directory import ServerDirectory

__all__ = ["server_conf"]


def server_conf(port: int, bind: str, socket_path: Path, directory: ServerDirectory) -> str:
    """The text of server.conf, which holds the password."""
    lines = {
        "bind": bind,
        "port": str(port),
        "unixsocket": _quoted(str(socket_path)),
        "unixsocketperm": "700",
        "protected-mode": "yes",
        "requirepass": _quoted(directory.password()),
        "dir": _quoted(str(directory.path)),
        # A write reaches the operating system before its reply is sent, and the disk within a second.
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        # When memory is full, new work must be refused, and accepted work must not be dropped.
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": '""',
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
