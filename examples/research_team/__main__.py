"""`python -m examples.research_team`"""

from __future__ import annotations

import sys

from examples.research_team.demo import main

if __name__ == "__main__":
    sys.exit(main())
