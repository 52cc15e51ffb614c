"""What is done to the limits of models of a fleet, each in one step on the server, by the server's clock.

KEYS of each script: what the limits allow; of one limit its bucket, its line and its calls under way; and the workers
that wait anywhere (see keys.py). ARGV[1] is the name of the limit.

    bucket  requests, tokens: what is in it; at: when that was so (ms); frozen: until when nothing is let through (ms);
            next: the next number in the line; granted:WORKER: calls that were let through and that WORKER has not
            been told of yet, separated by spaces
    line    "WORKER CALL TOKENS TASK" by its number: first come, first served
    open    "CALL TOKENS" by when it was let through (ms)
    alive   worker that waits -> when it last said so (ms)

A call that is let through has taken from the bucket. If it is never settled, since its process has died, it has used
what was estimated.
"""

from __future__ import annotations

from core.model_limits import BURST_PART, MINUTE_MS

__all__ = ["FREEZE", "SCRIPTS", "SETTLE_CALL", "TAKE"]

#: Milliseconds after which a worker that waits and does not say so is taken for gone.
ALIVE_MS = 5_000
#: Milliseconds after which a call that was not settled counts as ended.
CALL_MS = 10 * 60 * 1000

_BUCKET = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local name = ARGV[1]
local function rates()
    local read, found = pcall(cjson.decode, redis.call('HGET', KEYS[1], name) or '')
    return read and type(found) == 'table' and found or nil
end
local function rate_of(allowed, kind)
    local rate = allowed and tonumber(allowed[kind .. '_per_minute'])
    return rate and rate > 0 and rate or nil
end
local function known(key) return tonumber(redis.call('HGET', KEYS[2], key) or '') end
local function full(rate) return math.max(1, rate / {BURST_PART}) end
local function level(kind, rate)
    local since = math.max(0, now - (known('at') or now))
    return math.min(full(rate), (known(kind) or full(rate)) + since * rate / {MINUTE_MS})
end
local function save(levels)
    redis.call('HSET', KEYS[2], 'at', now)
    for kind, left in pairs(levels) do redis.call('HSET', KEYS[2], kind, string.format('%.17g', left)) end
end
"""
#: Lets through whatever can go, for all workers. ARGV: 2 the worker, 3 the rates that code gives, in JSON, if any, 4
#: calls that come into the line, or are in it, 5 calls that leave it; both as in the line, in msgpack.
#: Returns how long until more can go (ms; -1: nobody waits), and a list of the worker's calls that can go now.
TAKE = (
    _BUCKET
    + f"""
local me = ARGV[2]
redis.call('ZADD', KEYS[5], now, me)
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now - {CALL_MS})
local allowed = rates()
if ARGV[3] ~= '' and (not allowed or allowed.by_code) then
    redis.call('HSET', KEYS[1], name, ARGV[3])
    allowed = cjson.decode(ARGV[3])
end
local levels, rate = {{}}, {{}}
for _, kind in ipairs({{'requests', 'tokens'}}) do
    rate[kind] = rate_of(allowed, kind)
    if rate[kind] then levels[kind] = level(kind, rate[kind]) end
end
local function give(taken)
    for kind, amount in pairs(taken) do
        if levels[kind] then levels[kind] = levels[kind] - amount end
    end
end
local mine = {{}}
local told = redis.call('HGET', KEYS[2], 'granted:' .. me) or ''
for call in string.gmatch(told, '%S+') do mine[#mine + 1] = call end
redis.call('HDEL', KEYS[2], 'granted:' .. me)
for _, member in ipairs(cmsgpack.unpack(ARGV[5])) do
    local _, call, tokens = string.match(member, '(%S+) (%S+) (%d+)')
    if redis.call('ZREM', KEYS[3], member) == 0 and redis.call('ZREM', KEYS[4], call .. ' ' .. tokens) == 1 then
        give({{requests = -1, tokens = -tonumber(tokens)}})  -- it was let through, and its worker has not heard of it
    end
end
for _, member in ipairs(cmsgpack.unpack(ARGV[4])) do
    local _, call, tokens = string.match(member, '(%S+) (%S+) (%d+)')
    if redis.call('ZSCORE', KEYS[4], call .. ' ' .. tokens) then
        mine[#mine + 1] = call
    elseif not redis.call('ZSCORE', KEYS[3], member) then
        redis.call('ZADD', KEYS[3], redis.call('HINCRBY', KEYS[2], 'next', 1), member)
    end
end
local function wait_of(tokens)
    local wait = math.max(0, (allowed and known('frozen') or 0) - now)
    for kind, asked in pairs({{requests = 1, tokens = tokens}}) do
        if levels[kind] then
            local lacks = math.min(asked, full(rate[kind])) - levels[kind]
            wait = math.max(wait, math.ceil(lacks * {MINUTE_MS} / rate[kind]))
        end
    end
    return wait
end
local wait = -1
while true do
    local member = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
    if not member then break end
    local worker, call, tokens = string.match(member, '(%S+) (%S+) (%d+)')
    local seen = worker and tonumber(redis.call('ZSCORE', KEYS[5], worker) or '')
    if not seen or now - seen > {ALIVE_MS} then
        redis.call('ZREM', KEYS[3], member)
        if worker then redis.call('HDEL', KEYS[2], 'granted:' .. worker) end
    else
        wait = wait_of(tonumber(tokens))
        if wait > 0 then break end
        wait = -1
        redis.call('ZREM', KEYS[3], member)
        redis.call('ZADD', KEYS[4], now, call .. ' ' .. tokens)
        give({{requests = 1, tokens = tonumber(tokens)}})
        if worker == me then
            mine[#mine + 1] = call
        else
            local key = 'granted:' .. worker
            redis.call('HSET', KEYS[2], key, (redis.call('HGET', KEYS[2], key) or '') .. call .. ' ')
        end
    end
end
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - 10 * {ALIVE_MS})
save(levels)
return {{wait, mine}}
"""
)
#: Puts what a call has used in the place of what was estimated. ARGV: 2 the call, 3 the estimate, 4 what it has used.
#: Nothing happens if it is settled already.
SETTLE_CALL = (
    _BUCKET
    + """
if redis.call('ZREM', KEYS[4], ARGV[2] .. ' ' .. ARGV[3]) == 0 then return 0 end
local tokens, requests = rate_of(rates(), 'tokens'), rate_of(rates(), 'requests')
if tokens then
    local levels = {tokens = level('tokens', tokens) + tonumber(ARGV[3]) - tonumber(ARGV[4])}
    if requests then levels.requests = level('requests', requests) end
    save(levels)
end
return 1
"""
)
#: Lets nothing through for ARGV[2] ms, unless it is frozen for longer; 0: lets calls through again.
FREEZE = (
    _BUCKET
    + """
local frozen = tonumber(ARGV[2]) > 0 and math.max(known('frozen') or 0, now + tonumber(ARGV[2])) or 0
redis.call('HSET', KEYS[2], 'frozen', frozen)
return frozen
"""
)
SCRIPTS = (TAKE, SETTLE_CALL, FREEZE)
