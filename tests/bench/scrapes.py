"""Reads metrics as Prometheus does, from a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing

__all__ = ["Scrapes"]

LOOP = """
import http.client, time
while True:
    for port in {ports}:
        try:
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            asked.request("GET", "/metrics")
            asked.getresponse().read()
        except OSError:
            pass
    time.sleep(1)
"""


class Scrapes:
    """Reads the metrics at each port once a second, until it is closed."""

    def __init__(self) -> None:
        self._ports: list[int] = []
        self._reader: subprocess.Popen[bytes] | None = None

    def add(self) -> int:
        """One more port, which is free now."""
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))
            port: int = taken.getsockname()[1]
        self._ports.append(port)
        self.close()
        self._reader = subprocess.Popen([sys.executable, "-c", LOOP.format(ports=self._ports)])
        return port

    def close(self) -> None:
        if self._reader is not None:
            self._reader.kill()
            self._reader.wait()
            self._reader = None
