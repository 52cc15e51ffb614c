"""What a suspended task waits for: questions to a person, and tasks that it has delegated.

    report "suspended" ─▶ waiting ── each question answered or expired, each delegated task ended ──▶ pending ─▶ ...

A task that goes on keeps its settled waits, so that every attempt resumes with the same answers. The next suspension
replaces them. Values only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Self

from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from core.errors import BadTask
from core.json_values import check_limits
from core.record_fields import NULL, Limit, Moment, Name, value_of

__all__ = [
    "ANSWERS_LIMIT_BYTES", "MAX_WAITS", "WAITS_LIMIT_BYTES", "Answered", "Question", "Wait", "answered",
    "answered_mark", "answers_size", "check_waits", "digest_of", "opened", "remembered",
]  # fmt: skip

#: Number of waits of one suspension, and bytes of what they ask, with the default answers.
MAX_WAITS, WAITS_LIMIT_BYTES = 1_000, 512 * 1024
#: Bytes of the answers to one suspension.
ANSWERS_LIMIT_BYTES = 1024 * 1024
#: Number of answers to earlier suspensions that a task remembers, to tell a repeated answer from a second one.
REMEMBERED = 64


class Wait(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    rename={"asks_json": "asks", "default_json": "default", "answer_json": "answer"},
):
    """One thing that a suspended task waits for. A worker reports the first six fields; the coordinator sets the
    others."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]  #: of LangGraph's interrupt, or `breakpoint:NODE`
    node: Name = ""  #: the node of the graph that waits
    asks_json: Raw = NULL  #: what a person is shown
    children: tuple[Name, ...] = ()  #: ids of the delegated tasks whose outcomes are the answer; empty: a question
    expires_s: Limit | None = None  #: how long a question waits for an answer
    default_json: Raw = NULL  #: the answer to a question that has expired
    digest: str = ""  #: of the question, see `digest_of`
    asked_at: Moment | None = None
    expires_at: Moment | None = None
    settled_at: Moment | None = None  #: when it was answered, expired or refused, or the last child ended
    answer_json: Raw = NULL  #: of a settled question; the outcomes of delegated tasks stay in their own records
    answered_by: str | None = None  #: of an answered question: the client or operator, as `role:name`
    refused: str | None = None  #: why nothing was delegated; the run is told in the place of outcomes

    @property
    def asks(self) -> Any:
        """What a person is shown: a value of JSON's types."""
        return value_of(self.asks_json)

    @property
    def answer(self) -> Any:
        """The answer, like `asks`; None until the wait is settled."""
        return value_of(self.answer_json)

    @property
    def settled(self) -> bool:
        return self.settled_at is not None

    @property
    def is_question(self) -> bool:
        """Whether a person has to answer it, or had to."""
        return not self.children and self.refused is None

    @property
    def is_open_question(self) -> bool:
        return self.settled_at is None and self.is_question


class Question(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An open question, as clients see it."""

    task_id: str
    interrupt_id: str
    task_type: str
    root_id: str | None = None  #: the submitted task at the top of the tree
    node: str = ""  #: the node of the graph that asks
    asks: Any = None  #: what is to be answered: a value of JSON's types
    digest: str = ""  #: with it, an answer is taken only if it is still this question
    asked_at: Moment | None = None
    expires_at: Moment | None = None  #: when the default becomes the answer; None: never
    default: Any = None  #: the answer, if nobody gives one in time

    @classmethod
    def of(cls, wait: Wait, task_id: str, task_type: str, root_id: str | None) -> Self:
        """The question of a task that waits for its answer."""
        return cls(
            task_id=task_id, interrupt_id=wait.id, task_type=task_type, root_id=root_id, node=wait.node,
            asks=wait.asks, digest=wait.digest, asked_at=wait.asked_at, expires_at=wait.expires_at,
            default=value_of(wait.default_json),
        )  # fmt: skip


class Answered(Struct, frozen=True, gc=False, array_like=True):
    """That a question of an earlier suspension was answered, and a mark of the answer."""

    id: str
    mark: str


def digest_of(wait: Wait) -> str:
    """The SHA-256 of a question: its id and what is shown. An answer that names it was given to that and nothing
    else."""
    return hashlib.sha256(wait.id.encode() + b"\0" + bytes(wait.asks_json)).hexdigest()


def check_waits(waits: Sequence[Wait]) -> None:
    """Raises BadTask when a worker reports waits that no task may have: none, too many, too large, or one twice."""
    if not 0 < len(waits) <= MAX_WAITS:
        raise BadTask(f"a suspended run waits for 1 to {MAX_WAITS} things at once, not {len(waits)}")
    if len({wait.id for wait in waits}) < len(waits):
        raise BadTask("a suspended run waits for two things with the same id")
    size = 0
    for wait in waits:
        for what, value_json in ("question", wait.asks_json), ("default answer", wait.default_json):
            check_limits(what, bytes(value_json))
            size += len(memoryview(value_json))
    if size > WAITS_LIMIT_BYTES:
        raise BadTask(f"the questions have {size} bytes together, over the limit of {WAITS_LIMIT_BYTES}")


def opened(wait: Wait, now: datetime, refused: str | None = None) -> Wait:
    """The wait as a coordinator records it, as if nothing had happened to it yet, whatever it says. `refused`: why
    nothing was delegated, which settles it."""
    return Wait(
        id=wait.id,
        node=wait.node,
        asks_json=wait.asks_json,
        children=() if refused is not None else wait.children,
        default_json=wait.default_json,
        digest=digest_of(wait),
        asked_at=now,
        expires_at=None if wait.expires_s is None or wait.children else now + timedelta(seconds=wait.expires_s),
        settled_at=None if refused is None else now,
        refused=refused,
    )


def answered(wait: Wait, answer_json: Raw, by: str | None, now: datetime) -> Wait:
    """The settled wait. `by`: who has answered; None: nobody, it expired."""
    return replace(wait, answer_json=answer_json, answered_by=by, settled_at=now)


def answers_size(waits: Iterable[Wait]) -> int:
    return sum(len(memoryview(wait.answer_json)) for wait in waits)


def answered_mark(by: str | None, answer_json: Raw) -> str:
    """Tells an answer from others: the same for the same answer by the same person."""
    return hashlib.sha256(f"{by}\0".encode() + bytes(answer_json)).hexdigest()[:16]


def remembered(before: tuple[Answered, ...], waits: Iterable[Wait]) -> tuple[Answered, ...]:
    """What a task remembers of answers, when it is suspended again and its settled `waits` are replaced."""
    marks = (
        Answered(wait.id, answered_mark(wait.answered_by, wait.answer_json))
        for wait in waits
        if wait.settled and wait.is_question
    )
    return (*before, *marks)[-REMEMBERED:]
