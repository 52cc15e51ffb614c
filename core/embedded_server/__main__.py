"""`python -m core.embedded_server ORDERS`: a supervisor, detached from the process that starts it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path

from core.embedded_server.server_directory import ServerDirectory
from core.embedded_server.supervisor import Orders, Supervisor
from core.machine.file_lock import try_lock
from core.machine.forked import fork
from core.machine.process_secrets import guard


def main() -> None:
    guard()
    orders = Orders(**json.loads(sys.argv[1]))
    fork(partial(_supervise, orders))
    os._exit(0)  # the process that started it waits only for this one, so that no zombie remains


def _supervise(orders: Orders) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(process)d:supervisor %(asctime)s %(message)s")
    lock = try_lock(ServerDirectory(Path(orders.directory)).alive_lock)
    if lock is None:  # another supervisor was faster, or the server of a dead one still runs
        logging.getLogger("supervisor").info("another server is alive")
        return 0
    Supervisor(orders, lock).run()
    return 0


if __name__ == "__main__":
    main()
