"""RedisStore on a real server, beside LangGraph's store in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import GetOp, Item, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from core.checkpoints import Encryption, RedisStore
from core.config.settings import RedisConfig
from core.errors import BadTask, CheckpointUnreadable, ConfigError, EventLoopError
from core.redis_backend.keys import StoreKeys

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

LABELS = st.sampled_from(("a", "b", "a-b", "é"))
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(("k", "l", "k.k"))
VALUES = st.fixed_dictionaries({"n": st.integers(0, 2)}, optional={"tags": st.lists(st.sampled_from("xy"), max_size=2)})
FILTERS = st.sampled_from(
    (None, {"n": 1}, {"n": {"$gt": 0}}, {"n": {"$ne": 1, "$lte": 1}}, {"tags": ["x"]}, {"other": 1}, {"tags": {"x": 1}})
)
PUTS = st.builds(PutOp, NAMESPACES, KEYS, st.one_of(VALUES, VALUES, st.none()), st.none(), st.none())
GETS = st.builds(GetOp, NAMESPACES, KEYS)
SEARCHES = st.builds(
    SearchOp, st.lists(LABELS, max_size=2).map(tuple), FILTERS, st.just(50), st.just(0), st.none(), st.booleans()
)
CONDITIONS = st.builds(
    MatchCondition,
    st.sampled_from(("prefix", "suffix")),
    st.lists(st.one_of(LABELS, st.just("*")), min_size=1, max_size=2),
)
BATCHES = st.lists(st.lists(st.one_of(PUTS, PUTS, GETS, SEARCHES), min_size=1, max_size=6), min_size=2, max_size=6)


def shown(result: Any) -> Any:
    """Without times, and in one order."""
    if isinstance(result, list):
        return sorted((shown(each) for each in result), key=repr)
    return (result.namespace, result.key, result.value) if isinstance(result, Item) else result


@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
@given(batches=BATCHES, conditions=st.lists(CONDITIONS, max_size=2), depth=st.sampled_from((None, 1, 2)))
def test_it_gives_what_the_store_in_memory_gives(
    redis_server: RedisServer, redis_config: RedisConfig, batches: Any, conditions: Any, depth: int | None
) -> None:
    redis_server.clean()
    model = InMemoryStore()
    with RedisStore(redis_config) as store:
        for batch in batches:
            assert [*map(shown, store.batch(batch))] == [*map(shown, model.batch(batch))]
        filled = {item.namespace for item in model.search((), limit=1000)}
        asked = ListNamespacesOp(tuple(conditions), None, 1000, 0)
        listed: Any = model.batch([asked])[0]
        named = [each for each in listed if each in filled]
        assert store.batch([asked._replace(max_depth=depth)])[0] == sorted({each[:depth] for each in named})


async def test_a_page_follows_the_other_in_the_order_of_the_names(redis_config: RedisConfig) -> None:
    async with RedisStore(redis_config) as store:
        await store.abatch([PutOp(("n", str(number % 3)), f"{number:03}", {"n": number}) for number in range(250)])
        pages = [await store.asearch(("n",), limit=100, offset=offset) for offset in (0, 100, 200, 300)]
        odd = await store.asearch((), filter={"n": {"$gte": 245}}, limit=3)

    assert [len(page) for page in pages] == [100, 100, 50, 0]
    names = [(item.namespace, item.key) for page in pages for item in page]
    assert names == sorted(names)
    assert [item.value["n"] for item in odd] == [246, 249, 247]


async def test_an_item_keeps_when_it_was_made_and_says_when_it_was_changed(redis_config: RedisConfig) -> None:
    async with RedisStore(redis_config) as store:
        await store.aput(("n",), "k", {"n": 1})
        first = await store.aget(("n",), "k")
        await asyncio.sleep(0.005)  # the times are in ms
        await store.aput(("n",), "k", {"n": 2})
        second = await store.aget(("n",), "k")

    assert first
    assert second
    assert second.created_at == first.created_at < second.updated_at


async def test_what_has_expired_is_gone_and_reading_makes_it_live_longer(
    redis_config: RedisConfig, redis_server: RedisServer
) -> None:
    items, _, expiry = StoreKeys("default").all
    async with RedisStore(redis_config, ttl={"default_ttl": 60}) as store:
        for key in ("read", "unread", "found", "gone"):
            await store.aput(("n",), key, {"key": key})
        await store.aput(("n",), "stays", {}, ttl=None)
        with redis_server.connect() as client:
            now_ms = int(client.time()[0]) * 1000
            for key, expires_ms in (("read", 50_000), ("unread", 50_000), ("found", 50_000), ("gone", -1)):
                client.zadd(expiry, {f"n\0{key}": now_ms + expires_ms})

            await store.aget(("n",), "read")
            await store.aget(("n",), "unread", refresh_ttl=False)
            await store.asearch(("n",), filter={"key": "found"})
            left: Any = dict(client.zrange(expiry, 0, -1, withscores=True))

            assert {name for name, expires in left.items() if expires > now_ms + 60_000} == {b"n\0read", b"n\0found"}
            assert {item.key for item in await store.asearch(("n",))} == {"read", "unread", "found", "stays"}
            assert await store.aget(("n",), "gone") is None
            assert not client.hexists(items, "n\0gone")


async def test_a_node_has_it_as_its_store(redis_config: RedisConfig) -> None:
    class Seen(TypedDict):
        seen: list[str]

    async def remember(state: Seen, runtime: Runtime[None]) -> Seen:
        assert runtime.store
        await runtime.store.aput(("memories",), "one", {"text": "remembered"})
        return {"seen": [str(item.value["text"]) for item in await runtime.store.asearch(("memories",))]}

    async with RedisStore(redis_config) as store:
        graph = StateGraph(Seen).add_node("remember", remember).add_edge(START, "remember").compile(store=store)
        assert await graph.ainvoke({"seen": []}) == {"seen": ["remembered"]}


def letters(texts: list[str]) -> list[list[float]]:
    """Embeds texts by how often a, b and c are in them."""
    return [[float(text.count(letter)) for letter in "abc"] for text in texts]


INDEX: Any = {"dims": 3, "embed": letters, "fields": ["text", "parts[*].text"]}
TEXTS = st.text("abcx", max_size=6)
#: The texts of one are different, of which LangGraph's store in memory takes no two that are the same.
PARTS = st.lists(TEXTS, unique=True).map(lambda texts: [{"text": text} for text in texts])
DOCUMENTS = st.fixed_dictionaries(
    {"n": st.integers(0, 1)}, optional={"text": TEXTS.map("y{}".format), "parts": PARTS}
)  # fmt: skip
INDEXED = st.builds(
    PutOp, NAMESPACES, st.text("kl", min_size=1, max_size=3), DOCUMENTS, st.sampled_from((None, None, False, ["n"])),
    st.none(),
)  # fmt: skip


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(
    puts=st.lists(INDEXED, min_size=1, max_size=12, unique_by=lambda put: (put.namespace, put.key)),
    query=st.text("abc", min_size=1, max_size=4),
    conditions=FILTERS,
    limit=st.integers(1, 12),
)
def test_a_query_finds_what_it_finds_in_memory(
    redis_server: RedisServer, redis_config: RedisConfig, puts: Any, query: str, conditions: Any, limit: int
) -> None:
    redis_server.clean()
    with RedisStore(redis_config, index=INDEX, encryption=Encryption({"k": bytes(32)}, "k")) as store:
        model = InMemoryStore(index=INDEX)
        for put in puts:
            store.batch([put])
            model.put(put.namespace, put.key, dict(put.value), put.index)
        found, expected = (each.search((), query=query, filter=conditions, limit=limit) for each in (store, model))
    assert [each.score for each in found] == pytest.approx([each.score for each in expected], abs=1e-6)
    assert len({(each.namespace, each.key) for each in found}) == len(found)
    scores = {(each.namespace, each.key): each.score for each in found}
    every = model.search((), query=query, filter=conditions, limit=100)
    assert scores == pytest.approx(
        {name: each.score for each in every if (name := (each.namespace, each.key)) in scores}, abs=1e-6
    )


async def test_a_query_is_of_one_namespace_and_paged_and_of_no_effect_without_an_index(
    redis_config: RedisConfig,
) -> None:
    async with RedisStore(redis_config, index=INDEX) as store, RedisStore(redis_config) as plain:
        await store.abatch([PutOp(("n", "a"), f"{n:03}", {"text": "a" * n + "b" * (200 - n)}) for n in range(200)])
        await store.aput(("other",), "k", {"text": "aaa"})
        await plain.aput(("n",), "plain", {"text": "aaa"})
        pages = [await store.asearch(("n",), query="a", limit=100, offset=offset) for offset in (0, 100, 200)]
        assert [each.key for page in pages for each in page] == [*(f"{n:03}" for n in range(199, -1, -1)), "plain"]
        assert pages[0][0].score == pytest.approx(1, abs=1e-3)
        assert pages[2][0].score is None
        unranked = await plain.asearch(("n",), query="a", limit=2)
        assert [(each.key, each.score) for each in unranked] == [("plain", None), ("000", None)]
        found = await plain.aget(("n", "a"), "199")
        assert found
        assert found.value["text"][:2] == "aa"
        await store.aput(("n",), "plain", {"text": "c"})
        assert (await store.asearch((), query="c", limit=1))[0].key == "plain"


async def test_values_are_encrypted_and_bound_to_their_place(
    redis_config: RedisConfig, redis_server: RedisServer
) -> None:
    items, _, _ = StoreKeys("default").all
    async with RedisStore(redis_config, encryption=Encryption({"k": bytes(32)}, "k")) as store:
        await store.aput(("n",), "k", {"text": "secret"})
        await store.aput(("n",), "l", {"text": "other"})
        with redis_server.connect() as client:
            stored: Any = client.hgetall(items)
            assert not any(b"secret" in value for value in stored.values())
            client.hset(items, "n\0l", stored[b"n\0k"])

        assert await store.aget(("n",), "k")
        with pytest.raises(CheckpointUnreadable):
            await store.aget(("n",), "l")


async def test_what_it_cannot_do_is_refused_in_words(redis_config: RedisConfig) -> None:
    wrong: list[tuple[Any, str]] = [
        ({"embed": letters}, "give as `dims`"),
        ({"dims": 3}, "give as `embed`"),
        ({"dims": 3, "embed": "no model"}, "`embed` cannot be used"),
    ]
    for index, said in wrong:
        with pytest.raises(ConfigError, match=said):
            RedisStore(redis_config, index=index)
    async with RedisStore(redis_config, index=INDEX | {"dims": 2}) as store:
        with pytest.raises(BadTask, match="have 3 numbers: say so as `dims`"):
            await store.aput(("n",), "k", {"text": "abc"})
        assert await store.aget(("n",), "k") is None
    async with RedisStore(redis_config) as store:
        with pytest.raises(BadTask, match=r"item 'k' of \('n',\) is not JSON"):
            await store.abatch([PutOp(("n",), "j", {}), PutOp(("n",), "k", {"a": object()})])
        assert await store.aget(("n",), "j") is None
        for ttl in (0, -1.5):
            with pytest.raises(BadTask, match="lives for"):
                await store.aput(("n",), "j", {}, ttl=ttl)
        await store.aput(("n",), "j", {"a": 1}, ttl=1e-9)
        while await store.aget(("n",), "j", refresh_ttl=False):  # it lives for a millisecond
            pass
        await store.aput(("n",), "j", {"a": 1})
        with pytest.raises(BadTask, match=r"\$like"):
            await store.asearch((), filter={"a": {"$like": "x"}})
        with pytest.raises(EventLoopError, match="aget"):
            store.get(("n",), "k")
