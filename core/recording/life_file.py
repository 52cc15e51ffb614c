"""The file of one life: written a turn at a time, up to a bound."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from core.errors import ConfigError
from core.recording.life import Beginning, Head, Turn, head_text, turn_text
from core.roles import Address

__all__ = ["LIMIT_BYTES", "LifeFile", "recording_folder"]

log = logging.getLogger(__name__)

#: What one agent may write to a folder, in bytes, all its lives together.
LIMIT_BYTES = 256 * 1024 * 1024
#: Room for the line that says so.
_END_BYTES = 200


def recording_folder(path: Path) -> Path:
    """The absolute path of a folder for recordings, which is made (mode 700) if missing.

    Raises ConfigError when nothing can be written there."""
    path = path.expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"AGENT_RECORD: {path} cannot be used: {error.strerror}. Set it to a folder in which this user may write."
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"AGENT_RECORD: this user may not write to {path}. Set another folder, or change its mode.")
    return path


class LifeFile:
    """The file of one life of an agent. Only this user can read it, since it holds the payloads of tasks.

    A turn is written with one call, so that a process that is killed leaves at most one line that is not whole. What
    cannot be written ends the recording, and nothing else.
    """

    def __init__(self, folder: Path, me: Address, head: Head, beginning: Beginning, limit_bytes: int) -> None:
        self._me = me
        self._file: BinaryIO | None = None
        self._left = 0
        name = str(me).replace(":", "-")
        self._limit_bytes = limit_bytes
        text = head_text(head, beginning).encode()
        try:
            written = [path.stat().st_size for path in folder.glob(f"{name}.life-*.txt")]
            self._left = limit_bytes - sum(written)
            if self._left < len(text) + _END_BYTES:  # not even its beginning fits
                self._warn(self._bound)
                return
            self._file = _opened(folder, name, len(written) + 1)
        except OSError as error:
            self._warn(f"its file cannot be made: {error.strerror}")
            return
        self._put(text)

    def write(self, turn: Turn) -> None:
        """Appends a turn, or ends the recording if there is no room for it."""
        if self._file is None:
            return
        text = turn_text(turn).encode()
        if self._left < len(text) + _END_BYTES:
            self._put(f"end {self._bound}\n".encode())
            self._warn(self._bound)
            self.close()
        else:
            self._put(text)

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with suppress(OSError):  # what a full disk did not take was warned of
                file.close()

    @property
    def _bound(self) -> str:
        return f"{self._me} has written {self._limit_bytes:,} bytes to this folder, and an agent may not write more"

    def _put(self, text: bytes) -> None:
        assert self._file
        try:
            self._file.write(text)
            self._file.flush()
            self._left -= len(text)
        except OSError as error:
            self._warn(f"its file cannot be written: {error.strerror}")
            self.close()

    def _warn(self, why: str) -> None:
        log.warning("the recording of %s ends: %s", self._me, why, extra={"action": "recording_ended"})


def _opened(folder: Path, name: str, number: int) -> BinaryIO:
    """A new file: another process of the same agent may just have made the one with that number."""
    while True:
        try:
            path = folder / f"{name}.life-{number}.txt"
            return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        except FileExistsError:
            number += 1
