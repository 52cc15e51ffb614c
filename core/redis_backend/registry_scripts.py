"""What is done to the registry of a hierarchy, each in one step on the server, by the server's clock.

KEYS of each script: the agents by the end of their lease, the agents by when they become suspect, and the names of all
indexes (see `core.redis_backend.keys.RegistryKeys`). ARGV[1] is what the key of a record begins with, ARGV[2] that of
an index.

    record      the fields of an agent; and `indexes`: where it is listed, a name a line, besides its status; and
                `health_level`: the highest one that it is listed with, absent if an older release has registered it
    index       agent ids, all with score 0, so that they are in order and a page begins where the last one ended.
                `health:70` has those whose last heartbeat said at least 0.7, `health:0` all that are listed by health

An agent is in its indexes exactly as long as it has a lease. Who is met without one by a script that writes leaves all
of them at once: at most EXPIRED agents in one call, and no further one after UNLISTED entries of indexes, so that no
call takes long. A coordinator calls again until none is left (see `core.runtime.registration`). The record of an agent
stays for a day, for whoever asks what became of it.
"""

from __future__ import annotations

__all__ = ["DEREGISTER", "EXPIRED", "FIND", "HEALTH_LEVELS", "MORE_EXPIRED", "REGISTER", "RENEW", "SCRIPTS", "UNLISTED"]

#: How long the record of an agent is kept that is gone, ms.
KEPT_MS = 24 * 3600 * 1000
#: The healths that have an index each, in hundredths. Most agents are between the last ones.
HEALTH_LEVELS = (0, 50, 70, 80, 90, 95, 99)
#: How many agents whose lease is over one call removes, and after how many entries of indexes it removes no more: an
#: agent may have thousands, and most have ten or twenty.
EXPIRED, UNLISTED = 50, 1_000
#: The reply to RENEW: it is registered, and more agents have expired than one call removes.
MORE_EXPIRED = 2

