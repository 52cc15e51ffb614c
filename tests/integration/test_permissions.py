"""What a user of Redis must be allowed, asked of the server before anything depends on it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from coordinator.agent import CoordinatorAgent
from core.client.agent_client import AgentClient
from core.config.settings import A2ASecrets, RedisConfig
from core.config.sources import load
from core.errors import ConfigError, ServerRefused
from core.operations.acl import DISCOVERY, READS, STORES, THREADS, Chain, allowed_of, rules_of
from core.operations.checkup import check_all
from core.operations.permissions import check_permissions, refused_to
from core.redis_backend.clock import ServerClock
from core.roles import Address, Role
from tests.integration.speaker import Redis

C, D, W = Address(Role.COORDINATOR, "c"), Address(Role.DISTRIBUTOR, "d"), Address(Role.WORKER, "w")
AGENTS: list[Chain] = [(C,), (C, D), (C, D, W)]
ASKERS: list[Chain] = [(C, Address(Role.CLIENT, "a")), (C, Address(Role.OPERATOR, "a"))]
ALL = ("~*", "&*", "+@all")


@pytest.fixture
async def as_user(redis_config: RedisConfig, client: Redis) -> AsyncIterator[RedisConfig]:
    """How a user enters that a test makes by `make_user`."""
    yield redis_config.model_copy(update={"username": "someone", "password": "secret", "wait_replicas": 1})
    await client.execute_command("ACL", "DELUSER", "someone")


async def make_user(client: Redis, *rules: str) -> None:
    await client.execute_command("ACL", "SETUSER", "someone", "reset", "on", ">secret", *rules)


@pytest.mark.parametrize("chain", [*AGENTS, *ASKERS], ids=lambda chain: chain[-1].role)
async def test_who_may_do_what_is_printed_is_refused_nothing_and_asking_writes_nothing(
    as_user: RedisConfig, client: Redis, chain: Chain
) -> None:
    await make_user(client, *" ".join(rules_of(chain)).split())

    assert await refused_to(as_user, chain) == []
    assert await client.dbsize() == 0


@pytest.mark.parametrize("chain", [*AGENTS, *ASKERS], ids=lambda chain: chain[-1].role)
async def test_asking_changes_nothing_that_is_stored(as_user: RedisConfig, client: Redis, chain: Chain) -> None:
    """By somebody who may do all there is, on keys of every type."""
    await make_user(client, *ALL)
    keys = {key.rpartition("%R~")[2].removeprefix("%W~") for allowed in allowed_of(chain) for key in allowed.keys}

    of_each_type: tuple[tuple[str | int, ...], ...] = (
        ("XADD", "*", "0", "0"), ("SET", "0"), ("HSET", "0", "0"), ("ZADD", 0, "0"), ("SADD", "0"),
    )  # fmt: skip
    for name, *value in of_each_type:
        await client.flushdb()
        for key in keys:
            await client.execute_command(f"{name}", key, *value)
        before = [await client.dump(key) for key in keys]
        assert await refused_to(as_user, chain) == []
        assert [await client.dump(key) for key in keys] == before


@pytest.mark.parametrize("chain", [*AGENTS, *ASKERS], ids=lambda chain: chain[-1].role)
async def test_each_command_that_is_not_allowed_is_found(as_user: RedisConfig, client: Redis, chain: Chain) -> None:
    """One after the other, of those that the role is given."""
    rules = " ".join(rules_of(chain)).split()
    names = {rule.strip("(").removeprefix("+") for rule in rules if rule.lstrip("(").startswith("+")}
    untried = {"append", "info", "ping"}  # who may not PING does not get in
    optional = {*THREADS.split(), *STORES.split(), *DISCOVERY.split()}  # without which a client works
    if chain[-1].role is Role.OPERATOR:
        untried |= optional - {*READS.split()}
    if chain[-1].role is Role.CLIENT:
        untried |= {*optional, "xrange"}  # for events, likewise
    missed = []
    for name in sorted(names - untried):
        await make_user(client, *ALL, f"-{name.partition('|')[0]}")
        if not any(name in found for found in await refused_to(as_user, chain)):
            missed.append(name)

    assert missed == []
    assert await client.dbsize() == 0


@pytest.mark.parametrize(("chain", "channels"), [((C,), False), ((C, D), False), ((C, D, W), True)])
async def test_who_may_not_publish_is_told_so_if_it_has_to(
    as_user: RedisConfig, client: Redis, chain: Chain, channels: bool
) -> None:
    await make_user(client, *ALL, "resetchannels")

    assert await refused_to(as_user, chain) == ([] if channels else ["publish"])


@pytest.mark.parametrize("chain", AGENTS, ids=lambda chain: chain[-1].role)
async def test_a_key_that_is_not_allowed_is_named(as_user: RedisConfig, client: Redis, chain: Chain) -> None:
    await make_user(client, "~{*", "~shared*", "&*", "+@all")

    on_the_list = ["sadd on agents:active", "srem on agents:active"]
    assert await refused_to(as_user, chain) in (on_the_list, [*on_the_list, "smembers"])


async def test_an_agent_and_a_client_do_not_start_and_tell_the_cure(as_user: RedisConfig, client: Redis) -> None:
    await make_user(client, *ALL, "-time")
    secrets = A2ASecrets(token_secret="a secret that is long enough")

    with pytest.raises(ConfigError, match=r"'someone'.*coordinator:c needs: time.*agents acl coordinator c"):
        await CoordinatorAgent("c", as_user).initialize.aio()
    with pytest.raises(ConfigError, match=r"client:a~.* needs: time.*agents acl client a --coordinator c"):
        await AgentClient(as_user, secrets, "c", "a").open.aio()
    assert await client.dbsize() == 0


async def test_a_client_that_waits_for_no_replicas_needs_not_be_allowed_to(as_user: RedisConfig, client: Redis) -> None:
    await make_user(client, *ALL, "-wait", "-set")

    await check_permissions(as_user.model_copy(update={"wait_replicas": 0}), ASKERS[0])
    with pytest.raises(ConfigError, match="wait"):
        await check_permissions(as_user, ASKERS[0])


@pytest.mark.parametrize(
    ("rules", "key", "state"),
    [
        (ALL, "", "ok"),
        ((*ALL, "resetchannels"), "", "fail"),
        ((*ALL, "-time"), "key", "fail"),
        ((*ALL, "resetchannels"), "key", "warn"),
    ],
)
async def test_the_doctor_finds_what_the_user_may_not(
    as_user: RedisConfig,
    client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    rules: tuple[str, ...],
    key: str,
    state: str,
) -> None:
    """With a key of its own it may be a client, who need not publish."""
    await make_user(client, *rules)
    monkeypatch.setenv("REDIS_URL", str(as_user.endpoint))
    monkeypatch.setenv("REDIS_USERNAME", "someone")
    monkeypatch.setenv("REDIS_PASSWORD", "secret")
    monkeypatch.setenv("A2A_AGENT_KEY", key)
    assert load().redis.endpoint.username == "someone"

    [found] = [finding async for finding in check_all() if finding.check == "permissions"]

    assert found.state == state
    assert bool(found.cure) == (state != "ok")


async def test_a_server_that_stops_telling_its_time_is_a_refusal_in_words() -> None:
    with pytest.raises(ServerRefused, match=r"TIME.*NOPERM"):
        ServerClock().sync(Exception("NOPERM this user"), 0.0)
