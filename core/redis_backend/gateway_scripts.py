"""What gateways do to the record of a thread or run in one step, so that none of them undoes what another has done."""

from __future__ import annotations

__all__ = ["END_RUN", "PUT_THREAD", "SCRIPTS"]

#: Writes the record ARGV[3] of the thread ARGV[1], which has changed at ARGV[4] and expires at ARGV[5] (ms; '': never),
#: if its record is ARGV[2] ('': it has none), and returns 1; otherwise 0, and nothing is written. KEYS: threads,
#: recent, expiring.
PUT_THREAD = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
if ARGV[5] == '' then
    redis.call('ZREM', KEYS[3], ARGV[1])
else
    redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1])
end
return 1
"""
#: Writes the record ARGV[2] of the run ARGV[1], which has ended, and returns 1. Returns 0, and writes nothing, if
#: that was deleted, or answered meanwhile, so that it has an `until` and another run has ended. KEYS: the runs of
#: its thread.
END_RUN = """
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored then return 0 end
local read, record = pcall(cjson.decode, stored)
if read and type(record) == 'table' and type(record['until']) == 'string' then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
SCRIPTS = (PUT_THREAD, END_RUN)
