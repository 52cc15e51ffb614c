"""Questions of a run to a person that do not wait for ever."""

from __future__ import annotations

from typing import Any

from core.errors import BadTask
from core.record_fields import TIMEOUT_LIMIT_S
from worker.authoring.suspension import marked_question

__all__ = ["ask"]


def ask(value: Any, *, expires_s: float, default: Any = None) -> Any:
    """Asks a person, within a node of a graph or a tool, and returns the answer: the `default`, if nobody has answered
    within `expires_s` seconds. A question without a limit is LangGraph's `interrupt(value)`.

    The run is suspended meanwhile, and occupies nothing. When it resumes, its node begins anew and this call returns
    at once, so whatever stands before it runs twice. `value` and `default` are JSON, or what becomes JSON in a result.
    Raises BadTask: `expires_s` is no such time.
    """
    if not 0 < expires_s <= TIMEOUT_LIMIT_S:
        raise BadTask(f"ask: expires_s is {expires_s}, and has to be above 0 and at most {TIMEOUT_LIMIT_S}")
    from langgraph.types import interrupt

    return interrupt(marked_question(value, expires_s, default))
