"""Asks the server itself whether a Redis user may do what a role needs, before anything depends on it.

A server checks permissions when a command is queued in a transaction. So each command is queued once for each key, on a
connection that is then closed, and none is carried out. Clients have no transactions; their commands are carried out,
in a form that changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.config.settings import RedisConfig
from core.errors import ConfigError
from core.operations.acl import Chain, allowed_of
from core.ports import Command
from core.redis_backend.keys import CoordinatorKeys, RegistryKeys, StoreKeys, ThreadKeys
from core.redis_client import Wire
from core.roles import ASKERS, options_of

__all__ = ["check_permissions", "cure_of", "refused_to", "shown"]

#: Commands that cannot be queued in a transaction. Outside of one they have no effect.
UNQUEUED = frozenset({"exec", "watch"})
#: An agent works without INFO too, and warns by itself. APPEND, with which an operator revokes, always has an effect.
UNTRIED = frozenset({"append", "info"})
#: Commands of a client only if it waits for replicas.
FOR_REPLICAS = frozenset({"set", "wait"})
#: Arguments after the key that give a command its right form without effect; other commands have none.
BEHIND_KEY: dict[str, Command] = {
    **dict.fromkeys(("expire", "hdel", "hget", "hmget", "hscan", "hstrlen", "pexpire", "publish"), (0,)),
    **dict.fromkeys(("hexists", "sadd", "srem", "xdel", "zrem", "zscore"), (0,)),
    **dict.fromkeys(("getrange", "hincrby", "xrange", "xrevrange", "zrange"), (0, 0)),
    **dict.fromkeys(("zrangebyscore", "zremrangebyscore", "zrevrange"), (0, 0)),
    "zcount": (0, 0),
    **dict.fromkeys(("zlexcount", "zrangebylex", "zrevrangebylex"), ("-", "+")),
    "hset": (0, 0, 0),  # a field without a value
    "set": (0, "NX", "XX"),  # these contradict each other
    "zadd": ("XX", 0, 0),  # only if it is there
    "xadd": ("0-0", 0, 0),
    "xtrim": ("MINID", 0),
}
KEYLESS: dict[str, Command] = {"script|load": ("SCRIPT", "LOAD", "return 0"), "wait": ("WAIT", 0, 0)}
#: The error replies of a server that refuses; the second is for EXEC.
REFUSALS = ("NOPERM", "EXECABORT")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class _Call:
    """A needed command, as in ACL SETUSER, and its key."""

    name: str
    key: str = ""  #: or a channel

    @property
    def command(self) -> Command:
        """The command in its right form, without a meaning."""
        name, _, part = self.name.partition("|")
        if not self.key:
            return KEYLESS.get(self.name, (name,))
        if name == "evalsha":
            return (name, part, 1, self.key)
        if name == "xread":
            return (name, "STREAMS", self.key, 0)
        return (name, *filter(None, [part]), self.key, *BEHIND_KEY.get(name, ()))


_MULTI = _Call("multi")


async def check_permissions(redis: RedisConfig, chain: Chain) -> None:
    """Raises ConfigError when the server would refuse the last of `chain` something that it needs, and
    TransportDown."""
    if refused := await refused_to(redis, chain):
        user = redis.endpoint.username or "default"
        raise ConfigError(
            f"the Redis user {user!r} may not do everything that {chain[-1]} needs: {shown(refused)}. {cure_of(chain)}"
        )


def shown(refused: Sequence[str]) -> str:
    """The first of them, and the number of others."""
    return "; ".join(refused[:_SHOWN]) + (f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else "")


def cure_of(chain: Chain) -> str:
    """How to get the right rules."""
    me, above = chain[-1], chain[:-1]
    return f"`agents acl {me.role} {me.name}{options_of(above)}` prints the ACL SETUSER line that allows it"


async def refused_to(redis: RedisConfig, chain: Chain) -> list[str]:
    """The commands that the server refuses to the last of `chain`, whose user is that of `redis`, with the keys if not
    all are refused. Nothing is written. Raises TransportDown, ConfigError."""
    calls = list(dict.fromkeys(_calls(redis, chain)))
    wire = Wire(redis)
    try:
        await wire.connect()
        return list(_named(await _refused(wire, calls), calls))
    finally:
        await wire.close()


def _calls(redis: RedisConfig, chain: Chain) -> Iterator[_Call]:
    is_asker = chain[-1].role in ASKERS
    # A client works without events, registry, threads, stores and limits, too; it is told when it asks for them.
    keys = CoordinatorKeys(chain[0].agent_id)
    registry = RegistryKeys(chain[0].agent_id).every
    unasked = (keys.events, *keys.limit("*"), *registry, ThreadKeys("*").every, StoreKeys("*").every)
    optional = {*unasked} if is_asker else set()
    left_out = UNTRIED if redis.wait_replicas or not is_asker else UNTRIED | FOR_REPLICAS
    for allowed in allowed_of(chain):
        # A pattern is a name that it matches itself.
        named = [key.partition("~")[2] if key.startswith("%") else key for key in allowed.keys]
        for name in allowed.commands:
            if name not in left_out:
                yield from (_Call(name, key) for key in named or [allowed.channel] if key not in optional)


async def _refused(wire: Wire, calls: Sequence[_Call]) -> list[_Call]:
    if _MULTI not in calls:  # a client, whose commands have no effect in this form
        return await _refused_at_once(wire, calls)
    refused = await _refused_at_once(wire, [*(call for call in calls if call.name in UNQUEUED), _MULTI])
    if _MULTI in refused:  # the following commands would be carried out
        return refused
    return refused + await _refused_at_once(wire, [call for call in calls if call.name not in {*UNQUEUED, "multi"}])


async def _refused_at_once(wire: Wire, calls: Sequence[_Call]) -> list[_Call]:
    replies = await wire.exchange([call.command for call in calls])
    return [call for call, reply in zip(calls, replies, strict=True) if str(reply).startswith(REFUSALS)]


def _named(refused: Sequence[_Call], calls: Sequence[_Call]) -> Iterator[str]:
    for name in dict.fromkeys(call.name for call in refused):
        keys = [call.key for call in refused if call.name == name]
        others = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        is_allowed_nowhere = len(keys) == sum(call.name == name for call in calls)
        yield name if is_allowed_nowhere else f"{name} on {keys[0]}{others}"
