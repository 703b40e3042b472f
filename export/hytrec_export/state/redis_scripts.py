"""The scripts that Redis runs: they compare and keep bytes, and know nothing of what these mean.

The first write of a script is one that may find no memory: Redis stops the script there, with nothing changed.
"""

from __future__ import annotations

from hashlib import sha1

IDENTIFYING_BYTES = 64
"""Of a head these and the length are compared: checksum, count and digest are among them."""

_SAME_HEAD = f"""
local function same(length, start)
  if redis.call('STRLEN', KEYS[1]) ~= tonumber(length) then return false end
  return tonumber(length) == 0 or redis.call('GETRANGE', KEYS[1], 0, {IDENTIFYING_BYTES - 1}) == start
end
"""

LOOK = (
    _SAME_HEAD
    + """
if same(ARGV[1], ARGV[2]) then return 0 end
return redis.call('GET', KEYS[1])
"""
)
"""KEYS head; ARGV length and start of the head that was seen. The head, or 0 where it is that one still."""

READ = (
    _SAME_HEAD
    + """
local chunks = {}
for i = 3, #ARGV, 1000 do
  for _, raw in ipairs(redis.call('HMGET', KEYS[2], unpack(ARGV, i, math.min(i + 999, #ARGV)))) do
    chunks[#chunks + 1] = raw
  end
end
if same(ARGV[1], ARGV[2]) then return {0, chunks} end
return {redis.call('GET', KEYS[1]), chunks}
"""
)
"""KEYS head, chunks; ARGV length and start of the head that was read, numbers. The head, or 0 where it is that one
still, and the chunks, of one moment."""

APPEND = (
    _SAME_HEAD
    + """
if not same(ARGV[1], ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
local grown = #ARGV[3] - tonumber(ARGV[1])
for i = 5, #ARGV, 2 do
  grown = grown + #ARGV[i + 1] - redis.call('HSTRLEN', KEYS[2], ARGV[i])
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
if ARGV[4] ~= '0' then
  for _, number in ipairs(redis.call('HKEYS', KEYS[2])) do
    if tonumber(number) < tonumber(ARGV[4]) then
      grown = grown - redis.call('HSTRLEN', KEYS[2], number)
      redis.call('HDEL', KEYS[2], number)
    end
  end
end
redis.call('HINCRBY', KEYS[3], 'bytes', grown)
return 1
"""
)
"""KEYS head, chunks, sizes; ARGV length and start of the head to be replaced, new head, first chunk that stays, then
numbers and records of chunks. Returns 1, or 0 where another head is there."""

_DROP = """
local function drop()
  local freed = 0
  for _, number in ipairs(redis.call('HKEYS', KEYS[2])) do
    freed = freed + redis.call('HSTRLEN', KEYS[2], number)
  end
  redis.call('UNLINK', KEYS[2], KEYS[3])
  return freed
end
local function unchanged()
  if not same(ARGV[1], ARGV[2]) then return false end
  return ARGV[1] ~= '0' or (redis.call('HGET', KEYS[7], ARGV[4]) or '') == ARGV[5]
end
"""

BEGIN = (
    _SAME_HEAD
    + _DROP
    + """
if not unchanged() then return 0 end
redis.call('SET', KEYS[1], ARGV[6])
local grown = #ARGV[6] - tonumber(ARGV[1]) - drop()
redis.call('ZREM', KEYS[5], ARGV[3])
redis.call('ZADD', KEYS[4], 0, ARGV[3])
redis.call('HDEL', KEYS[7], ARGV[4])
redis.call('ZREM', KEYS[8], ARGV[4])
for i = 7, #ARGV, 2 do
  grown = grown + #ARGV[i + 1]
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('HINCRBY', KEYS[6], 'bytes', grown)
return 1
"""
)
"""KEYS head, chunks, snapshots, users, kept, sizes, tombstones, buried; ARGV length and start of the head to be
replaced, user id, its hash, the tombstone to be replaced where there is no head, new head, then numbers and records of
chunks."""

FORGET = (
    _SAME_HEAD
    + _DROP
    + """
if not unchanged() then return 0 end
redis.call('DEL', KEYS[1])
local freed = tonumber(ARGV[1]) + drop()
redis.call('ZREM', KEYS[4], ARGV[3])
redis.call('ZREM', KEYS[5], ARGV[3])
redis.call('HINCRBY', KEYS[6], 'bytes', 0 - freed)
local old = redis.call('ZRANGEBYSCORE', KEYS[8], '-inf', tonumber(ARGV[7]) - tonumber(ARGV[8]), 'LIMIT', 0, 100)
for _, hash in ipairs(old) do
  redis.call('HDEL', KEYS[7], hash)
  redis.call('ZREM', KEYS[8], hash)
end
redis.call('HSET', KEYS[7], ARGV[4], ARGV[6])
redis.call('ZADD', KEYS[8], ARGV[7], ARGV[4])
return 1
"""
)
"""KEYS as of BEGIN; ARGV length and start of the head to be deleted, user id, its hash, the tombstone to be replaced
where there is no head, new tombstone, unix seconds, life of tombstones in seconds."""

KEEP = (
    _SAME_HEAD
    + """
if not same(ARGV[1], ARGV[2]) then return 0 end
local models = {}
for i = 9, #ARGV do models[ARGV[i]] = true end
redis.call('HSET', KEYS[2], ARGV[9] .. ':header', ARGV[4], ARGV[9], ARGV[5])
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not models[(string.gsub(field, ':header$', ''))] then redis.call('HDEL', KEYS[2], field) end
end
redis.call('EXPIRE', KEYS[2], ARGV[7])
redis.call('ZADD', KEYS[3], ARGV[6], ARGV[3])
local spare = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[8])
if spare > 0 then
  local place = string.sub(KEYS[2], 1, #KEYS[2] - #ARGV[3])
  local oldest = redis.call('ZPOPMIN', KEYS[3], math.min(spare, 16))
  for i = 1, #oldest, 2 do redis.pcall('UNLINK', place .. oldest[i]) end
end
return 1
"""
)
"""KEYS head, snapshots, kept; ARGV length and start of the head, user id, snapshot's header and tensors, unix seconds,
time-to-live, users of the bucket who may have snapshots, then the models whose snapshots stay, its own first."""

TOUCH = "return redis.call('HINCRBY', KEYS[1], 'bytes', 0)"
"""KEYS sizes. A write that changes nothing; what replicas confirm with it is all before it, too."""

SHA1 = {
    script: sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (LOOK, READ, APPEND, BEGIN, FORGET, KEEP, TOUCH)
}
"""By which Redis knows a script that it has run before."""
