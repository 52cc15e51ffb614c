"""What a Redis user of each role must be allowed, and no more: rules for ACL SETUSER, of Redis 7 or Valkey.

A user has one selector (`Allowed`) for each thing it does, so that a command for its own keys is not thereby allowed on
keys that it only appends to. Such rules cannot distinguish the fields of a hash, or the options of XADD: a user who may
append to a stream may also trim it, or use up its ids. docs/security.md says what follows from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from core.errors import ConfigError
from core.events import audience_scripts
from core.redis_backend import (
    budget_scripts,
    delivery_scripts,
    gateway_scripts,
    item_scripts,
    limit_scripts,
    thread_scripts,
)
from core.redis_backend.bounded_reads import SCRIPTS, name_of
from core.redis_backend.gateway_keys import GatewayKeys
from core.redis_backend.keys import (
    ACTIVE,
    CellKeys,
    CoordinatorKeys,
    RegistryKeys,
    StoreKeys,
    ThreadKeys,
    keys_of,
)
from core.redis_backend.rate_scripts import TAKE_TOKEN
from core.redis_backend.registry_scripts import DEREGISTER, FIND, REGISTER, RENEW
from core.roles import AGENT_ID, ASKERS, Address, Role

__all__ = [
    "Allowed",
    "Chain",
    "allowed_of",
    "chain_of_user",
    "rules_of",
    "rules_of_gateway",
    "rules_of_stream",
    "user_of",
]


Chain = tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Allowed:
    """One selector of a rule: these commands, on each of these keys, or on that channel."""

    commands: tuple[str, ...]  #: as in ACL SETUSER: a subcommand, or the hash of a script, follows a bar
    keys: tuple[str, ...] = ()  #: patterns. `%R~` before one: reading only; `%W~`: writing only
    channel: str = ""  #: a pattern

    def __str__(self) -> str:
        commands = " ".join(f"+{command}" for command in self.commands)
        if not self.keys and not self.channel:
            return commands
        named = [key if key.startswith("%") else f"~{key}" for key in self.keys]
        return f"({' '.join([commands, *named, *([f'&{self.channel}'] if self.channel else [])])})"


def user_of(chain: Chain) -> str:
    """The name of the user of the last of `chain`, which leads down from the coordinator: its role and id, and the id
    of its parent if the own id is unique only there."""
    me = chain[-1]
    if me.role in (Role.COORDINATOR, Role.DISTRIBUTOR):
        return str(me)
    return f"{me.role.value}:{chain[-2].agent_id}/{me.agent_id}"


def chain_of_user(user: str, coordinator_id: str) -> Chain | None:
    """The owner of a user, by its name; None: `user_of` gives no such name."""
    role, _, name = user.partition(":")
    above, _, agent_id = name.rpartition("/")
    if role not in set(Role):
        return None
    me = Address(Role(role), agent_id)
    if me.role is Role.COORDINATOR:
        return (me,)
    if me.role is Role.WORKER:
        return Address(Role.COORDINATOR, coordinator_id), Address(Role.DISTRIBUTOR, above), me
    return Address(Role.COORDINATOR, above or coordinator_id), me


def rules_of(chain: Chain, db: int = 0) -> list[str]:
    """The rules that follow name and password in ACL SETUSER. `db` is the database with the keys. Raises ConfigError
    for a malformed id, since it could be a pattern, or a rule of its own."""
    for address in chain:
        Address.of(Role.COORDINATOR, address.agent_id)
    return _rules(allowed_of(chain), db)


def rules_of_gateway(chain: Chain, db: int = 0) -> list[str]:
    """As `rules_of`, for a client or operator that is a gateway: it also reads what operators see, and writes what
    gateways remember together. Agents that register at it are workers, whose users these rules do not stand for."""
    rules_of(chain, db)
    keys, cells = CoordinatorKeys(chain[0].agent_id), CellKeys("*")
    return _rules(
        [
            *allowed_of(chain),
            _may("hrandfield hdel", keys.webhooks),
            _may("hkeys", *_reading(keys.schedules)),
            _may(f"{READS} zcount zrevrank", *_reading(keys.every, cells.header, cells.every, ACTIVE)),
            _may(f"{REGISTRY} {DISCOVERY}", *RegistryKeys(chain[0].agent_id).every),
            _may(GATEWAY, GatewayKeys(chain[0].agent_id).every),
            # Its keys are of both, and one of the rules has to allow all of them.
            _may(f"evalsha|{name_of(delivery_scripts.CLAIM_DUE)}", GatewayKeys(chain[0].agent_id).every, keys.webhooks),
        ],
        db,
    )


def rules_of_stream(name: str, db: int = 0) -> list[str]:
    """As `rules_of`, for a program that publishes to the agent stream of this name, and reads it. Raises ConfigError
    for a name that could be a pattern or a rule, or, since it has a colon, give access to the keys of a hierarchy."""
    if not AGENT_ID.fullmatch(name):
        raise ConfigError(
            f"stream {name[:80]!r} cannot have a user of its own: its name needs 1 to 64 letters, digits, '_', '.', '-'"
        )
    return _rules(
        [_may("ping script|load time"), _may(f"{OF_A_STREAM} {RUN_STREAM_SCRIPTS}", name, f"{{{name}}}:*")], db
    )


def _rules(allowed: Iterable[Allowed], db: int) -> list[str]:
    selected = [f"+select|{db}"] if db else []
    return ["resetchannels", "-@all", *selected, *map(str, allowed)]


def allowed_of(chain: Chain) -> list[Allowed]:
    """Everything that the last of `chain` needs."""
    return [_may("ping time"), *_ALLOWED[chain[-1].role](chain)]


# ---- commands ----

#: Commands of every agent that use no keys.
AGENT = "multi exec unwatch info script|load"
#: Commands on the keys of one agent: its lease and fence, header, inbox, and what it has seen.
OWN = (
    "getrange type set del watch pexpire hget hmget hgetall hkeys hlen hstrlen hset hdel hincrby"
    " xread xdel xrange xinfo|stream zadd zrem zremrangebyscore"
)
RUN_SCRIPTS = " ".join(f"evalsha|{name_of(script)}" for script in SCRIPTS)
#: Commands on the threads of LangGraph, most of them in scripts.
THREADS = " ".join(
    (
        "unlink get set pexpire hget hset hexists hdel zadd zrem zscore zlexcount zrangebylex zrevrangebylex",
        *(f"evalsha|{name_of(script)}" for script in thread_scripts.SCRIPTS),
    )
)
#: Commands on the stores of LangGraph, all in scripts.
STORES = " ".join(
    (
        "hget hset hdel zadd zrem zscore zrangebylex zrangebyscore",
        *(f"evalsha|{name_of(script)}" for script in item_scripts.SCRIPTS),
    )
)
#: Commands on what tasks may spend, all in scripts.
BUDGETS = " ".join(("hget hset", *(f"evalsha|{name_of(script)}" for script in budget_scripts.SCRIPTS)))
#: Commands on the limits of models, most of them in scripts.
LIMITS = " ".join(
    (
        "hkeys hget hset hdel hincrby zadd zrem zscore zrange zremrangebyscore",
        *(f"evalsha|{name_of(script)}" for script in limit_scripts.SCRIPTS),
    )
)
#: Commands on the registry of agents, all in scripts.
REGISTRY = " ".join(
    (
        "hget hmget hset del pexpire zadd zrem zscore zrangebyscore exists sadd srem",
        *(f"evalsha|{name_of(script)}" for script in (REGISTER, RENEW, DEREGISTER)),
    )
)
#: Commands that look into it.
DISCOVERY = f"hgetall smembers zcard zcount zscore zrangebyscore zrangebylex evalsha|{name_of(FIND)}"
#: Commands on what gateways remember.
GATEWAY = " ".join(
    (
        "get set del hget hmget hexists hgetall hkeys hvals hlen hset hsetnx hdel sadd smembers srem zadd zcard zrange"
        " zrangebyscore zrevrange zscore zrem xadd xread xrevrange exists pexpire",
        *(f"evalsha|{name_of(script)}" for script in (TAKE_TOKEN, *delivery_scripts.SCRIPTS, *gateway_scripts.SCRIPTS)),
    )
)
#: What an agent stream takes, scripts included.
OF_A_STREAM = (
    "xadd xread xreadgroup xack xclaim xdel xlen xpending xrange xtrim"
    " xgroup|create xgroup|delconsumer xinfo|consumers xinfo|groups xinfo|stream"
    " hmget hset hdel hgetall hincrby zadd zrem zscore exists pexpire del"
)
RUN_STREAM_SCRIPTS = " ".join(f"evalsha|{name_of(script)}" for script in audience_scripts.SCRIPTS)
#: Commands that only read. None takes time in proportion to all data of the server.
READS = "get strlen getrange hget hmget hgetall hlen zscore zcard zrange zrevrange smembers xlen xrange xrevrange"


def _may(commands: str, *keys: str, channel: str = "") -> Allowed:
    return Allowed(tuple(commands.split()), keys, channel)


def _reading(*keys: str) -> Iterable[str]:
    return (f"%R~{key}" for key in keys)


def _writing(*keys: str) -> Iterable[str]:
    return (f"%W~{key}" for key in keys)


# ---- roles ----


def _agent(chain: Chain) -> list[Allowed]:
    keys = keys_of(chain)
    own = (keys.header, keys.lease, keys.fence, keys.seen, keys.inbox, keys.heartbeats, keys.standbys)
    return [
        _may(AGENT),
        _may(f"{OWN} {RUN_SCRIPTS}", *own),
        _may("sadd srem", *_writing(ACTIVE)),
        _may(REGISTRY, *RegistryKeys(chain[0].agent_id).every),
        _may("xadd", *_writing(keys.quarantine, CoordinatorKeys(chain[0].agent_id).events)),
        _may("type del", *keys.types),  # to repair a key of another type
    ]


def _child(chain: Chain) -> list[Allowed]:
    keys = keys_of(chain)
    assert keys.parent_heartbeats
    return [
        *_agent(chain),
        _may("xadd", *_writing(keys_of(chain[:-1]).inbox)),
        _may("hset hdel", *_writing(keys.parent_heartbeats)),
        _may("hget", *_reading(keys_of(chain[:-1]).seen)),  # whether it is heard
    ]


def _worker(chain: Chain) -> list[Allowed]:
    return [
        *_child(chain),
        _may("hmget", *_reading(CoordinatorKeys(chain[0].agent_id).tasks)),  # inputs of continuations
        _may(THREADS, ThreadKeys("*").every),
        _may(STORES, StoreKeys("*").every),
        _may(BUDGETS, CoordinatorKeys(chain[0].agent_id).budgets),
        _may(LIMITS, *CoordinatorKeys(chain[0].agent_id).limit("*")),
        _may("xadd pexpire", *_writing(CoordinatorKeys(chain[0].agent_id).run_stream("*"))),
    ]


def _distributor(chain: Chain) -> list[Allowed]:
    keys, cell = keys_of(chain), CellKeys(chain[-1].agent_id)
    assert keys.revoked
    return [
        *_child(chain),
        _may("hgetall hset hdel", cell.actual),
        _may("xadd", *_writing(cell.history, cell.worker_inbox("*"))),
        _may("getrange", *_reading(keys.revoked)),
        _may("publish", channel=cell.changes),
    ]


def _coordinator(chain: Chain) -> list[Allowed]:
    keys = CoordinatorKeys(chain[-1].agent_id)
    cells = CellKeys("*")  # distributors come and go
    indexes = (keys.open, keys.ended, keys.dead, keys.questions)
    records = (keys.tasks, *indexes, keys.submissions, keys.schedules, keys.quotas)
    return [
        *_agent(chain),
        _may("hget hmget hset hdel hkeys hlen hscan hstrlen zadd zcard zrem zrange zrangebyscore zscore", *records),
        _may("hgetall", *_reading(keys.quotas)),
        _may("hset hdel", *_writing(keys.webhooks)),
        _may("hdel", *_writing(keys.budgets)),
        _may("pexpire", *_writing(ThreadKeys("*").every)),  # of runs whose results are recorded
        _may("xadd expire", *_writing(*(keys.replies(Address(asker, "*")) for asker in sorted(ASKERS)))),
        _may("getrange", *_reading(keys.revoked)),
        _may("smembers", *_reading(ACTIVE)),
        # The desired state of its distributors, and the cell of a lost one, which it empties under that one's lease.
        _may("hget hgetall hset hdel", cells.header, cells.wanted, cells.actual),
        _may("xadd", *_writing(cells.inbox, cells.history)),
        _may("publish", channel=cells.changes),
        _may("getrange set del watch hmget zrem", cells.lease, cells.fence, cells.header, cells.agent("*").standbys),
        _may("type del", *cells.agent("*").types),
        _may("hkeys", *_reading(cells.actual)),
        _may("hget", *_reading(cells.worker("*").header)),  # whether a worker has been gone for a day
    ]


def _client(chain: Chain) -> list[Allowed]:
    keys, me = CoordinatorKeys(chain[0].agent_id), chain[-1]
    sessions = Address(me.role, f"{me.name}~*")
    return [
        _may("xadd", *_writing(keys.inbox)),
        _may("xread xtrim exists", keys.replies(sessions)),
        _may("set", *_writing(keys.mark(sessions))),
        _may("wait"),
        _may("xread xrange xrevrange", *_reading(keys.events, keys.run_stream("*"))),
        _may("xrevrange", *_reading(keys.agent.quarantine)),  # whether its message was rejected, and why
        _may("script|load"),
        _may(DISCOVERY, *_reading(*RegistryKeys(chain[0].agent_id).every)),
        _may(THREADS, ThreadKeys("*").every),
        _may(STORES, StoreKeys("*").every),
    ]


def _operator(chain: Chain) -> list[Allowed]:
    keys, cells = CoordinatorKeys(chain[0].agent_id), CellKeys("*")
    return [
        *_client(chain),
        _may("info"),
        _may(READS, *_reading(keys.every, cells.header, cells.every, ACTIVE)),
        _may("append", *_writing(keys.revoked)),
        _may("hset hdel", *_writing(keys.limits)),
        _may("hset", *_writing(keys.limit("*")[1])),
        _may("xdel xtrim", *_writing(keys.agent.quarantine, cells.agent("*").quarantine)),
    ]


_ALLOWED: dict[Role, Callable[[Chain], list[Allowed]]] = {
    Role.COORDINATOR: _coordinator,
    Role.DISTRIBUTOR: _distributor,
    Role.WORKER: _worker,
    Role.CLIENT: _client,
    Role.OPERATOR: _operator,
}
