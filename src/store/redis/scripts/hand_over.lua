-- Stands ahead of the scripts by which a leader hands entries of its log over. Each entry begins with its number, so
-- that the first one tells how many were forgotten. Nothing is kept while nobody listens.
--
-- KEYS: flight, log, audience.
-- ARGV:
--   1 who leads
--   2 how long the lead holds, in ms
--   3 how long the log is kept, in ms
--   4 how many entries were handed over before
--   5 how many of all entries are forgotten
--   6 how many digits the number of an entry has
--   7 and on: the further entries

-- Adds the entries that the log lacks. Gives 0 when nobody listens, 1 when somebody does, 2 when the log has a gap.
local function hand_over()
  local time = redis.call('TIME')
  local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  if redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
  local first = redis.call('LINDEX', KEYS[2], 0)
  local base = first and tonumber(string.sub(first, 1, ARGV[6])) or 0
  local known = base + redis.call('LLEN', KEYS[2]) - tonumber(ARGV[4])
  if known < 0 then return 2 end
  for i = 7 + known, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
  if tonumber(ARGV[5]) > base then redis.call('LTRIM', KEYS[2], ARGV[5] - base, -1) end
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
  return 1
end
