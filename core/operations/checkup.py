"""Finds what is wrong with an installation, and how to correct it. Nothing is started, written or repaired."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec

from core.config.settings import RedisConfig, Settings, with_client_certificate
from core.config.sources import load
from core.config.variables import secret_text
from core.embedded_server.embedded import ensure_server_blocking, leftovers, status
from core.embedded_server.probe import Kind, look
from core.errors import (
    AgentSystemError,
    BadSignature,
    ConfigError,
    NotPermitted,
    ReplayedMessage,
    RevokedKey,
    ServerRefused,
    StaleMessage,
    TransportDown,
    UnknownKey,
)
from core.machine.private_files import is_open_to_others
from core.machine.process_identity import provably_dead
from core.operations.acl import Chain, chain_of_user
from core.operations.finding import Finding
from core.operations.fleet_checkup import CLOCK_S, check_agents, check_fleet
from core.operations.overview import read_overview
from core.operations.permissions import cure_of, refused_to, shown
from core.operations.reader import Reader, reading
from core.overview import Overview
from core.printable import printable
from core.roles import Address, Role, asker_of
from core.server_info import fields_of, memory_of

__all__ = ["check_all", "check_info", "check_overview", "check_secret_files", "check_server", "exit_code_of"]

log = logging.getLogger(__name__)

NEEDED = ("cryptography", "hiredis", "langgraph", "orjson", "psutil", "pydantic", "redis", "rich", "typer")
OLDEST_REDIS = (6, 2)
_FULL_SHARE = 0.8
#: Why messages are rejected, and what to do about it.
CURES = {
    **dict.fromkeys(
        (BadSignature.reason, UnknownKey.reason),
        "give the sender the key that `agents key` prints for it, or set the same A2A_TOKEN_SECRET everywhere",
    ),
    RevokedKey.reason: "somebody uses a key that was stolen: give the agent another name, and a new key",
    StaleMessage.reason: "the sender stood still, or the server's clock has jumped: nothing to do, unless it goes on",
    ReplayedMessage.reason: "somebody sends again what an agent has sent: protect Redis, see docs/security.md",
    NotPermitted.reason: "an agent speaks above its station: see its log, and who else has its key",
}
#: What may be lost, with and without snapshots.
_WITHOUT_APPEND_ONLY_FILE = {
    True: "there are snapshots and no append-only file: a crash of the server loses what came after the last one",
    False: "the server writes nothing to disk: when it restarts, every task is lost",
    None: "there is no append-only file: a crash of the server loses what came after its last snapshot, if it has one",
}


async def check_all() -> AsyncIterator[Finding]:
    """All checks, from the interpreter to the agents. Checks that an earlier failure makes impossible are left out."""
    yield _check_python()
    yield _check_packages()
    try:
        settings = load()
    except ConfigError as error:
        yield Finding("settings", "fail", f"{error}", exit_code=error.exit_code)
        return
    for doubt in settings.doubts:
        yield Finding("settings", "warn", f"ignored: {doubt}")
    if not settings.doubts:
        yield Finding("settings", "ok", "every value is well-formed; `agents config show` lists them")
    yield _check_secret(settings)
    for finding in check_secret_files(settings):
        yield finding
    for server in leftovers(settings.redis):
        yield Finding(
            "embedded server", "warn", f"one on port {server.port} has lost its supervisor", "agents redis stop"
        )
    redis: RedisConfig | None = None
    try:
        redis = _server(settings)
    except AgentSystemError as error:
        yield Finding("redis", "fail", f"{error}", exit_code=error.exit_code)
        return
    if redis is None:
        yield Finding("redis", "ok", "none runs, and so no agent: `agents up` starts both")
        return
    async with reading(redis) as reader:
        try:
            yield await _check_user(redis, settings)
            async for finding in _check_server(reader, settings):
                yield finding
        except AgentSystemError as error:
            yield Finding("redis", "fail", f"{error}", exit_code=error.exit_code)


def _check_python() -> Finding:
    # An older one than 3.11 cannot import what runs here; this line is for reports.
    return Finding("python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))}, {sys.executable}")


def _check_packages() -> Finding:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        return Finding(
            "packages", "fail", f"not installed: {', '.join(missing)}", "pip install -r requirements.txt", 78
        )
    return Finding("packages", "ok", "everything that is needed is installed")


def _check_secret(settings: Settings) -> Finding:
    if secret_text(settings.a2a.agent_key):
        return Finding("secret", "ok", "A2A_AGENT_KEY: this environment speaks as one agent only")
    if secret_text(settings.a2a.token_secret):
        return Finding("secret", "ok", "A2A_TOKEN_SECRET is set")
    if settings.redis.endpoint.is_local:
        return Finding("secret", "ok", "not set: one of this machine's own is made, for agents on this machine")
    return Finding(
        "secret", "fail", "A2A_TOKEN_SECRET is not set, and Redis is not on this machine",
        'on the coordinator\'s machine: python -c "import secrets; print(secrets.token_urlsafe(32))"; on others set'
        " A2A_AGENT_KEY to what `agents key ROLE ID` prints there", 78,
    )  # fmt: skip


def check_secret_files(settings: Settings) -> Iterator[Finding]:
    """The files with secrets that are open to users besides their owner."""
    for path in settings.secret_files:
        if is_open_to_others(path):
            cure = f"chmod 600 {shlex.quote(str(path))}; where it is mounted, declare the mode 0440 there, or 0400"
            yield Finding("secret files", "warn", f"other users can read {path}, which holds a secret", cure)


def _server(settings: Settings) -> RedisConfig | None:
    """How to reach the running server; None: there is none, and one would be started. Raises TransportDown and
    ConfigError when agents would fail as well."""
    redis = with_client_certificate(settings.redis, settings.a2a)
    endpoint = redis.endpoint
    may_start = redis.mode != "external" and endpoint.is_local and endpoint.socket_path is None
    if may_start and look(redis, 0.5, 2.0).kind is Kind.NOTHING and status(redis) is None:
        return None
    return ensure_server_blocking(redis)


async def _check_user(redis: RedisConfig, settings: Settings) -> Finding:
    """Whether the server lets this user do what agents need: those that may run here, by the user's name and the
    keys."""
    user = redis.endpoint.username or "default"
    chains = [chain] if (chain := chain_of_user(user, settings.coordinator_id)) else _chains(settings)
    refused = {chain: found for chain in chains if (found := await refused_to(redis, chain))}
    if not refused:
        return Finding("permissions", "ok", f"the user {user!r} may do what {', '.join(_roles(chains))} needs")
    chain, first = next(iter(refused.items()))
    # A key of its own belongs to one agent, and does not tell which.
    is_meant = len(refused) == len(chains) or not secret_text(settings.a2a.agent_key)
    return Finding(
        "permissions", "fail" if is_meant else "warn",
        f"the user {user!r} may not do everything that {', '.join(_roles(refused))} needs;"
        f" {chain[-1].role}: {shown(first)}",
        cure_of(chain), ConfigError.exit_code if is_meant else 0,
    )  # fmt: skip


def _chains(settings: Settings) -> list[Chain]:
    coordinator = Address.of(Role.COORDINATOR, settings.coordinator_id)
    distributor = Address.of(Role.DISTRIBUTOR, settings.distributor_id)
    worker = Address.of(Role.WORKER, settings.worker_id)
    asker = asker_of(settings.client_id)
    return [(coordinator,), (coordinator, distributor), (coordinator, distributor, worker), (coordinator, asker)]


def _roles(chains: Iterable[Chain]) -> list[str]:
    return [f"a {chain[-1].role}" for chain in chains]


async def _check_server(reader: Reader, settings: Settings) -> AsyncIterator[Finding]:
    asked_s = time.time()
    info, server_time = await reader.run(("INFO",), ("TIME",))
    yield Finding("redis", "ok", f"answers at {settings.redis.endpoint}")
    fields = fields_of(info)
    for finding in check_info(fields, await _snapshots(reader, fields)):
        yield finding
    # A cluster has our keys in several slots, and answers for one at a time. In a server that is full nothing is new
    # that agents say of themselves.
    if _is_cluster(fields) or memory_of(fields).share > 1:
        return
    ahead_s = int(server_time[0]) + int(server_time[1]) / 1e6 - (asked_s + time.time()) / 2
    if abs(ahead_s) > CLOCK_S:
        yield Finding("clock", "warn", f"this machine's differs from the server's by {abs(ahead_s):.0f} s", "use NTP")
    else:
        yield Finding("clock", "ok", f"within {CLOCK_S:g} s of the server's")
    overview = await read_overview(reader, settings.coordinator_id, settings.agent)
    for finding in (
        *check_overview(overview),
        *await check_fleet(reader, overview, secret_text(settings.a2a.token_secret)),
    ):
        yield finding


async def check_server(reader: Reader) -> None:
    """Checks once, when an agent starts, whether work that must not be lost can be left with this server.

    Raises ConfigError when the server may delete tasks or is too old, and TransportDown. Every other problem is a
    warning with its cure. A server that does not answer the question is accepted, with a warning.
    """
    try:
        [info] = await reader.run(("INFO",))
    except ServerRefused as error:
        log.warning(
            "it is unknown whether this server may delete tasks, or loses them in a restart: %s."
            " Cure: allow our user to ask, with ACL SETUSER NAME +info",
            error,
            extra={"action": "server_unchecked"},
        )
        return
    fields = fields_of(info)
    for finding in check_info(fields, await _snapshots(reader, fields)):
        if finding.state == "fail" and finding.exit_code == ConfigError.exit_code:
            raise ConfigError(f"{finding.what}. Cure: {finding.cure}")
        if finding.state != "ok":
            log.warning(
                "%s. Cure: %s", finding.what, finding.cure, extra={"action": "server_check", "check": finding.check}
            )


async def _snapshots(reader: Reader, info: Mapping[str, str]) -> bool | None:
    """Whether the server writes snapshots by itself. None: it does not matter, since it writes an append-only file; or
    this user may not ask, as most users should not, since the same command reveals passwords."""
    if info.get("aof_enabled") == "1":
        return None
    try:
        [reply] = await reader.run(("CONFIG", "GET", "save"))
    except ServerRefused:
        return None
    return isinstance(reply, list) and len(reply) == 2 and bool(reply[1])


def check_info(info: Mapping[str, str], snapshots: bool | None = False) -> Iterator[Finding]:
    """Judges a server, by the fields of INFO, as a place for work that must not be lost. `snapshots` says whether it
    writes them by itself, which INFO does not tell; None: not known."""
    name = "valkey" if "valkey_version" in info else "redis"
    version = info.get("valkey_version") or info.get("redis_version", "0")
    if name == "redis" and tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_REDIS:
        yield Finding(
            "version", "fail", f"Redis {version} is too old", "use Redis 6.2 or newer, or Valkey 8 or newer", 78
        )
    else:
        yield Finding("version", "ok", f"{name.capitalize()} {version}")
    if _is_cluster(info):
        what = "the server is in cluster mode, in which one transaction cannot hold what belongs together here"
        cure = "use one without it (cluster-enabled no), with replicas for failover; a cluster is not supported yet"
        yield Finding("cluster", "fail", what, cure, 78)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        cure = "redis-cli config set maxmemory-policy noeviction, and the same in its configuration file"
        yield Finding("eviction", "fail", f"maxmemory-policy is {policy}: the server may delete tasks", cure, 78)
    else:
        yield Finding("eviction", "ok", "maxmemory-policy is noeviction")
    memory = memory_of(info)
    cure = "raise maxmemory (redis-cli config set maxmemory BYTES), or lower TASK_RETENTION_S; see INFO memory"
    if memory.share > 1:
        what = f"the server is full ({memory.share:.0%} of maxmemory): it refuses every write, heartbeats among them"
        yield Finding("memory", "fail", what, cure, TransportDown.exit_code)
    elif memory.share > _FULL_SHARE:
        yield Finding("memory", "warn", f"{memory.share:.0%} of maxmemory is used; a full server refuses work", cure)
    yield _check_persistence(info, snapshots)


def _is_cluster(info: Mapping[str, str]) -> bool:
    return info.get("cluster_enabled") == "1"


def _check_persistence(info: Mapping[str, str], snapshots: bool | None) -> Finding:
    if "err" in (info.get("aof_last_write_status"), info.get("rdb_last_bgsave_status")):
        cure = "see its log: most often the disk is full"
        return Finding("persistence", "fail", "the server's last write to disk failed", cure, 69)
    if info.get("aof_enabled") == "1":
        return Finding("persistence", "ok", "append-only file")
    cure = "redis-cli config set appendonly yes, and the same in its configuration file"
    return Finding("persistence", "warn", _WITHOUT_APPEND_ONLY_FILE[snapshots], cure)


def check_overview(overview: Overview) -> Iterator[Finding]:
    """Checks of the agents, their leases and their rejected messages."""
    dead = [agent for agent in overview.agents if agent.lease and provably_dead(agent.lease.process)]
    for agent in dead:
        yield Finding(
            "leases", "warn", f"{agent.address} died and its lease runs on",
            "nothing to do: it ends within AGENT_LEASE_S, or with the start of a successor",
        )  # fmt: skip
    if not dead:
        yield Finding("leases", "ok", f"{sum(agent.lease is not None for agent in overview.agents)} held")
    yield from check_agents(overview)
    if overview.unreadable:
        yield Finding(
            "stored values", "warn",
            f"none of our agents wrote this: {', '.join(map(printable, overview.unreadable[:20]))}",
            "protect Redis, see docs/security.md; agents repair their own keys, and what remains has to be deleted",
        )  # fmt: skip
    if overview.quarantined:
        reasons = sorted({reason for agent in overview.agents for reason in agent.rejected})
        cures = [f"{reason}: {CURES[reason]}" for reason in reasons if reason in CURES]
        yield Finding(
            "messages", "warn",
            f"{sum(overview.quarantined.values())} rejected and kept as evidence: {', '.join(map(printable, reasons))}",
            "; ".join([*cures, "`agents dlq list --quarantined` lists them, and `purge` forgets them"]),
        )  # fmt: skip
    else:
        yield Finding("messages", "ok", "none was rejected")


def exit_code_of(findings: Sequence[Finding]) -> int:
    """The exit code of the first failure, 0 when there is none."""
    return next((finding.exit_code or 1 for finding in findings if finding.state == "fail"), 0)
