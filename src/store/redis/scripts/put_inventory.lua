-- Keeps the inventory of a host. Hosts that come and go by their addresses do not add up: when there are too many, all
-- that is known of them is forgotten first.
--
-- KEYS: inventories.
-- ARGV:
--   1 host
--   2 its inventory
--   3 how many hosts are kept
--   4 how long inventories are kept, in ms
-- Replies: 1.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
  redis.call('DEL', KEYS[1])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
