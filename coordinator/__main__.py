"""`python -m coordinator`"""

from __future__ import annotations

import sys

from coordinator.agent import CoordinatorAgent
from core.runtime.main import arguments, run_agent


def main(argv: list[str] | None = None) -> int:
    """Runs a coordinator to its end; returns the exit code."""
    return run_agent(
        arguments("coordinator", "COORDINATOR_ID"),
        lambda flags, settings: CoordinatorAgent(
            settings.coordinator_id,
            settings.redis,
            settings.a2a_for(settings.coordinator_id),
            settings.agent,
        ),
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
