"""How many requests somebody may make: a bucket of tokens that fills by itself, on the server and by its clock, so that
all who ask count together."""

from __future__ import annotations

__all__ = ["SCRIPTS", "TAKE_TOKEN"]

#: Takes a token out of the bucket at KEYS[1], which gets a new one every ARGV[1] and holds as many as fit into ARGV[2],
#: both in microseconds. Returns 0, or in how many microseconds there is one; then nothing was taken. What is stored is
#: the time at which the bucket will be full again.
TAKE_TOKEN = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local full = math.max(now, tonumber(redis.call('GET', KEYS[1])) or 0) + tonumber(ARGV[1])
local missing = full - now - tonumber(ARGV[2])
if missing > 0 then return math.ceil(missing) end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
return 0
"""
SCRIPTS = (TAKE_TOKEN,)
