"""Commands that read what an agent has stored, when somebody else may have written there meanwhile.

Whoever may write to Redis can delete an agent's state, and so can always stop it for a while. What is read here is
bounded, and what cannot be understood counts as not there (see `core.stored`), so that one such write stops nobody for
good.
"""

from __future__ import annotations

import hashlib

from core.ports import Command
from core.stored import NUMBER_BYTES

__all__ = [
    "FEW_ENTRIES", "HASH_BYTES", "LAST_ID", "SCRIPTS", "TRIMMED_HASH", "fence_read", "lease_read", "name_of",
    "trimmed_hash",
]  # fmt: skip

#: Every lease that one of ours has written is shorter.
LEASE_BYTES = 4096
#: More of a hash is not read at once: heartbeats of 10,000 agents are a tenth of that.
HASH_BYTES = 24 * 1024 * 1024
#: A hash with more fields than that is nobody's: each agent has one in it, by a name of at most so many bytes.
MOST_FIELDS, NAME_BYTES = 100_000, 128
#: All of a hash, as HGETALL gives it, once it is no more than ARGV[1] bytes: before that its largest fields are
#: deleted, which on the whole are not those of agents; all of them when they are more than can be looked at.
TRIMMED_HASH = """
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[2]) then
    redis.call('DEL', KEYS[1])
    return {}
end
local fields = {}
for i, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    local size = #name + redis.call('HSTRLEN', KEYS[1], name)
    fields[i] = {#name > tonumber(ARGV[3]) and math.huge or size, name}
end
table.sort(fields, function(one, other) return one[1] < other[1] end)
local left = tonumber(ARGV[1])
for _, field in ipairs(fields) do
    left = left - field[1] - 32
    if left < 0 then redis.call('HDEL', KEYS[1], field[2]) end
end
return redis.call('HGETALL', KEYS[1])
"""
#: The first entries after ARGV[1], at most ARGV[2] of them and no more than ARGV[3] bytes, but one at least. Of one
#: that has a value of more than ARGV[4] bytes come the first ARGV[5] of each, and a third part that says so: the server
#: keeps what nobody wants to hold.
FEW_ENTRIES = """
local entries, from, left = {}, ARGV[1], tonumber(ARGV[3])
while #entries < tonumber(ARGV[2]) do
    local entry = redis.call('XRANGE', KEYS[1], '(' .. from, '+', 'COUNT', 1)[1]
    if not entry then break end
    local fields, cut, size = {}, false, 0
    for i = 1, math.min(#entry[2], 64) do
        cut = cut or #entry[2][i] > tonumber(ARGV[4])
    end
    for i = 1, math.min(#entry[2], 64) do
        fields[i] = cut and string.sub(entry[2][i], 1, tonumber(ARGV[5])) or entry[2][i]
        size = size + #fields[i]
    end
    left = left - size
    if left < 0 and #entries > 0 then break end
    from = entry[1]
    entries[#entries + 1] = cut and {from, fields, 1} or {from, fields}
end
return entries
"""
#: The highest id that the stream has given out; nothing where there is none, or a server that cannot say.
LAST_ID = """
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
for i = 1, #info - 1, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
end
"""
#: All there are. They are run by their names, so that a user of the server may be allowed these and no others: who may
#: run any script can stop the server with one that never ends.
SCRIPTS = (FEW_ENTRIES, LAST_ID, TRIMMED_HASH)


def name_of(script: str) -> str:
    """By which a server that has loaded it knows it."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def trimmed_hash(key: str) -> tuple[Command, Command]:
    """Two commands; the reply to the second is a hash that was larger than HASH_BYTES. What is more than that is
    deleted, the largest fields first."""
    by_name = ("EVALSHA", name_of(TRIMMED_HASH), 1, key, HASH_BYTES, MOST_FIELDS, NAME_BYTES)
    return ("SCRIPT", "LOAD", TRIMMED_HASH), by_name


def lease_read(key: str) -> Command:
    """Reads a lease; the reply is empty where there is none."""
    return ("GETRANGE", key, 0, LEASE_BYTES - 1)


def fence_read(key: str) -> Command:
    """Reads a fence; the reply is empty where there is none."""
    return ("GETRANGE", key, 0, NUMBER_BYTES - 1)