_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""
_REGISTRY = (
    _NOW
    + f"""
local LEVELS = {{{", ".join(map(str, HEALTH_LEVELS))}}}
local function record(id) return ARGV[1] .. id end
local function list(id, index)
    redis.call('ZADD', ARGV[2] .. index, 0, id)
    redis.call('SADD', KEYS[3], index)
end
local function unlist(id, index)
    redis.call('ZREM', ARGV[2] .. index, id)
    if redis.call('EXISTS', ARGV[2] .. index) == 0 then redis.call('SREM', KEYS[3], index) end
end
local function unlist_all(id)
    local entries = 1
    for index in string.gmatch(redis.call('HGET', record(id), 'indexes') or '', '[^\\n]+') do
        unlist(id, index)
        entries = entries + 1
    end
    unlist(id, 'status:' .. (redis.call('HGET', record(id), 'status') or ''))
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
    return entries
end
local function list_by_health(id, health_score, health_level)
    local score, before, level = tonumber(health_score) or 0, tonumber(health_level) or -1, 0
    for _, least in ipairs(LEVELS) do
        if score * 100 + 0.1 >= least then level = least end  -- what is told is rounded
    end
    if level == before then return end
    local others, lines = redis.call('HGET', record(id), 'indexes') or '', {{}}
    while string.find(others, '^health:%d+\\n') do others = string.gsub(others, '^[^\\n]+\\n', '') end
    for _, least in ipairs(LEVELS) do
        if least <= level then lines[#lines + 1] = 'health:' .. least .. '\\n' end
        if least > before and least <= level then list(id, 'health:' .. least) end
        if least > level and least <= before then unlist(id, 'health:' .. least) end
    end
    redis.call('HSET', record(id), 'health_level', level, 'indexes', table.concat(lines) .. others)
end
local function forget(id)
    local entries = unlist_all(id)
    if redis.call('EXISTS', record(id)) == 1 then
        redis.call('HSET', record(id), 'lifecycle', 'gone', 'status', 'inactive', 'indexes', '')
        redis.call('PEXPIRE', record(id), {KEPT_MS})
    end
    return entries
end
local left, more = {UNLISTED}, false
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, {EXPIRED} + 1)
for place, id in ipairs(expired) do
    more = place > {EXPIRED} or left <= 0
    if more then break end
    left = left - forget(id)
end
local function renew(id, lease_ms, ...)
    redis.call('HSET', record(id), 'last_heartbeat', string.format('%.0f', now), 'lease_ms', lease_ms, ...)
    redis.call('ZADD', KEYS[1], now + lease_ms, id)
    redis.call('ZADD', KEYS[2], now + lease_ms / 2, id)
end
"""
)
#: Makes an agent known. ARGV: 3 its id, 4 its place, 5 its incarnation (0: the server's clock gives one), 6 its lease
#: (ms), 7 its indexes, then names and values of its record. Returns its incarnation; or, if it has none now, its place:
#: another agent of that id is registered there, or the same one has started again since.
REGISTER = (
    _REGISTRY
    + """
local id, place, incarnation, lease_ms = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
if redis.call('ZSCORE', KEYS[1], id) then
    local known = redis.call('HMGET', record(id), 'place', 'incarnation')
    local is_newer = incarnation > 0 and tonumber(known[2] or 0) > incarnation
    if known[1] and (known[1] ~= place or is_newer) then return known[1] end
end
unlist_all(id)
redis.call('DEL', record(id))
if incarnation == 0 then incarnation = now end
local stamp = string.format('%.0f', now)
redis.call(
    'HSET', record(id), 'agent_id', id, 'place', place, 'incarnation', string.format('%.0f', incarnation),
    'registration_time', stamp, 'indexes', ARGV[7], unpack(ARGV, 8)
)
for index in string.gmatch(ARGV[7], '[^\\n]+') do list(id, index) end
local known = redis.call('HMGET', record(id), 'status', 'health_score', 'health_level')
list(id, 'status:' .. known[1])
list_by_health(id, known[2], known[3])
renew(id, lease_ms)
return incarnation
"""
)
#: Extends the lease of an agent. ARGV: 3 its id, 4 its incarnation (0: whichever it has), 5 its lease (ms), then names
#: and values that change in its record. Returns 1; 0 if it is not registered, and then it was not changed; or
#: MORE_EXPIRED.
RENEW = (
    _REGISTRY
    + """
local id, lease_ms = ARGV[3], tonumber(ARGV[5])
local known = redis.call('HMGET', record(id), 'incarnation', 'status', 'health_score', 'health_level')
if not redis.call('ZSCORE', KEYS[1], id) or not known[1] then return 0 end
if ARGV[4] ~= '0' and tonumber(known[1]) ~= tonumber(ARGV[4]) then return 0 end
local status, health_score = known[2] or '', known[3]
for at = 6, #ARGV, 2 do
    if ARGV[at] == 'status' then status = ARGV[at + 1] end
    if ARGV[at] == 'health_score' then health_score = ARGV[at + 1] end
end
renew(id, lease_ms, unpack(ARGV, 6))
if status ~= (known[2] or '') then
    unlist(id, 'status:' .. (known[2] or ''))
    list(id, 'status:' .. status)
end
list_by_health(id, health_score, known[4])
"""
    + f"return more and {MORE_EXPIRED} or 1"
)
#: Removes an agent from all indexes. ARGV: 3 its id, 4 its incarnation (0: whichever it has). Returns whether it was
#: registered.
DEREGISTER = (
    _REGISTRY
    + """
local id = ARGV[3]
local incarnation = redis.call('HGET', record(id), 'incarnation')
if not redis.call('ZSCORE', KEYS[1], id) then return 0 end
if ARGV[4] ~= '0' and tonumber(incarnation or 0) ~= tonumber(ARGV[4]) then return 0 end
forget(id)
return 1
"""
)
#: Returns the server's clock (ms), the id to go on after ('' at the end), and records. It only reads. KEYS after the
#: third: the indexes in which all of those found are. ARGV: 1 and 2 as above, 3 the id to begin after, 4 how many to
#: return at most, 5 how many to look at, 6 'suspect': only those that are, 'heard': only those that are not, '': both,
#: 7 the least health, 8 the highest level up to it, 9 the last share of a lease in which silence lowers it (see
#: `core.registry.health`). Only the smallest index is gone through, or the list of the suspects if those are wanted.
#: That of the level is one of them, unless an older release has registered an agent.
FIND = (
    _NOW
    + """
local after, limit, looks, wanted = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local least, level, falling = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local ids, smallest = {}, ''
if wanted == 'suspect' then
    local all = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)
    table.sort(all)
    for _, id in ipairs(all) do
        if id > after and #ids < looks then ids[#ids + 1] = id end
    end
else
    local size = nil
    for i = 4, #KEYS do
        local found = redis.call('ZCARD', KEYS[i])
        if not size or found < size then smallest, size = KEYS[i], found end
    end
    if level > 0 then
        local healthy = ARGV[2] .. 'health:' .. level
        local are_all_listed = redis.call('ZCARD', ARGV[2] .. 'health:0') >= redis.call('ZCARD', ARGV[2] .. 'all')
        if are_all_listed and redis.call('ZCARD', healthy) < size then smallest = healthy end
    end
    ids = redis.call('ZRANGEBYLEX', smallest, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, looks)
end
local function is_healthy(id, left_ms)
    if least <= 0 then return true end
    local known = redis.call('HMGET', ARGV[1] .. id, 'health_score', 'lease_ms')
    local heard = math.min(1, left_ms / ((tonumber(known[2]) or 0) * falling))
    return (tonumber(known[1]) or 0) * heard >= least
end
local found, last = {}, ''
for place, id in ipairs(ids) do
    local left_ms = tonumber(redis.call('ZSCORE', KEYS[1], id) or 0) - now
    local heard = tonumber(redis.call('ZSCORE', KEYS[2], id) or 0) > now
    local fits = left_ms > 0 and (wanted == '' or heard == (wanted == 'heard'))
    for i = 4, #KEYS do fits = fits and (KEYS[i] == smallest or redis.call('ZSCORE', KEYS[i], id)) end
    fits = fits and is_healthy(id, left_ms)
    if fits then found[#found + 1] = redis.call('HGETALL', ARGV[1] .. id) end
    last = id
    if #found == limit then
        if place == #ids and #ids < looks then last = '' end
        return {now, last, found}
    end
end
if #ids < looks then last = '' end
return {now, last, found}
"""
)
SCRIPTS = (REGISTER, RENEW, DEREGISTER, FIND)
