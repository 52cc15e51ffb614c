"""Commands that read what an agent has stored, when somebody else may have written there meanwhile.

Whoever may write to Redis can delete an agent's state, and so can always stop it for a while. Reads here are bounded,
and a value that cannot be understood counts as missing (see `core.stored`), so that one such write stops nobody for
good.
"""

from __future__ import annotations

import hashlib
from functools import cache

from core.ports import Command
from core.stored import NUMBER_BYTES

__all__ = [
    "FEW_ENTRIES", "HASH_BYTES", "LAST_ID", "SCRIPTS", "TRIMMED_HASH", "fence_read", "lease_read", "name_of",
    "trimmed_hash",
]  # fmt: skip

#: Our own leases are always shorter, in bytes.
LEASE_BYTES = 4096
#: At most this much of a hash is read at once, in bytes. Heartbeats of 10,000 agents take a tenth of it.
HASH_BYTES = 24 * 1024 * 1024
#: A hash with more fields is not ours: each agent has one field, with a name of at most so many bytes.
MAX_FIELDS, NAME_BYTES = 100_000, 128
#: Returns a hash as HGETALL does, once it has at most ARGV[1] bytes. Before that, the script deletes its largest
#: fields, which are mostly not those of agents, or all fields if there are too many to look at.
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
#: Returns the first entries after ARGV[1]: at most ARGV[2] of them and at most ARGV[3] bytes, but at least one. Of an
#: entry with a value of more than ARGV[4] bytes, it returns the first ARGV[5] bytes of each value, and a third part
#: that says so. The rest stays on the server, since nobody wants to hold it.
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
#: Returns the highest id that the stream has given out; nothing without a stream, or if the server cannot tell.
LAST_ID = """
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
for i = 1, #info - 1, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
end
"""
#: All scripts. They are run by their hash, so that a Redis user may be allowed these and no others: a user who may run
#: any script can stop the server with one that never ends.
SCRIPTS = (FEW_ENTRIES, LAST_ID, TRIMMED_HASH)


@cache
def name_of(script: str) -> str:
    """The hash by which a server knows a script that it has loaded."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def trimmed_hash(key: str) -> tuple[Command, Command]:
    """Two commands. The reply to the second is a hash that was larger than HASH_BYTES, after its largest fields were
    deleted."""
    by_name = ("EVALSHA", name_of(TRIMMED_HASH), 1, key, HASH_BYTES, MAX_FIELDS, NAME_BYTES)
    return ("SCRIPT", "LOAD", TRIMMED_HASH), by_name


def lease_read(key: str) -> Command:
    """The command that reads a lease; its reply is empty if there is none."""
    return ("GETRANGE", key, 0, LEASE_BYTES - 1)


def fence_read(key: str) -> Command:
    """The command that reads a fence; its reply is empty if there is none."""
    return ("GETRANGE", key, 0, NUMBER_BYTES - 1)
