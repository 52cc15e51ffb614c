"""What our modules are called: `worker.rules` in a checkout, `agent_system.worker.rules` where we are installed.

An import statement is given its prefix when the package is built (`deploy/build/backend.py`). A module that is named in
text, because it is started as a program or because its importer may not know it, gets it here.
"""

from __future__ import annotations

__all__ = ["CHECKOUT", "module_name"]

_PREFIX = __name__.rpartition("core.")[0]
#: The folder that our packages lie in, if this is a checkout; empty where we are installed.
CHECKOUT = "" if _PREFIX else __file__.removesuffix("/core/module_names.py")


def module_name(module: str) -> str:
    """The name to import or start `module` by, which is given as it is called in a checkout."""
    return _PREFIX + module
