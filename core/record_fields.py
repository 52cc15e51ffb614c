"""The types of the fields of records. What a record is made of stands in the file of that record."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import orjson
from msgspec import Meta, Raw

from core.errors import BadTask

__all__ = ["NULL", "TIMEOUT_LIMIT_S", "Attempts", "Count", "Limit", "Moment", "Name", "Seconds", "value_of"]

#: The longest time limit of an attempt, ten years. Nobody intends a longer one, and no clock can be set to it.
TIMEOUT_LIMIT_S = 10 * 366 * 86_400

#: The JSON of an absent payload or result.
NULL = Raw(b"null")

Name = Annotated[str, Meta(max_length=200)]
Moment = Annotated[datetime, Meta(tz=True)]
#: Small enough for all arithmetic that is done with it, and for every JSON parser.
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Attempts = Annotated[int, Meta(ge=0, lt=2**31)]
Seconds = Annotated[float, Meta(ge=0, le=TIMEOUT_LIMIT_S)]
Limit = Annotated[float, Meta(gt=0, le=TIMEOUT_LIMIT_S)]


def value_of(value_json: Raw) -> Any:
    """The value of a JSON text. Raises BadTask if it cannot be read, such as a number beyond all floats."""
    if value_json is NULL:
        return None
    try:
        return orjson.loads(memoryview(value_json))
    except orjson.JSONDecodeError as error:
        raise BadTask(f"a field that was received cannot be read: {error}") from None
