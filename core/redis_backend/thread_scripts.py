"""What is done to a thread, each in one step on the server.

KEYS are always: fence, values, index (see `core.redis_backend.keys.ThreadKeys`). Names in the hash `values` begin with
their kind, and have NUL between their parts; those of kind c and w are in the sorted set `index` as well, all with the
score 0, so that they can be listed in their order. Kinds f and s are in the index only:

    c NS ID               the body of a checkpoint
    h NS ID               its header, in msgpack: parent, root, run, is it chained, channel -> version
    b NS CHANNEL VERSION  the value of a channel, which all checkpoints with this version of it share
    w NS ID TASK INDEX    what a task has written on top of a checkpoint
    f NS ID               a history forked at this checkpoint, or left it behind as the last of a branch
    s ROOT NS             the namespace of a subgraph that ran on top of the checkpoint ROOT of ''
"""

from __future__ import annotations

__all__ = ["DROP_RUNS", "FENCED_OUT", "PRUNE", "READ", "SCRIPTS", "WRITE", "value_name", "write_name"]

#: How the reply begins when another run has the thread.
FENCED_OUT = "FENCEDOUT"


def value_name(ns: str, channel: str, version: str) -> str:
    return f"b{ns}\0{channel}\0{version}"


def write_name(ns: str, checkpoint_id: str, task_id: str, index: int) -> str:
    return f"w{ns}\0{checkpoint_id}\0{task_id}\0{index}"


