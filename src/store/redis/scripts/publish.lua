-- Hands entries of a flight over, and renews its lead and its log. Needs `hand_over.lua`, which names KEYS and ARGV.
--
-- Replies: 0 when nobody listens, 1 when somebody does, 2 when somebody else leads or the log has a gap.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 2 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return hand_over()
