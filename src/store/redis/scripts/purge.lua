-- Takes note that the answers of a model, or of all, are purged.
--
-- KEYS: epochs.
-- ARGV:
--   1 the model, '' for all
--   2 how long it is remembered, in ms
-- Replies: 1.

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[1], ARGV[1], now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
