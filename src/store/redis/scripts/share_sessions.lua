-- Counts a session that was used, or no more where it was deleted, and names the sessions that make room: of the owner
-- whose sessions have the most bytes those that were used longest ago. What has ended is counted no more.
--
-- KEYS: how many bytes each owner has, the bytes, the owner and the state of each session, when sessions end, the sessions
-- of owners by their last use (the beginning of the names).
-- ARGV:
--   1 owner
--   2 the session
--   3 its bytes, 0 for one that was deleted
--   4 its time to live, in ms
--   5 how many bytes all sessions have at most
--   6 its state, by which `evict_session.lua` knows whether it was used since
-- Replies: the sessions that make room, each with its state as it was counted.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function forget(session)
  local counted = redis.call('HGET', KEYS[2], session) or ''
  local bytes, owner, state = string.match(counted, '^(%d+) (%x+) ?(.*)$')
  redis.call('ZREM', KEYS[3], session)
  -- What is not counted may have been used since, and no state is this one.
  if not bytes then return '-' end
  redis.call('HDEL', KEYS[2], session)
  redis.call('ZREM', KEYS[4] .. owner, session)
  redis.call('HINCRBY', KEYS[2], 'all', '-' .. bytes)
  if tonumber(redis.call('ZINCRBY', KEYS[1], '-' .. bytes, owner)) <= 0 then redis.call('ZREM', KEYS[1], owner) end
  return state
end
for _, session in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 100)) do forget(session) end
forget(ARGV[2])
if ARGV[3] == '0' then return {} end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3] .. ' ' .. ARGV[1] .. ' ' .. ARGV[6])
redis.call('HINCRBY', KEYS[2], 'all', ARGV[3])
redis.call('ZINCRBY', KEYS[1], ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[2])
redis.call('ZADD', KEYS[4] .. ARGV[1], now, ARGV[2])
local mine = KEYS[4] .. ARGV[1]
local stay = math.max(tonumber(ARGV[4]), redis.call('PTTL', KEYS[2]))
for _, key in ipairs({KEYS[1], KEYS[2], KEYS[3], mine}) do redis.call('PEXPIRE', key, stay) end
local gone = {}
while #gone < 200 and tonumber(redis.call('HGET', KEYS[2], 'all')) > tonumber(ARGV[5]) do
  local owner = redis.call('ZREVRANGE', KEYS[1], 0, 0)[1]
  local session = owner and redis.call('ZRANGE', KEYS[4] .. owner, 0, 0)[1]
  if not session or session == ARGV[2] then break end
  local state = forget(session)
  -- One that is counted no more is still in the set of its owner, and would be found for ever.
  redis.call('ZREM', KEYS[4] .. owner, session)
  gone[#gone + 1] = session
  gone[#gone + 1] = state
end
return gone
