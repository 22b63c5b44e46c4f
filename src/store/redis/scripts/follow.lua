-- Reads the further entries of a flight, and listens on while it is led. Needs `listen.lua`.
--
-- KEYS: flight, log, audience.
-- ARGV:
--   1 who leads
--   2 how many entries are known
--   3 how long the attention holds, in ms
--   4 who follows
--   5 how many digits the number of an entry has
--   6 the mark of an entry that says that the flight was abandoned
-- Replies: 1 while that one leads, else 0; then the entries since. Where some of them are forgotten, the only entry
-- says that the flight was abandoned.

local is_led = redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
if is_led == 1 then listen(KEYS[3], ARGV[4], ARGV[3]) end
local first = redis.call('LINDEX', KEYS[2], 0)
local base = first and tonumber(string.sub(first, 1, ARGV[5])) or 0
local from = tonumber(ARGV[2]) - base
if from < 0 then return {is_led, string.sub(first, 1, ARGV[5]) .. ARGV[6]} end
local reply = redis.call('LRANGE', KEYS[2], from, -1)
table.insert(reply, 1, is_led)
return reply
