-- Replaces the facts of a host, unless another replica replaced them first. A lease ends in either case. Needs
-- `fleet_time.lua`.
--
-- KEYS: facts, leases.
-- ARGV:
--   1 host
--   2 its facts as they were, '' for none
--   3 its facts as they are to be
--   4 the lease that ends, or ''
--   5 how long facts are kept, in ms
-- Replies: 1 and '' when the facts were replaced, else 0 and the facts as they are; then the time in ms as text.

if ARGV[4] ~= '' then redis.call('ZREM', KEYS[2], ARGV[4]) end
local facts = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if facts ~= ARGV[2] then return {0, facts, now} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return {1, '', now}
