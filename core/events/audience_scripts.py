"""What the consumers of an audience do to it, each in one step on the server.

All entries of a session that were delivered and not acknowledged yet belong to one consumer: `owners` says to which,
and `held` counts them, so that the session is free again after the last one. An entry that is read by somebody else
goes to its owner at once, who finds it among its own pending entries. So a session's events are in the hands of one
consumer at a time, in the order of the stream.

KEYS are always: stream, owners, held, alive, tries. ARGV[1] is the group.
"""

from __future__ import annotations

from core.redis_backend.bounded_reads import LAST_ID

__all__ = ["BEAT", "BURY", "GOODBYE", "OPEN", "REPLAY", "SCRIPTS", "SETTLE", "TAKE", "TAKE_OVER"]

#: Makes the group if it is not there, for all that the stream holds. Nothing of an earlier group holds for it.
OPEN = """
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if not made.err then
    redis.call('DEL', KEYS[2], KEYS[3], KEYS[5])
elseif not string.find(made.err, 'BUSYGROUP', 1, true) then
    return made
end
return 'OK'
"""
#: Delivers the next ARGV[3] entries: to consumer ARGV[2], or to who has their session. Returns how many there were, and
#: the last id that the group was given, or that the stream has given out.
TAKE = """
local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
if not read then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #info - 1, 2 do
        if info[i] == 'last-generated-id' then return {0, info[i + 1]} end
    end
end
if read.err then return read end
local entries, by_session, of_others = read[1][2], {}, {}
for _, entry in ipairs(entries) do
    local fields = entry[2] or {}
    for i = 1, #fields - 1, 2 do
        if fields[i] == 'session' then
            local ids = by_session[fields[i + 1]] or {}
            by_session[fields[i + 1]] = ids
            ids[#ids + 1] = entry[1]
            break
        end
    end
end
for session, ids in pairs(by_session) do
    redis.call('HINCRBY', KEYS[3], session, #ids)
    local owner = redis.call('HGET', KEYS[2], session)
    if not owner then
        redis.call('HSET', KEYS[2], session, ARGV[2])
    elseif owner ~= ARGV[2] then
        of_others[owner] = of_others[owner] or {}
        for _, id in ipairs(ids) do table.insert(of_others[owner], id) end
    end
end
for owner, ids in pairs(of_others) do
    table.insert(ids, 'JUSTID')
    redis.call('XCLAIM', KEYS[1], ARGV[1], owner, 0, unpack(ids))
end
return {#entries, entries[#entries][1]}
"""
_SETTLE = """
local function settle(session, ids)
    local settled = redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
    if session ~= '' and settled > 0 and redis.call('HINCRBY', KEYS[3], session, -settled) <= 0 then
        redis.call('HDEL', KEYS[3], session)
        redis.call('HDEL', KEYS[2], session)
    end
    if redis.call('EXISTS', KEYS[5]) == 1 then redis.call('HDEL', KEYS[5], unpack(ids)) end
    return settled
end
"""
#: Acknowledges entries: ARGV has an id and a session (empty: it has none) in turn, from the second on; at most a few
#: thousand. Returns how many were pending.
SETTLE = (
    _SETTLE
    + """
local settled, by_session = 0, {}
for i = 2, #ARGV - 1, 2 do
    local ids = by_session[ARGV[i + 1]] or {}
    by_session[ARGV[i + 1]] = ids
    ids[#ids + 1] = ARGV[i]
end
for session, ids in pairs(by_session) do settled = settled + settle(session, ids) end
return settled
"""
)
#: Acknowledges entry ARGV[2] of session ARGV[3]. If it was pending, it is kept as one of at most ARGV[4] dead letters,
#: in KEYS[6], with the fields that follow.
BURY = (
    _SETTLE
    + """
if settle(ARGV[3], {ARGV[2]}) == 0 then return 0 end
redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[4], '*', unpack(ARGV, 5))
return 1
"""
)
_BEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('ZSCORE', KEYS[4], ARGV[2])
redis.call('ZADD', KEYS[4], now, ARGV[2])
"""
#: Consumer ARGV[2] is alive. Returns whether it was known until now: 0 after others have taken over what it held.
BEAT = _BEAT + "return known and 1 or 0"
#: Consumer ARGV[2] is alive, and takes over what others hold that are not: silent for ARGV[3] ms, or of their own free
#: will, and for ARGV[4] ms. Returns how many entries that were.
TAKE_OVER = (
    _BEAT
    + """
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then return consumers end
local moved = 0
local function take_over(name)
    local more = true
    while more do
        local ids = {}
        for i, entry in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, name)) do ids[i] = entry[1] end
        more = #ids == 1000
        moved = moved + #ids
        if #ids > 0 then
            table.insert(ids, 'JUSTID')
            redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))
        end
    end
    local owners = redis.call('HGETALL', KEYS[2])
    for i = 1, #owners, 2 do
        if owners[i + 1] == name then redis.call('HSET', KEYS[2], owners[i], ARGV[2]) end
    end
    redis.call('ZREM', KEYS[4], name)
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
end
for _, info in ipairs(consumers) do
    local of = {}
    for i = 1, #info - 1, 2 do of[info[i]] = info[i + 1] end
    local heard = redis.call('ZSCORE', KEYS[4], of['name'])
    local silent = heard and now - heard or of['idle']
    local may_live = heard and silent < tonumber(ARGV[3])
    if of['name'] ~= ARGV[2] and not may_live and silent >= tonumber(ARGV[4]) then take_over(of['name']) end
end
return moved
"""
)
#: Consumer ARGV[2] reads no more. What it holds may be taken over at once.
GOODBYE = """
local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if not pending.err and #pending > 0 then return redis.call('ZADD', KEYS[4], 0, ARGV[2]) end
redis.call('ZREM', KEYS[4], ARGV[2])
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
local owners = redis.call('HGETALL', KEYS[2])
for i = 1, #owners, 2 do
    if owners[i + 1] == ARGV[2] then
        redis.call('HDEL', KEYS[2], owners[i])
        redis.call('HDEL', KEYS[3], owners[i])
    end
end
return 0
"""
#: Publishes dead letter ARGV[2] again, for this group only, with the fields that follow. Returns its new id; nothing if
#: there is no such dead letter any more.
REPLAY = """
if redis.call('XDEL', KEYS[6], ARGV[2]) == 0 then return false end
return redis.call('XADD', KEYS[1], '*', 'for', ARGV[1], unpack(ARGV, 3))
"""
SCRIPTS = (LAST_ID, OPEN, TAKE, SETTLE, BURY, BEAT, TAKE_OVER, GOODBYE, REPLAY)