#: Returns an error when the thread belongs to a run after this one. ARGV[1] and ARGV[2] are order and attempt, or ''.
_FENCE = """
local function fence()
    if ARGV[1] == '' then return nil end
    local order, attempt = tonumber(ARGV[1]), tonumber(ARGV[2])
    local held_order, held_attempt = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
    held_order, held_attempt = tonumber(held_order) or -1, tonumber(held_attempt) or -1
    if held_order > order or (held_order == order and held_attempt > attempt) then
        return {err = 'FENCEDOUT ' .. held_order .. ' ' .. held_attempt}
    end
    if held_order < order or held_attempt < attempt then
        redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
    end
end
local refused = fence()
if refused then return refused end
"""
#: `range(prefix)` gives the names in the index that begin so, `header(name)` what is known of a checkpoint.
_LOOK = """
local function range(prefix)
    return redis.call('ZRANGEBYLEX', KEYS[3], '[' .. prefix, '[' .. prefix .. '\\255')
end
local function header(ns, id)
    local packed = redis.call('HGET', KEYS[2], 'h' .. ns .. '\\0' .. id)
    local head = packed and cmsgpack.unpack(packed) or {'', '', '', false, {}}
    return {parent = head[1], run = head[3], chained = head[4], versions = head[5]}
end
local function namespaces()
    local found, seen = {}, {}
    for _, name in ipairs(range('c')) do
        local ns = string.match(name, '^c(%Z*)%z')
        if not seen[ns] then
            seen[ns] = true
            found[#found + 1] = ns
        end
    end
    return found
end
"""
#: `drop(ns, doomed, heads)` deletes checkpoints, and the values that no other one of the namespace refers to. When a
#: checkpoint of the outermost graph goes, so do those of the subgraphs that ran on top of it; a subgraph with a memory
#: of its own has no task in its namespace, and stays. `prune(ns, keep, forks)` drops all but the newest, those that are
#: needed to read another one, and if `forks` is true, those where the history forks.
_DROP = """
local function load(ns)
    local prefix, ids, heads = 'c' .. ns .. '\\0', {}, {}
    for i, name in ipairs(range(prefix)) do
        ids[i] = string.sub(name, #prefix + 1)
        heads[ids[i]] = header(ns, ids[i])
    end
    return ids, heads
end
local function forget(name)
    redis.call('HDEL', KEYS[2], name)
    redis.call('ZREM', KEYS[3], name)
end
local drop
local function drop_below(root)
    local prefix = 's' .. root .. '\\0'
    for _, name in ipairs(range(prefix)) do
        local ns = string.sub(name, #prefix + 1)
        if string.find(ns, ':[^|]*$') then
            local _, heads = load(ns)
            drop(ns, heads, heads)
        end
        redis.call('ZREM', KEYS[3], name)
    end
end
drop = function(ns, doomed, heads)
    local used = {}
    for id, head in pairs(heads) do
        if not doomed[id] then
            for channel, version in pairs(head.versions) do used[channel .. '\\0' .. version] = true end
        end
    end
    for id in pairs(doomed) do
        for channel, version in pairs(heads[id].versions) do
            local value = channel .. '\\0' .. version
            if not used[value] then redis.call('HDEL', KEYS[2], 'b' .. ns .. '\\0' .. value) end
        end
        for _, name in ipairs(range('w' .. ns .. '\\0' .. id .. '\\0')) do forget(name) end
        redis.call('HDEL', KEYS[2], 'h' .. ns .. '\\0' .. id)
        forget('c' .. ns .. '\\0' .. id)
        redis.call('ZREM', KEYS[3], 'f' .. ns .. '\\0' .. id)
        if ns == '' then drop_below(id) end
    end
end
local function keep_chain(id, heads, kept)
    while heads[id] and heads[id].chained do
        id = heads[id].parent
        kept[id] = true
    end
end
local function prune(ns, keep, forks)
    local prefix = 'c' .. ns .. '\\0'
    if redis.call('ZLEXCOUNT', KEYS[3], '[' .. prefix, '[' .. prefix .. '\\255') <= keep then return end
    local ids, heads = load(ns)
    local kept, doomed = {}, {}
    for i = math.max(1, #ids - keep + 1), #ids do kept[ids[i]] = true end
    if forks then
        for _, name in ipairs(range('f' .. ns .. '\\0')) do kept[string.sub(name, #prefix + 1)] = true end
    end
    for _, id in ipairs(ids) do
        if kept[id] then keep_chain(id, heads, kept) end
    end
    for _, id in ipairs(ids) do
        if not kept[id] then doomed[id] = true end
    end
    drop(ns, doomed, heads)
end
"""
#: Stores checkpoints, values and writes. ARGV[3]: how long the thread is kept from now on, in ms; 0: for good. ARGV[4]:
#: how many checkpoints of a namespace are kept; 0: all. Then the numbers of checkpoints (namespace, id, root, header,
#: body), of values (name, value, '' if there is none) and of writes (name, value, whether it replaces another), and
#: these.
WRITE = (
    _FENCE
    + _LOOK
    + _DROP
    + """
local function note_fork(ns, id, parent)
    local prefix = 'c' .. ns .. '\\0'
    local name = redis.call('ZREVRANGEBYLEX', KEYS[3], '[' .. prefix .. '\\255', '[' .. prefix, 'LIMIT', 0, 1)[1]
    local newest = name and string.sub(name, #prefix + 1)
    if newest and newest ~= parent and newest ~= id and redis.call('ZSCORE', KEYS[3], prefix .. parent) then
        redis.call('ZADD', KEYS[3], 0, 'f' .. ns .. '\\0' .. parent, 0, 'f' .. ns .. '\\0' .. newest)
    end
end
local at = 8
local written = {}
for _ = 1, tonumber(ARGV[5]) do
    local ns, id, root = ARGV[at], ARGV[at + 1], ARGV[at + 2]
    local name = ns .. '\\0' .. id
    note_fork(ns, id, cmsgpack.unpack(ARGV[at + 3])[1])
    redis.call('HSET', KEYS[2], 'h' .. name, ARGV[at + 3], 'c' .. name, ARGV[at + 4])
    redis.call('ZADD', KEYS[3], 0, 'c' .. name)
    if root ~= '' then redis.call('ZADD', KEYS[3], 0, 's' .. root .. '\\0' .. ns) end
    written[ns] = true
    at = at + 5
end
for _ = 1, tonumber(ARGV[6]) do
    if ARGV[at + 1] == '' then
        redis.call('HDEL', KEYS[2], ARGV[at])
    else
        redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
    end
    at = at + 2
end
for _ = 1, tonumber(ARGV[7]) do
    if ARGV[at + 2] == '1' or redis.call('HEXISTS', KEYS[2], ARGV[at]) == 0 then
        redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
    end
    redis.call('ZADD', KEYS[3], 0, ARGV[at])
    at = at + 3
end
if ARGV[4] ~= '0' then
    for ns in pairs(written) do prune(ns, tonumber(ARGV[4]), true) end
end
if ARGV[3] ~= '0' then
    for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[3]) end
end
return 1
"""
)
#: Returns checkpoints, the newest first: namespace, id, header, body, values (channel, version, value), writes (name,
#: value). ARGV[3]: '1': of all namespaces; ARGV[4]: else of this one; ARGV[5]: an id, or ''; ARGV[6] and ARGV[7]: id
#: and namespace of the one after which the list begins, or ''; ARGV[8]: how many.
READ = (
    _FENCE
    + _LOOK
    + """
local function selected()
    local limit, prefix, found = tonumber(ARGV[8]), 'c' .. ARGV[4] .. '\\0', {}
    if ARGV[3] == '0' and ARGV[5] == '' then
        local from = (ARGV[4] < ARGV[7] and '[' or '(') .. prefix .. ARGV[6]
        if ARGV[6] == '' then from = '[' .. prefix .. '\\255' end
        for i, name in ipairs(redis.call('ZREVRANGEBYLEX', KEYS[3], from, '[' .. prefix, 'LIMIT', 0, limit)) do
            found[i] = {ARGV[4], string.sub(name, #prefix + 1)}
        end
        return found
    end
    for _, name in ipairs(range(ARGV[3] == '1' and 'c' or prefix .. ARGV[5])) do
        local ns, id = string.match(name, '^c(%Z*)%z(.*)$')
        local follows = ARGV[6] == '' or id < ARGV[6] or (id == ARGV[6] and ns < ARGV[7])
        if follows and (ARGV[5] == '' or id == ARGV[5]) then found[#found + 1] = {ns, id} end
    end
    table.sort(found, function(one, other)
        if one[2] == other[2] then return one[1] > other[1] end
        return one[2] > other[2]
    end)
    while #found > limit do table.remove(found) end
    return found
end
local function values(ns, versions)
    local found = {}
    for channel, version in pairs(versions) do
        local value = redis.call('HGET', KEYS[2], 'b' .. ns .. '\\0' .. channel .. '\\0' .. version)
        if value then
            found[#found + 1] = channel
            found[#found + 1] = version
            found[#found + 1] = value
        end
    end
    return found
end
local function writes(ns, id)
    local found = {}
    for _, name in ipairs(range('w' .. ns .. '\\0' .. id .. '\\0')) do
        local value = redis.call('HGET', KEYS[2], name)
        if value then
            found[#found + 1] = name
            found[#found + 1] = value
        end
    end
    return found
end
local reply = {}
for _, each in ipairs(selected()) do
    local ns, id = each[1], each[2]
    local name = ns .. '\\0' .. id
    local head, body = redis.call('HGET', KEYS[2], 'h' .. name), redis.call('HGET', KEYS[2], 'c' .. name)
    if head and body then
        reply[#reply + 1] = {ns, id, head, body, values(ns, header(ns, id).versions), writes(ns, id)}
    end
end
return reply
"""
)
#: Keeps the newest ARGV[1] checkpoints of each namespace.
PRUNE = (
    _LOOK
    + _DROP
    + """
for _, ns in ipairs(namespaces()) do prune(ns, tonumber(ARGV[1]), false) end
return 1
"""
)
#: Deletes the checkpoints that the runs ARGV[3] and following have made.
DROP_RUNS = (
    _FENCE
    + _LOOK
    + _DROP
    + """
local runs = {}
for at = 3, #ARGV do runs[ARGV[at]] = true end
for _, ns in ipairs(namespaces()) do
    local ids, heads = load(ns)
    local doomed = {}
    for _, id in ipairs(ids) do
        if runs[heads[id].run] then doomed[id] = true end
    end
    drop(ns, doomed, heads)
end
return 1
"""
)
SCRIPTS = (WRITE, READ, PRUNE, DROP_RUNS)
