"""`python -m core.machine.exec_with_parent PARENT COMMAND...` becomes the command, which dies with its parent (Linux).

For a parent with threads: the code between its fork and an exec is not safe in Python, and in here it is.
"""

from __future__ import annotations

import os
import sys

from core.machine.prctl import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
