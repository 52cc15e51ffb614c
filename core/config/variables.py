"""Values from outside a program: the variable that sets a field, secrets that no log shows, errors with a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationError

from core.errors import ConfigError

__all__ = ["BadSetting", "Secret", "Value", "Variable", "secret_text", "variable_of"]


@dataclass(frozen=True, slots=True)
class Variable:
    """The environment variable that sets a field. `takes` is the phrase with which an error says what it accepts."""

    name: str
    takes: str
    secret: bool = False  #: it is never shown, and can be read from the file that NAME_FILE names


class BadSetting(ConfigError):
    """A ConfigError about one variable. `load` adds the place from which the value came."""

    def __init__(self, variable: str, problem: str, place: str = "") -> None:
        self.variable, self.problem = variable, problem
        super().__init__(f"{variable}{f' ({place})' if place else ''}: {problem}")


class Value(BaseModel):
    """A frozen model that raises ConfigError for any malformed field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _bad_setting(type(self), error) from None


def _bad_setting(model: type[BaseModel], error: ValidationError) -> BadSetting:
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return BadSetting(f"{model.__name__}.{field}", f"no such setting. There are {', '.join(model.model_fields)}.")
    variable = variable_of(model, field)
    problem = first["msg"].removeprefix("Value error, ")
    # For a missing field the input is all other fields, including secrets.
    hidden = first["type"] == "missing" or (variable is not None and variable.secret)
    got = "" if hidden else f", got {str(first['input'])[:80]!r}"
    if variable is None:
        return BadSetting(f"{model.__name__}.{field}", f"{problem}{got}.")
    return BadSetting(variable.name, f"{problem}{got}. It takes {variable.takes}.", f"{model.__name__}.{field}")


def variable_of(model: type[BaseModel], field: str) -> Variable | None:
    """The variable that a field of `model` is read from; None for a field that only a program can set."""
    known = model.model_fields.get(field)
    return next((entry for entry in known.metadata if isinstance(entry, Variable)), None) if known else None


def _secret(value: object) -> object:
    """Makes a SecretStr of a plain string, so that no repr or log can show it, and None of an empty one."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return (SecretStr(text) if text else None) if isinstance(text, str) else value


def secret_text(value: SecretStr | str | None) -> str | None:
    """The text of a secret; None if there is none."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value


Secret = Annotated[SecretStr | str | None, BeforeValidator(_secret)]
