-- Begins the epoch of all models, unless there is one, and reads all epochs. It begins with a number that none had
-- before: where the epochs were lost, answers that were forgotten under a lost one are not found again.
--
-- KEYS: epochs.
-- Replies: for each epoch its model, '' for all, and its number.

if redis.call('HEXISTS', KEYS[1], '') == 0 then
  local time = redis.call('TIME')
  -- A number of Lua is exact up to 53 bits.
  local first = tonumber(string.sub(redis.sha1hex(time[1] .. '.' .. time[2]), 1, 13), 16)
  redis.call('HSET', KEYS[1], '', string.format('%.0f', first))
  redis.call('PERSIST', KEYS[1])
end
return redis.call('HGETALL', KEYS[1])
