"""What is done to the budgets of a tree of tasks, each in one step on the server.

KEYS[1] is the hash with the ledgers of a hierarchy, ARGV[1] the name of a ledger in it: the id of the task that has the
outermost budget. A ledger is in msgpack:

    spent   id of a task with a budget -> [calls, tokens, parts of a dollar], with what is reserved
    open    id of a call -> what is reserved for it: {task, attempt, at (ms), got (as above), ids of the budgets}

A reservation counts as spent from the beginning. Where an attempt was lost in the middle of a call, nobody knows what
that has cost: it stays at what was reserved. Others wait for what a call may leave as long as its worker says that it
is under way, which moves its `at`; what it has used counts even if that was not said for a while. A value that is no
ledger counts as none.
"""

from __future__ import annotations

__all__ = ["RENEW", "RESERVE", "SCRIPTS", "SETTLE"]

_LEDGER = """
local function ledger()
    local read, found = pcall(cmsgpack.unpack, redis.call('HGET', KEYS[1], ARGV[1]) or '')
    if read and type(found) == 'table' and type(found.spent) == 'table' and type(found.open) == 'table' then
        return found
    end
    return {spent = {}, open = {}}
end
local tree = ledger()
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function save() redis.call('HSET', KEYS[1], ARGV[1], cmsgpack.pack(tree)) end
"""
#: Reserves what a call needs from all budgets at once, or nothing. ARGV: 2 the task, 3 its attempt, 4 the id of the
#: call, 5 how long a call takes at most (ms), 6 what it needs at least, 7 what it is given if there is as much, 8 the
#: budgets, [id, limits], 9 how long nothing was said of a call for which nobody waits any more (ms); 6 to 8 in msgpack,
#: a limit of -1 is none.
#: Returns 'reserved', also if that has happened before; 'wait': there may be enough when calls under way have ended;
#: or the id of a budget that has not enough left, which of its limits that is (from 0), and what was spent of it.
RESERVE = (
    _LEDGER
    + """
if tree.open[ARGV[4]] then return {'reserved'} end
for id, held in pairs(tree.open) do
    local lost = held.task == ARGV[2] and held.attempt < tonumber(ARGV[3])
    if lost or now - held.at > tonumber(ARGV[5]) then tree.open[id] = nil end
end
local function returnable(budget, kind)
    local sum = 0
    for _, held in pairs(tree.open) do
        for _, id in ipairs(held.ids) do
            if id == budget and now - held.at <= tonumber(ARGV[9]) then sum = sum + held.got[kind] end
        end
    end
    return sum
end
local need, got, budgets = cmsgpack.unpack(ARGV[6]), cmsgpack.unpack(ARGV[7]), cmsgpack.unpack(ARGV[8])
local waits, ids = false, {}
for place, budget in ipairs(budgets) do
    local id, limits = budget[1], budget[2]
    local spent = tree.spent[id] or {0, 0, 0}
    for kind = 1, 3 do
        local left = limits[kind] - spent[kind]
        if limits[kind] >= 0 and need[kind] > left then
            if kind == 1 or need[kind] > left + returnable(id, kind) then return {id, kind - 1, spent[kind]} end
            waits = true
        elseif limits[kind] >= 0 then
            got[kind] = math.min(got[kind], left)
        end
    end
    ids[place] = id
end
if waits then return {'wait'} end
for _, id in ipairs(ids) do
    local spent = tree.spent[id] or {0, 0, 0}
    tree.spent[id] = {spent[1] + got[1], spent[2] + got[2], spent[3] + got[3]}
end
tree.open[ARGV[4]] = {task = ARGV[2], attempt = tonumber(ARGV[3]), at = now, got = got, ids = ids}
save()
return {'reserved'}
"""
)
#: Puts what a call has used, ARGV[3], in the place of what was reserved for it, ARGV[2] being its id. '': what was
#: reserved stays. Nothing happens if it is settled already.
SETTLE = (
    _LEDGER
    + """
local held = tree.open[ARGV[2]]
if not held then return 0 end
local used = ARGV[3] ~= '' and cmsgpack.unpack(ARGV[3]) or held.got
for _, id in ipairs(held.ids) do
    local spent = tree.spent[id]
    for kind = 1, 3 do spent[kind] = spent[kind] - held.got[kind] + used[kind] end
end
tree.open[ARGV[2]] = nil
save()
return 1
"""
)
#: Says that calls are under way, those with the ids ARGV[2], in msgpack.
RENEW = (
    _LEDGER
    + """
local found = false
for _, id in ipairs(cmsgpack.unpack(ARGV[2])) do
    if tree.open[id] then
        tree.open[id].at = now
        found = true
    end
end
if found then save() end
return 1
"""
)
SCRIPTS = (RESERVE, SETTLE, RENEW)
