"""In a checkout `agent_system.core.tasks` is the module `core.tasks`: one module under two names, so that a Task has
one class however it was imported. The installed package has one name for each module, and is built without this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType

__all__ = ["share_modules"]

PREFIX = __name__.removesuffix("_checkout")
PACKAGES = ("core", "coordinator", "distributor", "worker")
CHECKOUT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))


def share_modules() -> None:
    """From now on the packages beside are found below `agent_system` too. Raises ImportError, with the cure, where
    Python finds other ones of their names first, or none."""
    for package in PACKAGES:
        spec = find_spec(package)
        found = os.path.realpath(spec.origin or "") if spec else "none"
        if not found.startswith(CHECKOUT + os.sep):
            raise ImportError(
                f"agent_system of the checkout {CHECKOUT} needs its own {package!r}, and Python finds {found}."
                f" A project that has one of that name installs the package: pip install {CHECKOUT}"
            ) from None
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(PREFIX)
        if name == fullname or name.partition(".")[0] not in PACKAGES:
            return None
        spec = find_spec(name)
        if spec is None:
            return None
        return ModuleSpec(
            fullname, _Shared(spec), origin=spec.origin, is_package=spec.submodule_search_locations is not None
        )


class _Shared(InspectLoader):
    """Gives the module that another name stands for, which stays what it is."""

    def __init__(self, spec: ModuleSpec) -> None:
        self._spec = spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return import_module(self._spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # it has been given the one of its second name meanwhile

    def get_code(self, fullname: str) -> CodeType | None:
        """For `python -m agent_system.worker`."""
        assert isinstance(self._spec.loader, InspectLoader)
        return self._spec.loader.get_code(self._spec.name)

    def get_source(self, fullname: str) -> str | None:
        assert isinstance(self._spec.loader, InspectLoader)
        return self._spec.loader.get_source(self._spec.name)
