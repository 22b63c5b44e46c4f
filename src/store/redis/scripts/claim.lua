-- Takes the first of several places that has room, and takes note of who got it and why. Needs `fleet_time.lua`.
--
-- KEYS: leases, tickets, served, budget, decisions.
-- ARGV:
--   1 id of the lease
--   2 lane
--   3 caller
--   4 session
--   5 'r' for a retry, else 'q'
--   6 reason
--   7 how long a lease holds, in ms
--   8 the window over which retries are budgeted, in s
--   9 how long it is remembered who was served, in ms
--   10 how many decisions are kept
--   11 how long decisions are kept, in ms
--   12 of how many it is remembered who was served, at most
--   13 and on: for each place its host, its limit, and its marks: 'c' for cold, 't' for the trial of a host, 'l' for that
--     of a lane
-- Replies: the number of the place, from 1, or 0 when none has room; the time in ms as text.

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local taken = redis.call('ZRANGE', KEYS[1], 0, -1)
local first, place = 13, 0
for i = first, #ARGV, 3 do
  local host = ARGV[i] .. '\31'
  local lane = host .. ARGV[2] .. '\31'
  local count, tried = 0, false
  local trial = string.match(ARGV[i + 2], '[tl]')
  for _, lease in ipairs(taken) do
    local other = string.match(lease, '\31c?([tl])\31%d+$')
    if string.sub(lease, 1, #lane) == lane then
      count = count + 1
      tried = tried or other
    elseif other == 't' and trial == 't' and string.sub(lease, 1, #host) == host then
      tried = true
    end
  end
  if count < tonumber(ARGV[i + 1]) and not (tried and trial) then
    place = i
    break
  end
end
if place == 0 then return {0, now} end
local lease = ARGV[place] .. '\31' .. ARGV[2] .. '\31' .. ARGV[1] .. '\31' .. ARGV[place + 2] .. '\31' .. now
redis.call('ZADD', KEYS[1], now + ARGV[7], lease)
redis.call('PEXPIRE', KEYS[1], ARGV[7] * 2)
local id = ARGV[1] .. '\31'
for _, ticket in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if string.sub(ticket, 1, #id) == id then redis.call('ZREM', KEYS[2], ticket) end
end
local caller = ARGV[2] .. '\31' .. ARGV[3]
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[9])
redis.call('ZADD', KEYS[3], now, caller, now, caller .. '\31' .. ARGV[4])
if redis.call('ZCARD', KEYS[3]) > tonumber(ARGV[12]) then
  -- The older half is remembered as one, '', which stands for all that are unknown: whoever is made up has no precedence.
  local last = -math.floor(ARGV[12] / 2) - 1
  local others = redis.call('ZRANGE', KEYS[3], last, last, 'WITHSCORES')[2]
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, last)
  redis.call('ZADD', KEYS[3], others, '')
end
redis.call('PEXPIRE', KEYS[3], ARGV[9])
if redis.call('HINCRBY', KEYS[4], ARGV[5] .. time[1], 1) == 1 then
  for _, second in ipairs(redis.call('HKEYS', KEYS[4])) do
    if tonumber(string.sub(second, 2)) <= tonumber(time[1]) - tonumber(ARGV[8]) then
      redis.call('HDEL', KEYS[4], second)
    end
  end
  redis.call('PEXPIRE', KEYS[4], ARGV[8] * 2000)
end
redis.call('RPUSH', KEYS[5], ARGV[2] .. ' at ' .. ARGV[place] .. ': ' .. ARGV[6])
redis.call('LTRIM', KEYS[5], -ARGV[10], -1)
redis.call('PEXPIRE', KEYS[5], ARGV[11])
return {(place - first) / 3 + 1, now}
