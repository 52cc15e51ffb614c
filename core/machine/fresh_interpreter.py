"""Lets a new interpreter find the same modules as this one."""

from __future__ import annotations

import os
import sys

from core.module_names import CHECKOUT

__all__ = ["python_path"]


def python_path() -> str:
    """The PYTHONPATH for a new interpreter. The packages of a checkout come first, before packages of the same names in
    the directory where it starts. An installed package keeps its place, since it must not precede the standard
    library."""
    folders = [path or os.getcwd() for path in sys.path]
    return os.pathsep.join([CHECKOUT, *folders] if CHECKOUT else folders)
