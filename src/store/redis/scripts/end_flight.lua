-- Hands the last entries of a flight over and ends it. Whoever came to listen meanwhile finds in the log how it ended.
-- Needs `hand_over.lua`, which names KEYS and ARGV.
--
-- Replies: 0 when nobody listened, 1 when somebody did, 2 when somebody else leads or the log has a gap.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 2 end
redis.call('DEL', KEYS[1])
local reply = hand_over()
if reply == 1 then redis.call('DEL', KEYS[3]) end
return reply
