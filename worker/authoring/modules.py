"""Imports the user's modules, so that their decorators register."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from core.errors import ConfigError, UserError
from worker.authoring.registry import HANDLERS

__all__ = ["load_file", "load_modules", "raised"]


def load_modules(names: Sequence[str]) -> None:
    """Imports each of `names`: a module (`shop.tasks`, which may be in the current directory) or a file (`./tasks.py`).
    Importing again does nothing.

    Raises ConfigError when one cannot be imported, or when none of them has registered a handler.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        try:
            _load_file(Path(name)) if _is_file(name) else importlib.import_module(name)
        except UserError:
            raise
        except Exception as error:
            raise ConfigError(f"--import {name}: {_cure(name, error)}") from error
    if names and not HANDLERS.names():
        raise ConfigError(
            f"--import {' '.join(names)}: imported, but nothing in there is marked @task(...) or @agent(...)."
            " Mark at least one function."
        )


def load_file(path: Path, name: str) -> ModuleType:
    """Runs the file at `path` as the module `name`, and returns it. Raises ConfigError when it is not a Python file,
    and whatever running it raises."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_file(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _load_file(path: Path) -> None:
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"--import {path}: there is no such file")
    loaded = sys.modules.get(path.stem)
    if loaded is None:
        # The script can import its neighbours, as it can when it runs by itself.
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        load_file(path, path.stem)
    elif Path(getattr(loaded, "__file__", None) or "").resolve() != path:
        raise ConfigError(
            f"--import {path}: a module called {path.stem!r} is loaded already (from"
            f" {getattr(loaded, '__file__', None) or 'the interpreter'}). Rename the file."
        )


def _cure(name: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (name == missing or name.startswith(missing + ".")):
        return (
            f"there is no module {missing!r} in {os.getcwd()} or on the Python path."
            " Check the spelling, start in its directory, or name the file: --import ./path/to/file.py"
        )
    if missing:
        return f"it needs the module {missing!r}, which is not installed here"
    return f"importing it {raised(error)}"


def raised(error: BaseException) -> str:
    """What an import raised, and where, as the end of a sentence."""
    if isinstance(error, SyntaxError):  # it is not where Python has met it
        return f"raised {type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}: {error}{where}"
