"""`python -m agent_system`, the command `agents`."""

from __future__ import annotations

import sys

from core.cli.__main__ import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
