"""Whose fault it is that a run has failed."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

from msgspec.structs import replace
from pydantic import ValidationError

from core.errors import BudgetExhausted
from core.tasks import TaskError
from worker.children.outcome import failure

__all__ = ["judged", "refused_budget", "short_of"]

#: What an error of the system says that this process, or the machine, has not enough of.
SHORT_OF = {
    errno.EMFILE: "descriptors", errno.ENFILE: "descriptors", errno.ENOMEM: "memory", errno.EAGAIN: "processes",
}  # fmt: skip
#: What Python says when the system gives it no thread.
NO_THREAD = "can't start new thread"


def short_of(error: BaseException) -> str:
    """What its process did not have enough of, if that is why a run has failed; empty if it is not."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and not isinstance(cause, BlockingIOError) and cause.errno in SHORT_OF:
            return SHORT_OF[cause.errno]
        # Not its text, which an exception of the user's makes itself, and may fail to.
        if isinstance(cause, RuntimeError) and any(type(said) is str and said == NO_THREAD for said in cause.args):
            return "threads"
    return ""


def refused_budget(error: BaseException) -> str:
    """What budget is spent, if that is why a run has failed; empty if it is not."""
    return next((str(cause) for cause in _causes(error) if isinstance(cause, BudgetExhausted)), "")


def judged(error: BaseException, attempt: int) -> TaskError:
    """The error of a failed run, with whether another attempt may help."""
    problem = failure(error, attempt)
    if spent := refused_budget(error):
        return replace(problem, type="budget", message=spent, retryable=False)
    return problem if _another_attempt_helps(error) else replace(problem, retryable=False)


def _another_attempt_helps(error: BaseException) -> bool:
    """False for what is wrong with the graph itself: it never ends, or a state breaks its schema."""
    from langgraph.errors import GraphRecursionError, InvalidUpdateError

    return not (isinstance(error, GraphRecursionError | InvalidUpdateError) or _breaks_schema(error))


def _breaks_schema(error: BaseException) -> bool:
    """Whether pydantic has refused what LangGraph wanted to make a state of. In a node, such an error may well be due
    to what a model has answered."""
    if not isinstance(error, ValidationError):
        return False
    places = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    raising = [place for place in places if not place.startswith("pydantic")]
    return bool(raising) and raising[-1].startswith("langgraph.")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that have led to it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
