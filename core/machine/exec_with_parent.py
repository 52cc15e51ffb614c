"""`python -m core.machine.exec_with_parent PARENT COMMAND...` becomes the command, which dies with its parent (Linux).

It is meant for a parent with threads, in which Python code between fork and exec would not be safe.
"""

from __future__ import annotations

import os
import sys

from core.machine.prctl import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
