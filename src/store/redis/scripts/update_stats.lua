-- Replaces the stats of a host, unless another replica replaced them first. A lease ends in either case. Needs
-- `fleet_time.lua`.
--
-- KEYS: stats, leases.
-- ARGV:
--   1 host
--   2 its stats as they were, '' for none
--   3 its stats as they are to be
--   4 the lease that ends, or ''
--   5 how long stats are kept, in ms
-- Replies: 1 and '' when the stats were replaced, else 0 and the stats as they are; then the time in ms as text.

if ARGV[4] ~= '' then redis.call('ZREM', KEYS[2], ARGV[4]) end
local stats = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if stats ~= ARGV[2] then return {0, stats, now} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {1, '', now}
