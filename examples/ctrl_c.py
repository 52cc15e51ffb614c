"""How an example ends before its time."""

from __future__ import annotations

import signal

__all__ = ["end_as_by_ctrl_c"]


def end_as_by_ctrl_c() -> None:
    """From now on SIGTERM, and the end of the terminal, end this process as Ctrl-C does: it ends first what it has
    started."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, signal.default_int_handler)
