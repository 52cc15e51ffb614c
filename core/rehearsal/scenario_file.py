"""Scenarios as small Python files, and the product's own."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from core.errors import ConfigError
from core.rehearsal.scenario import Scenario

__all__ = ["MOVING", "OWN", "scenario_in"]

#: The names of the product's own scenarios.
OWN, MOVING = "own", "moving"


def scenario_in(name: str) -> Scenario:
    """The first scenario of a file, or that of its `FILE:NAME`; one of the product's own for OWN and MOVING.

    Raises ConfigError when there is none, and whatever running the file raises."""
    if name == OWN:
        from core.rehearsal.own_scenario import everything

        return everything
    if name == MOVING:
        from core.rehearsal.moving_scenario import moving

        return moving
    file, _, wanted = name.partition(".py:")
    path = Path(f"{file}.py" if wanted else name).resolve()
    spec = spec_from_file_location(f"scenario_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file: name one that has a function with @scenario")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # it can import its neighbours
    spec.loader.exec_module(module)
    found = {key: value for key, value in vars(module).items() if isinstance(value, Scenario)}
    if not found or (wanted and wanted not in found):
        raise ConfigError(f"{path} has no scenario{f' {wanted}' if wanted else ''}: mark a function with @scenario()")
    return found[wanted] if wanted else next(iter(found.values()))
