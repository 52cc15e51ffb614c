"""What goes wrong, as responses: problem+json (RFC 9457) with the reason and the cure. No response has a trace, or a
secret."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from core.errors import (
    AgentSystemError,
    AgentTaken,
    AnswerRefused,
    BadSchedule,
    NotYours,
    PeerError,
    ServerRefused,
    TaskLost,
    TaskRefused,
    TaskTimeout,
    TransportDown,
    UnknownSchedule,
    UnknownTask,
    UserError,
    WorldError,
)

__all__ = ["RETRY_S", "Problem", "as_problems", "place_of_bug", "problem_of", "response_of"]

#: What a refusal of the coordinator says, and the status that it becomes.
REFUSALS = (
    ("is draining", 503),
    ("(MAX_OPEN_TASKS)", 503),
    ("(MEMORY_HIGH_WATER)", 503),
    (" is busy with ", 409),
    (" is in use", 409),
    (" stand in line ", 409),
)
#: Where something is wrong, in words of ours that a client does not know.
UNNAMED = ("body", "task", "batch")
#: What is said while Redis is away.
AWAY = (
    "the gateway cannot reach Redis now, and answers again once it can. Whether this was carried out is not known: make"
    " the request again, with the same ids or Idempotency-Key if it has some, and it is done once. For whoever runs"
    " this, `agents doctor` says what to do"
)
#: Seconds after which a client may try again what was not possible.
RETRY_S = 5
#: What is said where Starlette only gives a name, and the cure.
CURES = {
    400: "the body cannot be read: send JSON in UTF-8, nested less deeply, or with shorter numbers",
    404: "there is no such route; /openapi.json lists those there are",
    408: "the body has not come within a minute; send it again, over a faster connection",
    405: "this route does not take {method}; `Allow` says what it takes",
}


class Problem(Exception):
    """What a client is told. `detail` has the reason and, if there is one, the cure. `retry_s`: when to try again, if
    not after RETRY_S. `headers`: further ones of the response."""

    def __init__(
        self, status: int, detail: str, *, retry_s: float = RETRY_S, headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.status, self.detail, self.more = status, detail, more
        self.retry_s, self.headers = retry_s, headers or {}


def problem_of(error: AgentSystemError) -> Problem:
    """How an error of the hierarchy is told: 4xx if the request has to change, 503 if it may work later."""
    said = f"{error}"
    match error:
        case TransportDown():  # what it says has the address of Redis, which is in the log
            return Problem(503, AWAY)
        case ServerRefused():
            return Problem(503, f"{said}. Nothing was changed; for whoever runs this, `agents doctor` says what to do")
        case UnknownTask() | UnknownSchedule():
            return Problem(404, said)
        case AnswerRefused() | AgentTaken() | NotYours():
            return Problem(409, said)
        case TaskLost() | TaskTimeout() | WorldError():
            return Problem(503, said)
        case TaskRefused() | BadSchedule():
            return Problem(next((status for part, status in REFUSALS if part in said), 422), said)
        case UserError():
            return Problem(422, said)
        case PeerError():
            return Problem(503, f"the coordinator does not take what this gateway says: {said}")
    raise error


def response_of(problem: Problem) -> Response:
    title = HTTPStatus(problem.status).phrase
    detail = problem.detail.encode(errors="replace").decode()  # it may quote what is no text
    body = {"type": "about:blank", "title": title, "status": problem.status, "detail": detail, **problem.more}
    headers = dict(problem.headers)
    if problem.status in (429, 503):
        headers["Retry-After"] = f"{math.ceil(problem.retry_s)}"
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body), problem.status, headers, "application/problem+json")


def place_of_bug(error: Exception) -> str:
    """The kind of an error and where it was raised, for the log. What it says may have come in with a request."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {place.filename}:{place.lineno}"


def as_problems(app: FastAPI) -> None:
    """Makes the app tell all that goes wrong in this form, without traces and secrets."""

    async def told(request: Request, error: Exception) -> Response:
        if isinstance(error, Problem):
            return response_of(error)
        if isinstance(error, RequestValidationError):
            return response_of(_malformed(error))
        if isinstance(error, HTTPException):
            detail = CURES.get(error.status_code, error.detail).replace("{method}", request.method)
            return response_of(Problem(error.status_code, detail, headers=error.headers))
        assert isinstance(error, AgentSystemError)
        return response_of(problem_of(error))

    for kind in (Problem, RequestValidationError, HTTPException, AgentSystemError):
        app.add_exception_handler(kind, told)


def _malformed(error: RequestValidationError) -> Problem:
    first: Mapping[str, Any] = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"] if part not in UNNAMED) or "the body"
    if first["type"] == "extra_forbidden":
        return Problem(422, f"{where}: there is no such field; leave it out")
    return Problem(422, f"{where}: {first['msg']}")
