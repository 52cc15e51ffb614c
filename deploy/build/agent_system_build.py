"""Builds what is installed: one package `agent_system` that holds the packages of the checkout, so that a project with
its own `core` or `worker.py` can use it. Their imports are given the prefix on the way; text that names a module uses
`core.module_names`.

A build backend by PEP 517 and 660, which pip finds through pyproject.toml and calls in the checkout. It needs only the
standard library, so that an installation fetches nothing that is not pinned, and it leaves nothing in the checkout.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["build_editable", "build_sdist", "build_wheel", "renamed"]

NAME = "agent_system"
PACKAGES = ("core", "coordinator", "distributor", "worker")
#: The package's own files; one of them is of use in a checkout only.
DOOR, LEFT_OUT = Path("deploy/package", NAME), "_checkout.py"
IN_SDIST = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "deploy", *PACKAGES)
WHEEL = f"Wheel-Version: 1.0\nGenerator: {__name__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

Files = Iterator[tuple[str, bytes]]
Settings = Mapping[str, Any] | None


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Writes the wheel; returns its file name. Raises ValueError for an import that cannot be given the prefix."""
    return _write_wheel(Path(wheel_directory), dict(_package()))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """A wheel that points at the checkout, for `agent_system` and for the packages by their own names."""
    folders = (Path.cwd(), Path.cwd() / DOOR.parent)
    return _write_wheel(Path(wheel_directory), {f"{NAME}.pth": "".join(f"{folder}\n" for folder in folders).encode()})


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """Writes an archive from which the same wheel can be built; returns its file name."""
    project = _project()
    base = f"{NAME}-{project['version']}"
    files = {path.as_posix(): path.read_bytes() for name in IN_SDIST for path in _sources(Path(name))}
    with tarfile.open(Path(sdist_directory, f"{base}.tar.gz"), "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {**files, "PKG-INFO": _metadata(project)}.items():
            entry = tarfile.TarInfo(f"{base}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return f"{base}.tar.gz"


def renamed(source: str) -> str:
    """The same module with its imports of ours below `agent_system`. Raises ValueError where that is not possible."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(_is_ours(alias.name) for alias in node.names):
            raise ValueError(f"line {node.lineno}: write from ... import ..., which can be renamed")
        if isinstance(node, ast.ImportFrom) and not node.level and _is_ours(node.module or ""):
            line, written = lines[node.lineno - 1], f"from {node.module} import"
            if line.count(written) != 1:
                raise ValueError(f"line {node.lineno}: write {written} ... on a line of its own")
            lines[node.lineno - 1] = line.replace(written, f"from {NAME}.{node.module} import")
    return "\n".join(lines)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def _package() -> Files:
    """Path in the wheel and content of each file of the package."""
    for top, inside in ((DOOR, ""), *((Path(package), f"{package}/") for package in PACKAGES)):
        for path in _sources(top):
            name = f"{NAME}/{inside}{path.relative_to(top).as_posix()}"
            if path.suffix != ".py":
                yield name, path.read_bytes()
            elif path != DOOR / LEFT_OUT:
                yield name, _renamed_file(path)


def _renamed_file(path: Path) -> bytes:
    try:
        return renamed(path.read_text("utf-8")).encode()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _sources(top: Path) -> list[Path]:
    """`top` if it is a file, else the files below it, in order; without what Python has compiled."""
    below = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
    return [path for path in below if "__pycache__" not in path.parts]


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    return project


def _metadata(project: Mapping[str, Any]) -> bytes:
    """METADATA of the wheel, version 2.4: what `[project]` says."""
    fields = [
        ("Metadata-Version", "2.4"),
        ("Name", project["name"]),
        ("Version", project["version"]),
        ("Summary", project["description"]),
        *(("Author", author["name"]) for author in project["authors"]),
        ("Keywords", ",".join(project["keywords"])),
        ("License-Expression", project["license"]),
        *(("License-File", name) for name in project["license-files"]),
        *(("Classifier", name) for name in project["classifiers"]),
        ("Requires-Python", project["requires-python"]),
        *(("Requires-Dist", requirement) for requirement in project["dependencies"]),
        *(
            field
            for extra, requirements in project["optional-dependencies"].items()
            for field in (
                ("Provides-Extra", extra),
                *(("Requires-Dist", f'{requirement} ; extra == "{extra}"') for requirement in requirements),
            )
        ),
        ("Description-Content-Type", "text/markdown"),
    ]
    head = "".join(f"{name}: {value}\n" for name, value in fields)
    return f"{head}\n{Path(project['readme']).read_text('utf-8')}".encode()


def _write_wheel(directory: Path, files: dict[str, bytes]) -> str:
    project = _project()
    info = f"{NAME}-{project['version']}.dist-info"
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    entries = "\n".join(_entry_points(group, entries) for group, entries in groups.items())
    files |= {f"{info}/licenses/{name}": Path(name).read_bytes() for name in project["license-files"]}
    files |= {
        f"{info}/METADATA": _metadata(project),
        f"{info}/WHEEL": WHEEL.encode(),
        f"{info}/entry_points.txt": entries.encode(),
    }
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    wheel = f"{NAME}-{project['version']}-py3-none-any.whl"
    with zipfile.ZipFile(directory / wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # of 1980, so that the same sources are the same wheel
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return wheel


def _entry_points(group: str, entries: Mapping[str, str]) -> str:
    return f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in entries.items())


def _record(files: Mapping[str, bytes], itself: str) -> bytes:
    """RECORD: name, hash and size of every file."""
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{itself},,\n"]).encode()
