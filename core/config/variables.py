"""Values that come from outside: which variable sets a field, secrets that no log shows, errors that name the cure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr, ValidationError

from core.errors import ConfigError

__all__ = ["BadSetting", "Secret", "Value", "Variable", "secret_text", "variable_of"]


@dataclass(frozen=True, slots=True)
class Variable:
    """Where a field's value comes from outside of a program, and what it takes (a phrase that ends an error)."""

    name: str
    takes: str
    secret: bool = False  #: never shown; can be read from a file that NAME_FILE names


class BadSetting(ConfigError):
    """A ConfigError about one variable, which `load` completes with the place the value came from."""

    def __init__(self, variable: str, problem: str, place: str = "") -> None:
        self.variable, self.problem = variable, problem
        super().__init__(f"{variable}{f' ({place})' if place else ''}: {problem}")


class Value(BaseModel):
    """A frozen model whose every malformed field is a ConfigError."""

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
    # What a missing field "got" are all the others, secrets among them.
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
    """A plain string becomes a SecretStr, so that no repr or log can show it; an empty one is none at all."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return (SecretStr(text) if text else None) if isinstance(text, str) else value


def secret_text(value: SecretStr | str | None) -> str | None:
    """What a secret hides; None when there is none."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value


Secret = Annotated[SecretStr | str | None, BeforeValidator(_secret)]
