"""The names of our modules: `worker.rules` in a checkout, `agent_system.worker.rules` when installed.

An import statement is given its prefix when the package is built (`deploy/build/backend.py`). A module that is named in
text, because it is started as a program or because its importer may not know it, gets it here.
"""

from __future__ import annotations

__all__ = ["CHECKOUT", "module_name"]

_PREFIX = __name__.rpartition("core.")[0]
#: The folder with our packages, in a checkout; empty when installed.
CHECKOUT = "" if _PREFIX else __file__.removesuffix("/core/module_names.py")


def module_name(module: str) -> str:
    """The name by which to import or start `module`, which is given by its name in a checkout."""
    return _PREFIX + module
