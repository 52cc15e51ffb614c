"""`python -m distributor`"""

from __future__ import annotations

import sys

from core.runtime.main import arguments, run_agent
from distributor.agent import DistributorAgent


def main(argv: list[str] | None = None) -> int:
    """Runs a distributor to its end; returns the exit code."""
    parser = arguments("distributor", "DISTRIBUTOR_ID")
    parser.add_argument(
        "--coordinator", dest="COORDINATOR_ID", metavar="ID", help="its coordinator (default: coordinator-1)"
    )
    return run_agent(
        parser,
        lambda flags, settings: DistributorAgent(
            settings.distributor_id,
            settings.redis,
            settings.a2a_for(settings.distributor_id),
            settings.coordinator_id,
            settings.agent,
        ),
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
