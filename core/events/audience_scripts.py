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
#: Returns what consumer ARGV[2] was given after ARGV[4] and does not know of yet. If there is nothing, delivers
#: the next ARGV[3] entries: to this consumer, or to who has their session. Returns how many there were; the last id
#: that the group was given, or else that the stream has given out; and the entries of this consumer.
TAKE = """
local function read(after)
    return redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', ARGV[3], 'STREAMS', KEYS[1], after)
end
local given = read(ARGV[4])
if given.err then return given end
given = given[1][2]
if #given > 0 then return {#given, false, given} end
local taken = read('>')
if not taken then
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #info - 1, 2 do
        if info[i] == 'last-generated-id' then return {0, info[i + 1], {}} end
    end
end
if taken.err then return taken end
local entries, sessions, by_session, free = taken[1][2], {}, {}, {}
for i, entry in ipairs(entries) do
    local fields = entry[2] or {}
    free[i] = true
    for j = 1, #fields - 1, 2 do
        if fields[j] == 'session' then
            local session = fields[j + 1]
            if not by_session[session] then
                sessions[#sessions + 1], by_session[session] = session, {}
            end
            table.insert(by_session[session], i)
            break
        end
    end
end
local last = entries[#entries][1]
if #sessions == 0 then return {#entries, last, entries} end
local owners, held = redis.call('HMGET', KEYS[2], unpack(sessions)), redis.call('HMGET', KEYS[3], unpack(sessions))
local owned, counts, of_others = {}, {}, {}
for i, session in ipairs(sessions) do
    local places, owner = by_session[session], owners[i]
    counts[2 * i - 1], counts[2 * i] = session, (tonumber(held[i]) or 0) + #places
    if not owner then
        owned[#owned + 1], owned[#owned + 2] = session, ARGV[2]
    elseif owner ~= ARGV[2] then
        of_others[owner] = of_others[owner] or {}
        for _, place in ipairs(places) do
            table.insert(of_others[owner], entries[place][1])
            free[place] = false
        end
    end
end
redis.call('HSET', KEYS[3], unpack(counts))
if #owned > 0 then redis.call('HSET', KEYS[2], unpack(owned)) end
for owner, ids in pairs(of_others) do
    table.insert(ids, 'JUSTID')
    redis.call('XCLAIM', KEYS[1], ARGV[1], owner, 0, unpack(ids))
end
local mine = {}
for i, entry in ipairs(entries) do
    if free[i] then mine[#mine + 1] = entry end
end
return {#entries, last, mine}
"""
_SETTLE = """
local function settle(sessions, by_session)
    local settled, held = 0, redis.call('HMGET', KEYS[3], unpack(sessions))
    local counts, free = {}, {}
    local have_tries = redis.call('EXISTS', KEYS[5]) == 1
    for i, session in ipairs(sessions) do
        local ids = by_session[session]
        local done = redis.call('XACK', KEYS[1], ARGV[1], unpack(ids))
        settled = settled + done
        local left = (tonumber(held[i]) or 0) - done
        if session ~= '' and done > 0 and left > 0 then
            counts[#counts + 1], counts[#counts + 2] = session, left
        elseif session ~= '' and done > 0 then
            free[#free + 1] = session
        end
        if have_tries then redis.call('HDEL', KEYS[5], unpack(ids)) end
    end
    if #counts > 0 then redis.call('HSET', KEYS[3], unpack(counts)) end
    if #free > 0 then
        redis.call('HDEL', KEYS[2], unpack(free))
        redis.call('HDEL', KEYS[3], unpack(free))
    end
    return settled
end
"""
#: Acknowledges entries: ARGV has an id and a session (empty: it has none) in turn, from the second on; at most a few
#: thousand. Returns how many were pending.
SETTLE = (
    _SETTLE
    + """
local sessions, by_session = {}, {}
for i = 2, #ARGV - 1, 2 do
    local session = ARGV[i + 1]
    if not by_session[session] then
        sessions[#sessions + 1], by_session[session] = session, {}
    end
    table.insert(by_session[session], ARGV[i])
end
return settle(sessions, by_session)
"""
)
#: Acknowledges entry ARGV[2] of session ARGV[3]. If it was pending, it is kept as one of at most ARGV[4] dead letters,
#: in KEYS[6], with the fields that follow.
BURY = (
    _SETTLE
    + """
if settle({ARGV[3]}, {[ARGV[3]] = {ARGV[2]}}) == 0 then return 0 end
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
