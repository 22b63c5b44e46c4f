-- Begins a new epoch for the answers of a model, or of all models. When too many models have an epoch of their own, all
-- of those end, and the one of all begins anew.
--
-- KEYS: epochs.
-- ARGV:
--   1 the model, '' for all
--   2 how many models have an epoch of their own, at most
-- Replies: 1.

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local is_new = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0
-- The field of all models counts as well.
if ARGV[1] == '' or is_new and redis.call('HLEN', KEYS[1]) > tonumber(ARGV[2]) then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], '', now)
  return 1
end
redis.call('HSETNX', KEYS[1], '', now)
redis.call('HSET', KEYS[1], ARGV[1], now)
redis.call('PERSIST', KEYS[1])
return 1
