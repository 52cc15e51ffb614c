"""Loads the settings from flags, the environment, a `.env` file and secret files.

Each source becomes a layer of raw values. pydantic-settings merges the layers and validates the result.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dotenv.parser import parse_stream
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from core.config.settings import (
    PLACEHOLDER_SECRET,
    A2ASecrets,
    AgentConfig,
    AgentIds,
    GatewayConfig,
    RedisConfig,
    Setting,
    Settings,
)
from core.config.variables import BadSetting, Variable, secret_text, variable_of
from core.errors import ConfigError

__all__ = ["load", "take_secrets"]

PREFIXES = ("REDIS_", "A2A_", "AGENT_", "GATEWAY_")
#: Kubernetes sets these in every container of a namespace for each of its services, by the name of the service. It also
#: sets NAME_PORT, whose value differs from that of our ports.
_SERVICE_LINK = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_LINKED_PORT = re.compile(r"(tcp|udp|sctp)://.*")
#: The similarity (difflib's ratio) from which on a name counts as misspelt: REDIS_PROT does, but not REDIS_TLS_URL,
#: which hosting services set.
_MISSPELT = 0.88
#: for a name that is wrong in any case, and may be meant for one of ours
_MAY_BE_MEANT = 0.75
_SECRET_FILE_LIMIT_BYTES = 64 * 1024
#: variable -> value: secrets that this process has taken out of its environment
_taken: dict[str, str] = {}


class _Tree(BaseSettings):
    """All settings, merged from `layers`, of which the first has precedence."""

    model_config = SettingsConfigDict(extra="forbid")

    redis: RedisConfig = RedisConfig()
    a2a: A2ASecrets = A2ASecrets()
    agent: AgentConfig = AgentConfig()
    gateway: GatewayConfig = GatewayConfig()
    ids: AgentIds = AgentIds()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        layers = cast(InitSettingsSource, init_settings).init_kwargs["layers"]
        return tuple(InitSettingsSource(settings_cls, init_kwargs=layer.tree()) for layer in layers)


@dataclass(frozen=True, slots=True)
class _Known:
    """A variable, and the field that it sets: `field` in the `group` of _Tree."""

    variable: Variable
    group: str
    field: str


def _catalogue() -> Iterator[tuple[str, _Known]]:
    for group, info in _Tree.model_fields.items():
        model = cast(type[BaseModel], info.annotation)
        for field in model.model_fields:
            if variable := variable_of(model, field):
                yield variable.name, _Known(variable, group, field)


#: All variables, in the order in which they are shown.
KNOWN: dict[str, _Known] = dict(_catalogue())
_FILES = {f"{name}_FILE": name for name, known in KNOWN.items() if known.variable.secret}


@dataclass(frozen=True, slots=True)
class _Layer:
    """The values from one source."""

    place: str  #: flag | environment | .env
    values: dict[str, object]  #: variable -> raw value, including the contents of secret files
    from_files: Mapping[str, Path]  #: variable -> the file that its value comes from
    doubts: tuple[str, ...]  #: a sentence for each name that is ignored but may be misspelt

    def tree(self) -> dict[str, dict[str, object]]:
        groups: dict[str, dict[str, object]] = {}
        for name, value in self.values.items():
            known = KNOWN[name]
            groups.setdefault(known.group, {})[known.field] = value
        return groups


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    dotenv_path: str | Path = ".env",
) -> Settings:
    """The settings. For each variable the first value counts, in the order flag, environment, `.env`, default.

    `flags`: by the variable that a flag overrides, such as `{"REDIS_URL": "redis://..."}`; None: the flag is not given.
    An empty value counts as not set, and so does a variable that Kubernetes sets for a service.

    Raises ConfigError for a malformed value, and for an unknown variable that resembles one of ours, or that begins
    with REDIS_, A2A_, AGENT_ or GATEWAY_ in `.env`. The error names the variable, the source, the problem and the
    remedy. Other programs share the environment, so there a name is refused only if it has such a prefix and also
    resembles one of ours; otherwise see `Settings.doubts`.
    """
    return _read(flags or {}, environ, Path(dotenv_path))


def _read(flags: Mapping[str, object], environ: Mapping[str, str], dotenv_path: Path) -> Settings:
    layers = [
        _layer("flag", {name: value for name, value in flags.items() if value is not None}),
        _layer("environment", dict(_variables(environ))),
        _layer(".env", dict(_dotenv(dotenv_path))),
    ]
    try:
        tree = _Tree(**cast(dict[str, Any], {"layers": layers}))
    except BadSetting as error:
        place = next(
            (f"from {_place(layer, error.variable)}" for layer in layers if error.variable in layer.values), ""
        )
        raise BadSetting(error.variable, error.problem, place) from None
    return Settings(
        redis=tree.redis,
        a2a=tree.a2a,
        agent=tree.agent,
        gateway=tree.gateway,
        coordinator_id=tree.ids.coordinator_id,
        distributor_id=tree.ids.distributor_id,
        worker_id=tree.ids.worker_id,
        client_id=tree.ids.client_id,
        sources=[_setting(name, tree, layers) for name in KNOWN],
        secret_files=tuple(_secret_files(layers, dotenv_path, tree)),
        doubts=tuple(doubt for layer in layers for doubt in layer.doubts),
    )


def take_secrets() -> None:
    """Removes the secrets from `os.environ`, so that programs started from here and crash reports do not contain them.
    Settings that this process loads later still have them."""
    for name, known in KNOWN.items():
        if known.variable.secret and name in os.environ:
            _taken[name] = os.environ.pop(name)


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    taken = _taken if environ is os.environ else {}
    yield from ((name, value) for name, value in {**taken, **environ}.items() if not _is_service_link(name, value))


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and _LINKED_PORT.fullmatch(value)))


def _secret_files(layers: list[_Layer], dotenv_path: Path, tree: _Tree) -> Iterator[Path]:
    for layer in layers:
        yield from layer.from_files.values()
        if layer.place == ".env" and any(_is_secret(name, layer.values[name]) for name in layer.values):
            yield dotenv_path
    if tree.a2a.use_mtls and tree.a2a.key_path is not None:
        yield tree.a2a.key_path


def _is_secret(name: str, value: object) -> bool:
    if name == "REDIS_URL":
        return "@" in str(value)
    return KNOWN[name].variable.secret and value != PLACEHOLDER_SECRET


def _layer(place: str, raw: Mapping[str, object]) -> _Layer:
    values = {name: value for name, value in raw.items() if name in KNOWN and value != ""}
    from_files: dict[str, Path] = {}
    doubts = []
    for name, value in raw.items():
        if name in KNOWN or value == "":
            continue
        if name not in _FILES:
            doubts += _doubts(name, place)
            continue
        secret = _FILES[name]
        if secret in values:
            raise BadSetting(name, f"{secret} is set as well. Keep one of the two.", f"from {place}")
        values[secret] = _secret_of(name, str(value), place)
        from_files[secret] = Path(str(value))
    return _Layer(place, values, from_files, tuple(doubts))


def _doubts(name: str, place: str) -> list[str]:
    """A sentence if an unknown name may be a misspelt one of ours; otherwise empty.

    Raises BadSetting if it very probably is. In `.env`, one of our prefixes, or a similar name, is enough for that; in
    the environment, which other programs share, it takes both.
    """
    is_ours, meant = name.upper().startswith(PREFIXES), _meant(name, _MISSPELT)
    if place == "environment" and meant and not is_ours:
        return [str(_unknown(name, place, meant))]
    if place == "flag" or meant or (place == ".env" and is_ours):
        raise _unknown(name, place, _meant(name, _MAY_BE_MEANT))
    return []


def _unknown(name: str, place: str, meant: str | None) -> BadSetting:
    hint = f"Did you mean {meant}?" if meant else "`agents config show` lists those there are."
    problem = f"there is no such setting. {hint} If it belongs to another program, unset it here."
    return BadSetting(name, problem, f"from {place}")


@functools.cache  # each load of the settings asks for every variable
def _meant(name: str, likeness: float) -> str | None:
    """The setting whose name resembles `name`; None: there is none."""
    return next(iter(difflib.get_close_matches(name.upper(), [*KNOWN, *_FILES], n=1, cutoff=likeness)), None)


def _secret_of(name: str, path: str, place: str) -> str:
    try:
        with open(path, "rb") as file:
            secret = file.read(_SECRET_FILE_LIMIT_BYTES + 1).decode().strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise BadSetting(name, f"{path!r} cannot be read: {why}. Set it to a text file.", f"from {place}") from None
    if not 0 < len(secret) <= _SECRET_FILE_LIMIT_BYTES:
        raise BadSetting(name, f"{path!r} is empty or far too long. Put only the secret there.", f"from {place}")
    return secret


def _dotenv(path: Path) -> Iterator[tuple[str, str]]:
    """The pairs of a `.env` file, without any substitution; empty if there is no such file."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            bindings = list(parse_stream(file))
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}). Fix or remove it.") from error
    for binding in bindings:
        if binding.error or (binding.key is not None and binding.value is None):
            raise ConfigError(f"{path}, line {binding.original.line}: this is not NAME=value. Fix or remove the line.")
        if binding.key is not None:
            yield binding.key, binding.value or ""


def _setting(name: str, tree: _Tree, layers: list[_Layer]) -> Setting:
    known = KNOWN[name]
    value = getattr(getattr(tree, known.group), known.field)
    if name == "REDIS_URL" and value is not None:
        shown = _url_shown(secret_text(value) or "")
    elif isinstance(value, SecretStr):
        shown = "********"
    else:
        shown = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    place = next((_place(layer, name) for layer in layers if name in layer.values), "default")
    return Setting(name, shown, place)


def _place(layer: _Layer, name: str) -> str:
    return "file" if name in layer.from_files else layer.place


def _url_shown(url: str) -> str:
    return re.sub(r"(?<=://)[^/?#]*@", "********@", url)
