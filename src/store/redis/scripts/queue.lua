-- Takes tickets out of the queue and puts one in. Without one to put in, the leases of the same ids end as well. Needs
-- `fleet_time.lua`.
--
-- KEYS: tickets, leases.
-- ARGV:
--   1 how long a ticket holds, in ms
--   2 the ticket that comes, or ''
--   3 and on: the ids of the tickets that go
-- Replies: 1.

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local gone = {}
for i = 3, #ARGV do gone[ARGV[i]] = true end
if ARGV[2] == '' then
  for _, lease in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
    if gone[string.match(lease, '^[^\31]*\31[^\31]*\31([^\31]*)')] then redis.call('ZREM', KEYS[2], lease) end
  end
end
for _, ticket in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if gone[string.match(ticket, '^[^\31]*')] then redis.call('ZREM', KEYS[1], ticket) end
end
if ARGV[2] ~= '' then
  redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[1] * 2)
end
return 1
