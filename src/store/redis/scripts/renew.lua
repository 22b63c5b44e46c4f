-- Renews a lease that still is there. Needs `fleet_time.lua`.
--
-- KEYS: leases.
-- ARGV:
--   1 the lease
--   2 how long it holds, in ms
-- Replies: 1.

redis.call('ZADD', KEYS[1], 'XX', now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 2)
return 1
