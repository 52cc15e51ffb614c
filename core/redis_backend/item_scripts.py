"""What is done to a store of LangGraph, each in one step on the server.

KEYS are always: items, index, expiry (see `core.redis_backend.keys.StoreKeys`). The name of an item is its namespace,
with dots between the labels, NUL, and its key. An item begins with when it was created and updated (ms since 1970) and
how long it lives (ms, 0: for good), each followed by a space; then comes its value. What has expired is gone for every
reader, and is deleted a hundred at a time, whatever else is done.
"""

from __future__ import annotations

__all__ = ["DELETE_ITEM", "GET_ITEM", "LIST_NAMESPACES", "PUT_ITEM", "SCRIPTS", "SEARCH_ITEMS"]

_ITEMS = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function forget(name)
    redis.call('HDEL', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
    redis.call('ZREM', KEYS[3], name)
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 100)) do forget(name) end
local function item(name)
    local expires = redis.call('ZSCORE', KEYS[3], name)
    if expires and tonumber(expires) <= now then return false end
    return redis.call('HGET', KEYS[1], name)
end
local function refresh(name, found)
    local life = tonumber(string.match(found, '^%d+ %d+ (%d+) '))
    if life > 0 then redis.call('ZADD', KEYS[3], now + life, name) end
end
"""
#: Returns the item ARGV[1], or nothing. ARGV[2]: '1': it lives as long again.
GET_ITEM = (
    _ITEMS
    + """
local found = item(ARGV[1])
if found and ARGV[2] == '1' then refresh(ARGV[1], found) end
return found
"""
)
#: Stores the value ARGV[2] as ARGV[1], for ARGV[3] ms (0: for good).
PUT_ITEM = (
    _ITEMS
    + """
local before = item(ARGV[1])
local created = before and string.match(before, '^(%d+) ') or string.format('%.0f', now)
redis.call('HSET', KEYS[1], ARGV[1], created .. string.format(' %.0f ', now) .. ARGV[3] .. ' ' .. ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if ARGV[3] ~= '0' then redis.call('ZADD', KEYS[3], now + tonumber(ARGV[3]), ARGV[1]) end
return 1
"""
)
DELETE_ITEM = (
    _ITEMS
    + """
forget(ARGV[1])
return 1
"""
)
#: Returns names and items of the namespace ARGV[1] ('': of all) and those below it, in the order of their names: at
#: most ARGV[3] names after ARGV[2], so that fewer names than that are the last ones. In the place of an item that has
#: expired is nothing.
SEARCH_ITEMS = (
    _ITEMS
    + """
local function range(from, to, limit)
    local first = '[' .. from
    if ARGV[2] >= from then first = '(' .. ARGV[2] end
    return redis.call('ZRANGEBYLEX', KEYS[2], first, '[' .. to .. '\\255', 'LIMIT', 0, limit)
end
local limit, names = tonumber(ARGV[3]), nil
if ARGV[1] == '' then
    names = range('', '', limit)
else
    names = range(ARGV[1] .. '\\0', ARGV[1] .. '\\0', limit)
    for _, name in ipairs(range(ARGV[1] .. '.', ARGV[1] .. '.', limit - #names)) do names[#names + 1] = name end
end
local found = {}
for _, name in ipairs(names) do
    found[#found + 1] = name
    found[#found + 1] = item(name)
end
return found
"""
)
#: Returns all namespaces that have an item.
LIST_NAMESPACES = (
    _ITEMS
    + """
local found, from = {}, '-'
while true do
    local name = redis.call('ZRANGEBYLEX', KEYS[2], from, '+', 'LIMIT', 0, 1)[1]
    if not name then return found end
    local namespace = string.match(name, '^(%Z*)%z')
    found[#found + 1] = namespace
    from = '(' .. namespace .. '\\1'
end
"""
)
SCRIPTS = (GET_ITEM, PUT_ITEM, DELETE_ITEM, SEARCH_ITEMS, LIST_NAMESPACES)
