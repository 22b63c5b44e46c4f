-- Replaces the stats of a host, unless another replica replaced them first. A lease ends in either case. Hosts that come and
-- go by their addresses do not add up: when there are too many, those of any other are forgotten. Needs `fleet_time.lua`.
--
-- KEYS: stats, leases.
-- ARGV:
--   1 host
--   2 its stats as they were, '' for none
--   3 its stats as they are to be
--   4 the lease that ends, or ''
--   5 how long stats are kept, in ms
--   6 of how many hosts, at most
-- Replies: 1 and '' when the stats were replaced, else 0 and the stats as they are; then the time in ms as text.

if ARGV[4] ~= '' then redis.call('ZREM', KEYS[2], ARGV[4]) end
local stats = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if stats ~= ARGV[2] then return {0, stats, now} end
while stats == '' and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[6]) do
  redis.call('HDEL', KEYS[1], redis.call('HKEYS', KEYS[1])[1])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {1, '', now}
