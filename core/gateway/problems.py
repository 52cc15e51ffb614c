"""What goes wrong, as responses: problem+json (RFC 9457) with the reason and the cure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from core.errors import (
    AgentSystemError,
    AnswerRefused,
    PeerError,
    TaskLost,
    TaskRefused,
    TaskTimeout,
    UnknownTask,
    UserError,
    WorldError,
)

__all__ = ["Problem", "as_problems", "problem_of", "response_of"]

log = logging.getLogger(__name__)

#: What a refusal of the coordinator says, and the status that it becomes.
REFUSALS = (
    ("is draining", 503),
    ("(MAX_OPEN_TASKS)", 503),
    ("(MEMORY_HIGH_WATER)", 503),
    (" is busy with ", 409),
    (" is in use", 409),
    (" stand in line ", 409),
)
#: Seconds after which a client may try again what was not possible.
RETRY_S = 5


class Problem(Exception):
    """What a client is told. `detail` has the reason and, if there is one, the cure."""

    def __init__(self, status: int, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.more = status, detail, more


def problem_of(error: AgentSystemError) -> Problem:
    """How an error of the hierarchy is told: 4xx if the request has to change, 503 if it may work later."""
    said = f"{error}"
    match error:
        case UnknownTask():
            return Problem(404, said)
        case AnswerRefused():
            return Problem(409, said)
        case TaskLost() | TaskTimeout() | WorldError():
            return Problem(503, said)
        case TaskRefused():
            return Problem(next((status for part, status in REFUSALS if part in said), 422), said)
        case UserError():
            return Problem(422, said)
        case PeerError():
            return Problem(503, f"the coordinator does not take what this gateway says: {said}")
    raise error


def response_of(problem: Problem) -> Response:
    title = HTTPStatus(problem.status).phrase
    body = {"type": "about:blank", "title": title, "status": problem.status, "detail": problem.detail, **problem.more}
    headers = {"Retry-After": f"{RETRY_S}"} if problem.status in (429, 503) else {}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body), problem.status, headers, "application/problem+json")


def as_problems(app: FastAPI) -> None:
    """Makes the app tell all that goes wrong in this form, without traces and secrets."""

    async def told(_: Request, error: Exception) -> Response:
        if isinstance(error, Problem):
            return response_of(error)
        if isinstance(error, RequestValidationError):
            return response_of(_malformed(error))
        if isinstance(error, HTTPException):
            return response_of(Problem(error.status_code, error.detail))
        assert isinstance(error, AgentSystemError)
        return response_of(problem_of(error))

    for kind in (Problem, RequestValidationError, HTTPException, AgentSystemError):
        app.add_exception_handler(kind, told)
    app.add_exception_handler(Exception, _bug)


async def _bug(_: Request, error: Exception) -> Response:
    log.error("a request met a bug", exc_info=error, extra={"action": "request_failed"})
    return response_of(Problem(500, "this is a bug of the gateway; its log says where"))


def _malformed(error: RequestValidationError) -> Problem:
    first: Mapping[str, Any] = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    if first["type"] == "extra_forbidden":
        return Problem(422, f"{where}: there is no such field; leave it out")
    return Problem(422, f"{where}: {first['msg']}")
