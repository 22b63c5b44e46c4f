-- Keeps an answer, and makes room for it in its part of the cache: what has ended goes first, then of the owner that holds the
-- most what ends soonest. Without an answer it only makes room.
--
-- KEYS: the answer, what the part holds, when its answers end, how many bytes its owners have.
-- ARGV:
--   1 the answer, '' for none
--   2 its time to live, in ms
--   3 its owner
--   4 its name in the part
--   5 what the names of all answers of the part begin with
--   6 how many bytes the part holds at most, '' where the one that asks does not know
--   7 how many bytes an answer takes beside its own
-- Replies: 1, or 0 for an answer that is larger than the part; and the limit that held, '' where nobody knows one.
--
-- What the part holds is a hash: `all` are its bytes, `limit` is the limit that somebody knew last, `m` with a name are the
-- bytes and the owner of an answer. The answers of an owner by their end are a set of their own.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local bytes = math.ceil(#ARGV[1] * 1.25) + ARGV[7]
local limit = ARGV[6] ~= '' and ARGV[6] or redis.call('HGET', KEYS[2], 'limit') or ''
if ARGV[1] ~= '' then
  if limit ~= '' and bytes > tonumber(limit) then return {0, limit} end
  -- It stands first: a server that is full refuses it before anything is changed.
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
if ARGV[6] ~= '' then redis.call('HSET', KEYS[2], 'limit', limit) end
local function add(owner, more)
  redis.call('HINCRBY', KEYS[2], 'all', more)
  if tonumber(redis.call('ZINCRBY', KEYS[4], more, owner)) <= 0 then redis.call('ZREM', KEYS[4], owner) end
end
local function forget(name)
  local held, owner = string.match(redis.call('HGET', KEYS[2], 'm' .. name) or '', '^(%d+) (.*)$')
  redis.call('ZREM', KEYS[3], name)
  if not held then return end
  redis.call('HDEL', KEYS[2], 'm' .. name)
  redis.call('ZREM', KEYS[3] .. ':' .. owner, name)
  add(owner, '-' .. held)
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 100)) do forget(name) end
if ARGV[1] ~= '' then
  forget(ARGV[4])
  local mine = KEYS[3] .. ':' .. ARGV[3]
  redis.call('HSET', KEYS[2], 'm' .. ARGV[4], string.format('%.0f ', bytes) .. ARGV[3])
  redis.call('ZADD', KEYS[3], now + ARGV[2], ARGV[4])
  redis.call('ZADD', mine, now + ARGV[2], ARGV[4])
  add(ARGV[3], string.format('%.0f', bytes))
  local stay = math.max(tonumber(ARGV[2]), redis.call('PTTL', KEYS[2]))
  for _, key in ipairs({KEYS[2], KEYS[3], KEYS[4], mine}) do redis.call('PEXPIRE', key, stay) end
end
while limit ~= '' and tonumber(redis.call('HGET', KEYS[2], 'all') or 0) > tonumber(limit) do
  local owner = redis.call('ZREVRANGE', KEYS[4], 0, 0)[1]
  local name = owner and redis.call('ZRANGE', KEYS[3] .. ':' .. owner, 0, 0)[1]
  if not name then
    -- Nothing is left that could go: what is counted has gone by itself.
    redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
    break
  end
  forget(name)
  -- One that is counted no more is still in the set of its owner, and would be found for ever.
  redis.call('ZREM', KEYS[3] .. ':' .. owner, name)
  redis.call('DEL', ARGV[5] .. name)
end
return {1, limit}
