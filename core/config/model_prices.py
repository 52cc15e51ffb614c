"""What models cost, from a file that an operator keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from core.budget import NANO
from core.config.variables import BadSetting

__all__ = ["Prices", "load_prices"]

#: The prices are per so many tokens.
PER_TOKENS = 1_000_000
#: The name that stands for all models that are not named.
OTHERS = "*"


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars for a million tokens."""

    input: Annotated[float, Meta(ge=0, le=1_000_000)]
    output: Annotated[float, Meta(ge=0, le=1_000_000)]


class Prices:
    """The prices of models, by the names by which programs call them."""

    def __init__(self, by_model: dict[str, Price]) -> None:
        self._by_model = by_model

    def cost(self, model: str, input_tokens: int, output_tokens: int) -> int | None:
        """What a call costs, in parts of a dollar (see core.budget.NANO), rounded up; None: its price is not known."""
        price = self._by_model.get(model) or self._by_model.get(OTHERS)
        if price is None:
            return None
        return math.ceil((price.input * input_tokens + price.output * output_tokens) * (NANO // PER_TOKENS))


def load_prices(path: Path | None) -> Prices:
    """The prices in a file; none without one. Raises ConfigError, which names the cure."""
    if path is None:
        return Prices({})
    cure = 'It needs an object such as {"gpt-5": {"input": 1.25, "output": 10}}: dollars for a million tokens.'
    try:
        return Prices(msgspec.json.decode(path.read_bytes(), type=dict[str, Price]))
    except OSError as error:
        raise BadSetting("MODEL_PRICES", f"{str(path)!r} cannot be read: {error.strerror}. {cure}") from None
    except msgspec.DecodeError as error:
        raise BadSetting("MODEL_PRICES", f"{str(path)!r} has no prices: {error}. {cure}") from None
