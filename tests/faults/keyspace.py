"""What lies in the server, to be compared before and after something that must change nothing."""

from __future__ import annotations

from typing import Any

__all__ = ["everything", "rejections", "state_of"]

Redis = Any  # the types of redis-py tell neither bytes from text nor all of its commands

READS = {b"string": "GET", b"hash": "HGETALL", b"set": "SMEMBERS"}


async def everything(client: Redis) -> dict[str, Any]:
    """Every key with its value: a dict, a set, bytes, or a list of what is in order. Keys that go meanwhile, as indexes
    of the registry do, are left out."""
    found = {}
    for key in sorted(await client.keys("*")):
        kind = await client.type(key)
        if kind == b"none":
            continue
        if kind == b"stream":
            value = await client.xrange(key)
        elif kind == b"zset":
            value = await client.zrange(key, 0, -1, withscores=True)
        else:
            value = await client.execute_command(READS[kind], key)
        found[key.decode()] = value
    return found


async def state_of(client: Redis) -> dict[str, Any]:
    """Everything but what moves while nobody says anything (leases, heartbeats, the registry, what the coordinator
    tells of its queue), the quarantine, and the counts of what was rejected, which are a commit of their own."""
    found = {}
    for key, value in (await everything(client)).items():
        if key.endswith((":lease", ":heartbeats", ":quarantine")) or "}:agent:" in key or "}:agents:" in key:
            continue
        if isinstance(value, dict):
            value = {
                name: field
                for name, field in value.items()
                if not name.startswith(b"rejected:") and name not in (b"version", b"distributor_version", b"waiting")
            }
        if value:
            found[key] = value
    return found


async def rejections(client: Redis) -> list[str]:
    """Why messages were put aside, by all agents."""
    keys = sorted(await client.keys("*:quarantine"))
    return [entry[b"reason"].decode() for key in keys for _, entry in await client.xrange(key)]
