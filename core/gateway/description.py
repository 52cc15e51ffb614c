"""What the routes are, as OpenAPI: with the errors that each of them may answer, and how one gets in."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from core.gateway.rbac import Action, action_of

__all__ = ["describe"]

#: The errors of every route, by status, and what they mean.
ERRORS = {
    400: "The body is no JSON.",
    401: "No API key or token was given, or one that is not known or not valid any more.",
    403: "This key or token may not do this.",
    404: "There is no such thing, or not for this key or token.",
    405: "The route does not take this method.",
    409: "It contradicts what there is: something is in use, has not ended, or was asked with the same key before.",
    411: "The body has no Content-Length.",
    413: "The body is too large.",
    415: "The body is compressed.",
    422: "What was asked breaks a rule, or cannot be had; `detail` names the field and the cure.",
    429: "This key or token asks for too much; Retry-After says in how many seconds it may go on.",
    500: "A bug of the gateway; its log says where.",
    503: "It may work later: the hierarchy has no room, drains, or cannot be reached; `detail` says which.",
}
PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "the reason, and what to do"},
    },
    "description": "What went wrong (RFC 9457).",
}
SCHEMES = {
    "api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key, or a JSON Web Token"},
}


def describe(app: FastAPI) -> None:
    """Completes what FastAPI says of the app, once somebody asks."""
    of_routes = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(of_routes())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation does it


def _completed(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM
    components["responses"] = {f"Problem{status}": _response(status) for status in ERRORS}
    components["securitySchemes"] = SCHEMES
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            if path.endswith(("/stream", "/stream/events")):
                responses["200"]["content"] = {"text/event-stream": {}}
            responses.pop("422", None)
            for status in ERRORS:
                responses.setdefault(f"{status}", {"$ref": f"#/components/responses/Problem{status}"})
            if action_of(method.upper(), path) is not Action.KNOCK:
                operation["security"] = [{name: []} for name in SCHEMES]
    return schema


def _response(status: int) -> dict[str, Any]:
    example = {"type": "about:blank", "title": "...", "status": status, "detail": ERRORS[status]}
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
    told: dict[str, Any] = {"description": ERRORS[status], "content": {"application/problem+json": content}}
    if status in (429, 503):
        told["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return told
