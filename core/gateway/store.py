"""The routes of the store: what graphs remember beyond threads, as `runtime.store`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from core.gateway.hierarchy import Hierarchy
from core.gateway.json_answers import json_answer
from core.gateway.problems import Problem
from core.gateway.run_requests import Body, Minutes
from core.gateway.visible_records import hierarchy_of
from core.json_values import as_json

__all__ = ["label_of", "router"]

router = APIRouter(prefix="/store", tags=["store"])

#: How the first label of the namespaces of a tenant begins, before its name.
TENANT = "tenant:"

#: Why nothing is found by meaning, and the cure.
NO_INDEX = (
    "no worker has an index, by which items are found by meaning: put `store.index` into a langgraph.json, and start"
    " workers with it"
)

#: Bytes of all parts of an item that may be embedded, if each were the whole of it.
MOST_BYTES_OF_PARTS = 32 * 1024 * 1024

Labels = list[Annotated[str, Field(min_length=1, pattern=r"^[^.\x00]+$")]]

IndexPaths = Annotated[list[Annotated[str, Field(max_length=1_000)]], Field(max_length=100)]


class ItemName(Body):
    namespace: Labels = Field(min_length=1)
    key: str = Field(min_length=1)


class NewItem(ItemName):
    value: dict[str, Any]
    index: IndexPaths | Literal[False] | None = Field(
        default=None,
        description="what is found by meaning, such as `text`; false: nothing; null: as the index of the workers says",
    )
    ttl: Minutes | None = Field(default=None, description="minutes that it lives; null: for good")


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
    """Stores an item, in the place of one of that key. If workers have an index, they embed its texts first."""
    hierarchy, store = hierarchy_of(request), None
    if body.index or body.index is None:
        store = await hierarchy.indexed_store()
    if body.index and store is None:
        raise Problem(422, f"index: {NO_INDEX}; or leave it out, and items are found by namespace and filter")
    if body.index:
        _check_parts(body.value, body.index)
    given: dict[str, Any] = {} if body.ttl is None else {"ttl": body.ttl}
    put = (store or hierarchy.store).aput
    await _taken(put(_within(hierarchy, body.namespace), body.key, body.value, index=body.index, **given))
    return Response(status_code=204)


@router.get("/items")
async def get(request: Request, key: str, namespace: str = "", refresh_ttl: bool | None = None) -> Response:
    """An item, or null. `namespace`: its labels with dots between them. With `refresh_ttl`, it lives as long again."""
    hierarchy = hierarchy_of(request)
    found = await _taken(hierarchy.store.aget(_within(hierarchy, namespace.split(".")), key, refresh_ttl=refresh_ttl))
    return json_answer(None if found is None else _told(hierarchy, found))


@router.delete("/items", status_code=204)
async def delete(request: Request, body: ItemName) -> Response:
    """Deletes an item; nothing happens if there is none."""
    hierarchy = hierarchy_of(request)
    await _taken(hierarchy.store.adelete(_within(hierarchy, body.namespace), body.key))
    return Response(status_code=204)


@router.post("/items/search")
async def search(request: Request, body: SearchBody) -> Response:
    """The items of a namespace and those below it, by their names; with a query, the nearest in meaning first."""
    hierarchy = hierarchy_of(request)
    store = await hierarchy.indexed_store() if body.query else hierarchy.store
    if store is None:
        raise Problem(422, f"query: {NO_INDEX}; or leave it out, and items are found by namespace and filter")
    found = await _taken(
        store.asearch(
            _within(hierarchy, body.namespace_prefix), query=body.query or None, filter=body.filter, limit=body.limit,
            offset=body.offset, refresh_ttl=body.refresh_ttl,
        )
    )  # fmt: skip
    return json_answer({"items": [{**_told(hierarchy, item), "score": item.score} for item in found]})


@router.post("/namespaces")
async def namespaces(request: Request, body: NamespacesBody) -> dict[str, list[list[str]]]:
    """The namespaces that have an item, by their names."""
    hierarchy = hierarchy_of(request)
    own = _within(hierarchy, ())
    depth = body.max_depth and body.max_depth + len(own)
    prefix, suffix = (*own, *(body.prefix or ())), tuple(body.suffix or ())
    found = await _taken(
        hierarchy.store.alist_namespaces(
            prefix=prefix or None, suffix=suffix or None, max_depth=depth, limit=body.limit, offset=body.offset
        )
    )
    return {"namespaces": [list(namespace[len(own) :]) for namespace in found]}


def _check_parts(value: dict[str, Any], paths: Sequence[str]) -> None:
    """Raises Problem if the parts of an item that are to be embedded could take too much memory: a path may name the
    whole of it many times, as `{a,a}` does."""
    parts, size = sum(1 + path.count(",") for path in paths), len(as_json(value))
    if parts * size > MOST_BYTES_OF_PARTS:
        raise Problem(422, f"index: names up to {parts} parts of an item of {size} bytes; name fewer, or smaller items")


def _within(hierarchy: Hierarchy, labels: Iterable[str]) -> tuple[str, ...]:
    """The namespace in the store that somebody means: those of a tenant are below one of the tenant."""
    return (*(() if hierarchy.tenant is None else (label_of(hierarchy.tenant),)), *labels)


def label_of(tenant: str) -> str:
    """The first label of the namespaces of a tenant. A label has no dot, as a tenant's name may."""
    return f"{TENANT}{tenant.replace('.', '%2E')}"


async def _taken(call: Any) -> Any:
    """What the store answers. Raises Problem for names that it does not take."""
    try:
        return await call
    except ValueError as error:
        raise Problem(422, f"{error}") from None


def _told(hierarchy: Hierarchy, item: Any) -> dict[str, Any]:
    return {
        "namespace": list(item.namespace[len(_within(hierarchy, ())) :]),
        "key": item.key,
        "value": item.value,
        "created_at": item.created_at,
        "updated_at": item.updated_at,
    }
