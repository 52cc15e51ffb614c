"""What an interpreter that is started anew needs to know, to find the same modules as this one."""

from __future__ import annotations

import os
import sys

from core.module_names import CHECKOUT

__all__ = ["python_path"]


def python_path() -> str:
    """Its PYTHONPATH. The packages of a checkout come first, before those of the same names where it is started; an
    installed one keeps its place, since what is installed may not go before the standard library."""
    folders = [path or os.getcwd() for path in sys.path]
    return os.pathsep.join([CHECKOUT, *folders] if CHECKOUT else folders)
