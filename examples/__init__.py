"""Programs of a checkout. They run on its own `agent_system`, whether or not one is installed beside it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy" / "package"))
