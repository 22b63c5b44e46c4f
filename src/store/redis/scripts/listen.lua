-- Stands ahead of the scripts by which somebody listens to a flight. Each member of an audience has as its score when
-- its attention ends, in ms by the clock of Redis.

-- Takes note in `audience` that `follower` listens for `attention` ms.
local function listen(audience, follower, attention)
  local time = redis.call('TIME')
  local till = time[1] * 1000 + math.floor(time[2] / 1000) + attention
  redis.call('ZADD', audience, string.format('%.0f', till), follower)
  redis.call('PEXPIRE', audience, attention)
end
