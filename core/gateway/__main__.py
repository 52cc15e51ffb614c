"""`python -m core.gateway`"""

from __future__ import annotations

import argparse
import logging
import sys

from core.config.sources import load, take_secrets
from core.errors import AgentSystemError
from core.machine.process_secrets import guard
from core.module_names import module_name
from core.printable import printable_lines

__all__ = ["main", "run_gateway"]

log = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Runs a gateway until it is stopped; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module_name('core.gateway')}", description="Answers HTTP requests until it is stopped."
    )
    parser.add_argument(
        "--id", default="gateway", metavar="ID", help="as whom it submits tasks: a client's name, or operator:NAME"
    )
    parser.add_argument("--host", dest="GATEWAY_HOST", help="the address at which it listens (default: 127.0.0.1)")
    parser.add_argument("--port", dest="GATEWAY_PORT", help="default: 9001")
    flags = vars(parser.parse_args(argv))
    try:
        run_gateway(flags.pop("id"), flags)
    except AgentSystemError as error:
        sys.stderr.write(f"{parser.prog}: {printable_lines(str(error))}\n")
        return error.exit_code
    return 0


def run_gateway(client_id: str, flags: dict[str, object]) -> None:
    """Answers requests until a signal ends it. `flags`: by the variables that they override. Raises ConfigError,
    TransportDown."""
    from core.gateway.serving import serve

    guard()
    settings = load(flags)
    take_secrets()
    for doubt in settings.doubts:
        log.warning("ignored: %s", doubt, extra={"action": "setting_misspelt"})
    serve(settings, client_id)


if __name__ == "__main__":
    sys.exit(main())
