"""By LangGraph's routes a tenant's key sees the tenant's own threads, runs, crons, assistants and items, no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import ConflictError, NotFoundError, UnprocessableEntityError

from tests.gateway_door import EMPTY, TENANTS, Door

#: What the SDK raises, and what it lets through in `runs.wait`.
NOT_THERE = (NotFoundError, httpx.HTTPStatusError)


@dataclass
class Tenants:
    acme: LangGraphClient
    globex: LangGraphClient


@pytest.fixture
async def tenants(door: Door) -> AsyncIterator[Tenants]:
    acme, globex = (get_client(url=door.urls[1], api_key=TENANTS[name]) for name in ("acme", "globex"))
    async with acme, globex:
        yield Tenants(acme, globex)


async def test_a_thread_and_its_runs_are_there_for_their_tenant_alone(tenants: Tenants, sdk: LangGraphClient) -> None:
    acme, globex = tenants.acme, tenants.globex
    claims: Any = {"mark": str(uuid4()), "tenant": "globex"}
    thread = (await acme.threads.create(metadata=claims))["thread_id"]
    await acme.runs.wait(thread, "asks", input=EMPTY)
    [asked] = await acme.runs.list(thread)
    run = asked["run_id"]
    state: Any = await acme.threads.get_state(thread)

    refused: list[Any] = [
        lambda: globex.threads.get(thread),
        lambda: globex.threads.get_state(thread),
        lambda: globex.threads.get_state(thread, checkpoint=state["checkpoint"]),
        lambda: globex.threads.get_history(thread),
        lambda: globex.threads.update(thread, metadata={"tenant": "globex"}),
        lambda: globex.threads.update_state(thread, {"done": []}),
        lambda: globex.threads.copy(thread),
        lambda: globex.threads.delete(thread),
        lambda: globex.http.get(f"/threads/{thread}/stream"),
        lambda: globex.http.post(f"/threads/{thread}/stream/events", json={"channels": ["values"]}),
        lambda: globex.runs.create(thread, "asks", input=EMPTY),
        lambda: globex.runs.wait(thread, "asks", command={"resume": "yes"}),
        lambda: globex.runs.list(thread),
        lambda: globex.runs.get(thread, run),
        lambda: globex.runs.join(thread, run),
        lambda: globex.http.get(f"/threads/{thread}/runs/{run}/stream"),
        lambda: globex.runs.cancel(thread, run),
        lambda: globex.runs.cancel_many(thread_id=thread, run_ids=[run]),
        lambda: globex.runs.delete(thread, run),
        lambda: globex.crons.create_for_thread(thread, "asks", schedule="0 0 1 1 *"),
        lambda: globex.http.post("/tasks/submit", json={"task_type": "asks", "run": {"thread_id": thread}}),
    ]
    for number, call in enumerate(refused):
        with pytest.raises(NOT_THERE) as problem:
            await call()
        assert problem.value.response.status_code == 404, (number, problem.value)
    for params in {"assistant_id": "asks", "input": EMPTY}, {"interrupt_id": "x", "response": "yes"}:
        method = "run.start" if "input" in params else "input.respond"
        said: Any = await globex.http.post(
            f"/threads/{thread}/commands", json={"id": 1, "method": method, "params": params}
        )
        assert said["type"] == "error", said
    with pytest.raises(ConflictError, match="is taken"):
        await globex.runs.create(thread, "asks", input=EMPTY, if_not_exists="create")
    assert await globex.threads.search(metadata={"mark": claims["mark"]}) == []
    assert await globex.threads.search(ids=[thread]) == []
    assert await globex.threads.count(metadata={"mark": claims["mark"]}) == 0
    assert (await globex.threads.prune([thread]))["pruned_count"] == 0
    await globex.runs.cancel_many(status="all")

    assert [one["thread_id"] for one in await acme.threads.search(metadata={"mark": claims["mark"]})] == [thread]
    assert (await acme.threads.get(thread))["status"] == "interrupted"
    told: Any = await acme.threads.get(thread)
    assert told["metadata"]["tenant"] == "globex"  # means nothing
    assert (await sdk.threads.get(thread))["thread_id"] == thread  # who sees all sees this
    assert await sdk.runs.wait(thread, "asks", command={"resume": "yes"}) == {"done": ["first", "yes", "second"]}
    assert len(await acme.runs.list(thread)) == 2
    task: Any = await acme.http.get(f"/tasks/{run}")
    assert task["tenant"] == "acme"


async def test_an_update_of_a_thread_and_its_deletion_are_tasks_of_its_tenant(tenants: Tenants) -> None:
    acme = tenants.acme

    async def tasks() -> int:
        told: Any = await acme.http.get("/tasks?limit=500")
        return len(told["tasks"])

    before = await tasks()
    step: Any = {"updates": [{"values": EMPTY, "as_node": "first"}]}
    thread = (await acme.threads.create(graph_id="steps", supersteps=[step]))["thread_id"]
    await acme.threads.update_state(thread, EMPTY, as_node="first")
    await acme.threads.delete(thread)

    assert await tasks() == before + 3


async def test_a_run_without_a_thread_is_its_tenants(tenants: Tenants) -> None:
    made = await tenants.acme.runs.create(None, "steps", input=EMPTY)
    done: Any = await tenants.acme.runs.join(made["thread_id"], made["run_id"])
    assert done["done"] == ["first", "second"]
    with pytest.raises(NOT_THERE, match="404"):
        await tenants.globex.runs.join(made["thread_id"], made["run_id"])
    one: Any = {"assistant_id": "steps", "input": EMPTY}
    [batched] = await tenants.acme.runs.create_batch([one])
    with pytest.raises(NotFoundError):
        await tenants.globex.runs.get(batched["thread_id"], batched["run_id"])


async def test_no_tenant_takes_a_thread_id_under_which_another_one_stores(
    tenants: Tenants, sdk: LangGraphClient
) -> None:
    thread = str(uuid4())
    await tenants.acme.threads.create(thread_id=thread)
    with pytest.raises(ConflictError):
        await tenants.globex.threads.create(thread_id=thread)
    with pytest.raises(NotFoundError):
        await tenants.globex.threads.create(thread_id=thread, if_exists="do_nothing")
    with pytest.raises(UnprocessableEntityError, match="is a UUID"):
        await tenants.globex.threads.create(thread_id="report@20270101T000000Z")
    alone = await sdk.runs.create(None, "steps", input=EMPTY)
    await sdk.runs.join(alone["thread_id"], alone["run_id"])
    with pytest.raises(ConflictError, match="is taken"):
        await tenants.globex.threads.create(thread_id=alone["run_id"])


async def test_assistants_of_graphs_are_of_all_and_others_of_their_tenant(tenants: Tenants) -> None:
    acme, globex = tenants.acme, tenants.globex
    mine = await acme.assistants.create("greets", context={"greeting": "hi"}, name="of acme")
    assert await acme.runs.wait(None, mine["assistant_id"], input=EMPTY) == {"done": ["hi"]}
    assert "tenant" not in mine
    for call in (
        lambda: globex.assistants.get(mine["assistant_id"]),
        lambda: globex.runs.wait(None, mine["assistant_id"], input=EMPTY),
        lambda: globex.assistants.update(mine["assistant_id"], name="x"),
        lambda: globex.assistants.get_versions(mine["assistant_id"]),
        lambda: globex.assistants.delete(mine["assistant_id"]),
    ):
        with pytest.raises(NOT_THERE, match=r"404|there is no"):
            await call()
    assert await globex.assistants.count(graph_id="greets") == 1
    assert await acme.assistants.count(graph_id="greets") == 2
    with pytest.raises(ConflictError):
        await globex.assistants.create("greets", assistant_id=mine["assistant_id"])
    await acme.assistants.delete(mine["assistant_id"])


async def test_crons_are_seen_and_changed_by_their_tenant_alone(tenants: Tenants, sdk: LangGraphClient) -> None:
    acme, globex = tenants.acme, tenants.globex
    cron: Any = await acme.crons.create("steps", schedule="0 0 1 1 *", input=EMPTY)
    assert [one["cron_id"] for one in await acme.crons.search()] == [cron["cron_id"]]
    assert await globex.crons.search() == []
    assert await globex.crons.count() == 0
    for call in (
        lambda: globex.crons.update(cron["cron_id"], enabled=False),
        lambda: globex.crons.delete(cron["cron_id"]),
    ):
        with pytest.raises(NOT_THERE, match=r"404|there is no"):
            await call()
    await sdk.crons.update(cron["cron_id"], schedule="0 0 2 1 *")
    assert [one["schedule"] for one in await acme.crons.search()] == ["0 0 2 1 *"]
    await acme.crons.delete(cron["cron_id"])


async def test_items_are_those_of_their_tenant_and_its_runs_know_whose_they_are(
    tenants: Tenants, sdk: LangGraphClient
) -> None:
    acme, globex = tenants.acme, tenants.globex
    await acme.store.put_item(("notes", "bob"), "one", {"text": "of acme"})
    await globex.store.put_item(("notes", "bob"), "one", {"text": "of globex"})
    found: Any = await acme.store.get_item(("notes", "bob"), "one")
    assert (found["namespace"], found["value"]) == (["notes", "bob"], {"text": "of acme"})
    searched: Any = await globex.store.search_items(())
    assert [(item["namespace"], item["value"]["text"]) for item in searched["items"]] == [
        (["notes", "bob"], "of globex")
    ]
    assert (await acme.store.list_namespaces(max_depth=1))["namespaces"] == [["notes"]]
    await globex.store.delete_item(("notes", "bob"), "one")
    assert await acme.store.get_item(("notes", "bob"), "one") is not None
    every: Any = await sdk.store.search_items(("tenant:acme",))
    assert [item["namespace"] for item in every["items"]] == [["tenant:acme", "notes", "bob"]]
    assert await acme.runs.wait(
        None, "owns", input=EMPTY, config={"configurable": {"langgraph_auth_user_id": "x"}}
    ) == {"done": ["acme", "of acme"]}
    claims: Any = {"config": {"configurable": {"langgraph_auth_user_id": "acme"}}}
    claiming: Any = {"task_type": "owns", "payload": EMPTY, "run": claims}
    submitted: Any = await globex.http.post("/tasks/submit", json=claiming)
    ended: Any = await globex.http.get(f"/tasks/{submitted['task_ids'][0]}/wait?timeout_s=30")
    assert ended["result"] == {"done": ["globex"]}
    await globex.http.put("/schedules/claims", json={"task": claiming, "cron": "0 0 1 1 *"})
    kept: Any = await globex.http.get("/schedules/claims")
    assert kept["task"]["run"]["config"]["configurable"] == {"langgraph_auth_user_id": "globex"}
