"""The commands on keys, strings, hashes, sets and sorted sets, as far as the system uses them and their options. Each
gets the arguments after its name. It returns the reply in the form of RESP2, or raises ResponseError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from core.memory_backend.arguments import (
    NUMBER_LIMIT,
    float_of,
    integer_of,
    pairs_of,
    score_bound,
    syntax_error,
)
from core.memory_backend.keyspace import Hash, Keyspace, Members, SortedSet, Text
from core.redis_client import ResponseError

__all__ = ["COMMANDS", "CommandSpec"]

Arguments = Sequence[bytes]
OK = b"OK"


class CommandSpec(NamedTuple):
    """A command: the function that executes it, and its least and greatest number of arguments (None: no limit)."""

    carry_out: Callable[[Keyspace, Arguments], Any]
    min_arguments: int
    max_arguments: int | None = None

    def takes(self, count: int) -> bool:
        return self.min_arguments <= count and (self.max_arguments is None or count <= self.max_arguments)


# ---- keys ----


def ping(space: Keyspace, given: Arguments) -> bytes:
    return b"PONG"


def time(space: Keyspace, given: Arguments) -> list[bytes]:
    seconds, micros = divmod(round(space.now_s() * 1_000_000), 1_000_000)
    return [b"%d" % seconds, b"%d" % micros]


def delete(space: Keyspace, given: Arguments) -> int:
    return sum(space.exists(key) and space.drop(key) for key in given)


def kind(space: Keyspace, given: Arguments) -> bytes:
    """TYPE key"""
    return space.type_of(given[0])


def expire(space: Keyspace, given: Arguments) -> int:
    return int(space.end_at(given[0], space.now_ms() + integer_of(given[1]) * 1000))


def pexpire(space: Keyspace, given: Arguments) -> int:
    return int(space.end_at(given[0], space.now_ms() + integer_of(given[1])))


def pttl(space: Keyspace, given: Arguments) -> int:
    return space.left_ms(given[0])


def publish(space: Keyspace, given: Arguments) -> int:
    """Does nothing, since there are no subscribers."""
    return 0


# ---- strings ----


def get(space: Keyspace, given: Arguments) -> bytes | None:
    value = space.find(given[0], Text)
    return None if value is None else bytes(value)


def getrange(space: Keyspace, given: Arguments) -> bytes:
    """GETRANGE key first last, counted from 0; negative numbers count from the end."""
    first, last = integer_of(given[1]), integer_of(given[2])
    value = bytes(space.find(given[0], Text) or b"")
    first = max(0, first + len(value) if first < 0 else first)
    last = max(0, last + len(value)) if last < 0 else last
    return value[first : last + 1]


def put(space: Keyspace, given: Arguments) -> bytes | None:
    """SET key value [NX | XX] [PX milliseconds]"""
    key, value, *options = given
    life_ms: int | None = None
    conditions: set[bytes] = set()
    while options:
        option = options.pop(0).upper()
        if option in (b"NX", b"XX"):
            conditions.add(option)
        elif option == b"PX" and options and life_ms is None:
            life_ms = integer_of(options.pop(0))
            if life_ms <= 0:
                raise ResponseError("ERR invalid expire time in 'set' command")
        else:
            raise syntax_error()
    if len(conditions) > 1:
        raise syntax_error()
    if conditions and space.exists(key) is (b"NX" in conditions):
        return None
    space.put(key, Text(value))
    if life_ms is not None:
        space.end_at(key, space.now_ms() + life_ms)
    return OK


def incr(space: Keyspace, given: Arguments) -> int:
    known = space.find(given[0], Text)
    value = _plus(0 if known is None else integer_of(known), 1)
    space.replace(given[0], Text(b"%d" % value))
    return value


def _plus(value: int, by: int) -> int:
    if not -NUMBER_LIMIT <= value + by < NUMBER_LIMIT:
        raise ResponseError("ERR increment or decrement would overflow")
    return value + by


# ---- hashes ----


def hset(space: Keyspace, given: Arguments) -> int:
    pairs = pairs_of("hset", given[1:])
    fields = space.demand(given[0], Hash)
    before = len(fields)
    fields.update(pairs)
    space.changed(given[0])
    return len(fields) - before


def hget(space: Keyspace, given: Arguments) -> bytes | None:
    return (space.find(given[0], Hash) or Hash()).get(given[1])


def hmget(space: Keyspace, given: Arguments) -> list[bytes | None]:
    fields = space.find(given[0], Hash) or Hash()
    return [fields.get(name) for name in given[1:]]


def hgetall(space: Keyspace, given: Arguments) -> list[bytes]:
    return [part for pair in (space.find(given[0], Hash) or Hash()).items() for part in pair]


def hstrlen(space: Keyspace, given: Arguments) -> int:
    return len((space.find(given[0], Hash) or Hash()).get(given[1], b""))


def hkeys(space: Keyspace, given: Arguments) -> list[bytes]:
    return list(space.find(given[0], Hash) or ())


def hlen(space: Keyspace, given: Arguments) -> int:
    return len(space.find(given[0], Hash) or ())


def hscan(space: Keyspace, given: Arguments) -> list[Any]:
    """HSCAN key cursor COUNT n. It returns everything at once, as a server does for a small hash."""
    integer_of(given[1], "ERR invalid cursor")
    if space.find(given[0], Hash) is None:  # then a server does not look at the rest
        return [b"0", []]
    if given[2].upper() != b"COUNT" or integer_of(given[3]) < 1:
        raise syntax_error()
    return [b"0", hgetall(space, given)]


def hvals(space: Keyspace, given: Arguments) -> list[bytes]:
    return list((space.find(given[0], Hash) or Hash()).values())


def hdel(space: Keyspace, given: Arguments) -> int:
    return _removed(space, given[0], space.find(given[0], Hash), given[1:])


def hincrby(space: Keyspace, given: Arguments) -> int:
    key, name, by = given
    step = integer_of(by)
    known = space.find(key, Hash) or Hash()
    value = _plus(integer_of(known.get(name, b"0"), "ERR hash value is not an integer"), step)
    space.demand(key, Hash)[name] = b"%d" % value
    space.changed(key)
    return value


def _removed(
    space: Keyspace, key: bytes, collection: Hash | Members | SortedSet | None, names: Arguments
) -> int:  # fmt: skip
    found = [name for name in dict.fromkeys(names) if collection is not None and name in collection]
    for name in found:
        assert collection is not None
        del collection[name]
    if found:
        space.changed(key)
    return len(found)


# ---- sets and sorted sets ----


def sadd(space: Keyspace, given: Arguments) -> int:
    members = space.demand(given[0], Members)
    before = len(members)
    members.update(dict.fromkeys(given[1:]))
    if len(members) > before:
        space.changed(given[0])
    return len(members) - before


def srem(space: Keyspace, given: Arguments) -> int:
    return _removed(space, given[0], space.find(given[0], Members), given[1:])


def smembers(space: Keyspace, given: Arguments) -> list[bytes]:
    return list(space.find(given[0], Members) or ())


def zadd(space: Keyspace, given: Arguments) -> int:
    if len(given[1:]) % 2:
        raise syntax_error()
    scores = {member: float_of(score) for score, member in pairs_of("zadd", given[1:])}
    members = space.demand(given[0], SortedSet)
    before, unchanged = len(members), all(members.get(member) == score for member, score in scores.items())
    members.update(scores)
    if not unchanged:
        space.changed(given[0])
    return len(members) - before


def zrem(space: Keyspace, given: Arguments) -> int:
    return _removed(space, given[0], space.find(given[0], SortedSet), given[1:])


def zcard(space: Keyspace, given: Arguments) -> int:
    return len(space.find(given[0], SortedSet) or ())


def zscore(space: Keyspace, given: Arguments) -> bytes | None:
    score = (space.find(given[0], SortedSet) or SortedSet()).get(given[1])
    return None if score is None else b"%.17g" % score


def zrange(space: Keyspace, given: Arguments) -> list[bytes]:
    """ZRANGE key first last, by rank; negative ranks count from the end."""
    return _ranked((space.find(given[0], SortedSet) or SortedSet()).in_order(), given[1:])


def zrevrange(space: Keyspace, given: Arguments) -> list[bytes]:
    """ZREVRANGE key first last: as ZRANGE, the highest score first."""
    return _ranked((space.find(given[0], SortedSet) or SortedSet()).in_order()[::-1], given[1:])


def _ranked(ordered: Sequence[tuple[float, bytes]], ranks: Arguments) -> list[bytes]:
    first, last = (rank + len(ordered) if rank < 0 else rank for rank in map(integer_of, ranks))
    return [member for _, member in ordered[max(0, first) : max(0, last + 1)]]


def zrangebyscore(space: Keyspace, given: Arguments) -> list[bytes]:
    """ZRANGEBYSCORE key min max [LIMIT offset count]"""
    key, lower, upper, *options = given
    (low, not_low), (high, not_high) = score_bound(lower), score_bound(upper)
    offset, count = 0, -1
    if options:
        if len(options) != 3 or options[0].upper() != b"LIMIT":
            raise syntax_error()
        offset, count = integer_of(options[1]), integer_of(options[2])
    found = [
        member
        for score, member in (space.find(key, SortedSet) or SortedSet()).in_order()
        if low <= score <= high and not (not_low and score == low) and not (not_high and score == high)
    ]
    if offset < 0:
        return []
    return found[offset:] if count < 0 else found[offset : offset + count]


COMMANDS: dict[str, CommandSpec] = {
    "PING": CommandSpec(ping, 0, 0),
    "TIME": CommandSpec(time, 0, 0),
    "TYPE": CommandSpec(kind, 1, 1),
    "DEL": CommandSpec(delete, 1),
    "EXPIRE": CommandSpec(expire, 2, 2),
    "PEXPIRE": CommandSpec(pexpire, 2, 2),
    "PTTL": CommandSpec(pttl, 1, 1),
    "PUBLISH": CommandSpec(publish, 2, 2),
    "GET": CommandSpec(get, 1, 1),
    "GETRANGE": CommandSpec(getrange, 3, 3),
    "SET": CommandSpec(put, 2),
    "INCR": CommandSpec(incr, 1, 1),
    "HSET": CommandSpec(hset, 3),
    "HGET": CommandSpec(hget, 2, 2),
    "HMGET": CommandSpec(hmget, 2),
    "HGETALL": CommandSpec(hgetall, 1, 1),
    "HKEYS": CommandSpec(hkeys, 1, 1),
    "HSCAN": CommandSpec(hscan, 4, 4),
    "HLEN": CommandSpec(hlen, 1, 1),
    "HVALS": CommandSpec(hvals, 1, 1),
    "HSTRLEN": CommandSpec(hstrlen, 2, 2),
    "HDEL": CommandSpec(hdel, 2),
    "HINCRBY": CommandSpec(hincrby, 3, 3),
    "SADD": CommandSpec(sadd, 2),
    "SREM": CommandSpec(srem, 2),
    "SMEMBERS": CommandSpec(smembers, 1, 1),
    "ZADD": CommandSpec(zadd, 3),
    "ZREM": CommandSpec(zrem, 2),
    "ZCARD": CommandSpec(zcard, 1, 1),
    "ZSCORE": CommandSpec(zscore, 2, 2),
    "ZRANGE": CommandSpec(zrange, 3, 3),
    "ZREVRANGE": CommandSpec(zrevrange, 3, 3),
    "ZRANGEBYSCORE": CommandSpec(zrangebyscore, 3),
}
