"""Deliveries of webhooks that are claimed by one gateway at a time, by the clock of the server."""

from __future__ import annotations

__all__ = ["CLAIM_DUE", "PUT_OFF", "SCRIPTS"]

#: Claims at most ARGV[1] deliveries whose moment has come, for ARGV[2] ms: they are in the zset at KEYS[1] by when that
#: is, ms, and in the hash at KEYS[2]. Returns their records, and at most ARGV[1] fields and values of the hash at
#: KEYS[3], in which a coordinator leaves those of tasks that schedules have opened.
CLAIM_DUE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
local records = {}
for _, id in ipairs(ids) do
  local record = redis.call('HGET', KEYS[2], id)
  if record then
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), id)
    records[#records + 1] = record
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return {records, redis.call('HRANDFIELD', KEYS[3], ARGV[1], 'WITHVALUES')}
"""
#: Puts delivery ARGV[1] off by ARGV[2] ms, with another record ARGV[3], unless it is over.
PUT_OFF = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1
"""
SCRIPTS = (CLAIM_DUE, PUT_OFF)
