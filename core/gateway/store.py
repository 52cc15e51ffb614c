"""The routes of the store: what graphs remember beyond threads, as `runtime.store`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from core.gateway.hierarchy import Hierarchy
from core.gateway.json_answers import json_answer
from core.gateway.problems import Problem
from core.gateway.run_requests import Body

__all__ = ["router"]

router = APIRouter(prefix="/store", tags=["store"])

Labels = list[Annotated[str, Field(min_length=1, pattern=r"^[^.\x00]+$")]]


class ItemName(Body):
    namespace: Labels = Field(min_length=1)
    key: str = Field(min_length=1)


class NewItem(ItemName):
    value: dict[str, Any]
    index: list[str] | bool | None = None
    ttl: float | None = Field(default=None, gt=0, description="minutes that it lives; null: for good")


class SearchBody(Body):
    namespace_prefix: Labels = Field(default_factory=list)
    filter: dict[str, Any] | None = None
    limit: int = Field(default=10, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)
    query: str | None = None
    refresh_ttl: bool | None = None


class NamespacesBody(Body):
    prefix: Labels | None = None
    suffix: Labels | None = None
    max_depth: int | None = Field(default=None, ge=1)
    limit: int = Field(default=100, ge=1, le=1000)
    offset: int = Field(default=0, ge=0)


@router.put("/items", status_code=204)
async def put(request: Request, body: NewItem) -> Response:
    """Stores an item, in the place of one of that key."""
    if body.index:
        raise Problem(422, "index is not supported: items are found by namespace and filter; leave it out")
    hierarchy: Hierarchy = request.app.state.hierarchy
    ttl: dict[str, Any] = {} if body.ttl is None else {"ttl": body.ttl}
    await _taken(hierarchy.store.aput(tuple(body.namespace), body.key, body.value, **ttl))
    return Response(status_code=204)


@router.get("/items")
async def get(request: Request, key: str, namespace: str = "", refresh_ttl: bool | None = None) -> Response:
    """An item, or null. `namespace`: its labels with dots between them. With `refresh_ttl`, it lives as long again."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    found = await _taken(hierarchy.store.aget(tuple(namespace.split(".")), key, refresh_ttl=refresh_ttl))
    return json_answer(None if found is None else _told(found))


@router.delete("/items", status_code=204)
async def delete(request: Request, body: ItemName) -> Response:
    """Deletes an item; nothing happens if there is none."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    await _taken(hierarchy.store.adelete(tuple(body.namespace), body.key))
    return Response(status_code=204)


@router.post("/items/search")
async def search(request: Request, body: SearchBody) -> Response:
    """The items of a namespace and those below it, by their names."""
    if body.query:
        raise Problem(422, "query is not supported: items are found by namespace and filter, not by meaning")
    hierarchy: Hierarchy = request.app.state.hierarchy
    found = await _taken(
        hierarchy.store.asearch(
            tuple(body.namespace_prefix), filter=body.filter, limit=body.limit, offset=body.offset,
            refresh_ttl=body.refresh_ttl,
        )
    )  # fmt: skip
    return json_answer({"items": [{**_told(item), "score": None} for item in found]})


@router.post("/namespaces")
async def namespaces(request: Request, body: NamespacesBody) -> dict[str, list[list[str]]]:
    """The namespaces that have an item, by their names."""
    hierarchy: Hierarchy = request.app.state.hierarchy
    found = await _taken(
        hierarchy.store.alist_namespaces(
            prefix=tuple(body.prefix or ()) or None, suffix=tuple(body.suffix or ()) or None, max_depth=body.max_depth,
            limit=body.limit, offset=body.offset,
        )
    )  # fmt: skip
    return {"namespaces": [list(namespace) for namespace in found]}


async def _taken(call: Any) -> Any:
    """What the store answers. Raises Problem for names that it does not take."""
    try:
        return await call
    except ValueError as error:
        raise Problem(422, f"{error}") from None


def _told(item: Any) -> dict[str, Any]:
    return {
        "namespace": list(item.namespace),
        "key": item.key,
        "value": item.value,
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }
