"""Values that a person types as JSON, or keeps in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["json_argument"]


def json_argument(what: str, text: str) -> Any:
    """The value that an argument stands for: JSON, `-` for stdin, or `@FILE`. `what` names it in errors. Raises BadTask
    when it is not JSON or cannot be read."""
    from core.errors import BadTask
    from core.json_values import DEPTH_LIMIT, Unequal, unique_members

    try:
        raw = sys.stdin.read() if text == "-" else Path(text[1:]).read_text() if text.startswith("@") else text
        return json.loads(raw, object_pairs_hook=unique_members)
    except OSError as error:
        raise BadTask(f"{what} {text} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise BadTask(f"{what} nests lists and objects deeper than {DEPTH_LIMIT}; flatten it.") from error
    except Unequal as error:
        raise BadTask(f"{what} {error}") from error
    except ValueError as error:
        raise BadTask(
            f"{what} is no JSON ({error}). Quote it for the shell: '{{\"name\": \"x\"}}', '\"text\"', '[1, 2]'"
        ) from error
