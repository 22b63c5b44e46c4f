-- Deletes a session that makes room, unless a turn was added to it since it was counted, or another session began in its
-- place: what is acknowledged stays.
--
-- KEYS: the session.
-- ARGV:
--   1 its state as it was counted: the number that its next turn got, a dot, and when it began, in ms since 1970; '' where
--     the version before counted it, which took no note of that
-- Replies: 1 when it was deleted, else 0.

local about = redis.call('HMGET', KEYS[1], 'next', 'head')
local state = (about[1] or '') .. '.' .. (string.match(about[2] or '', '^(%d+) ') or '')
if ARGV[1] ~= '' and ARGV[1] ~= state then return 0 end
return redis.call('DEL', KEYS[1])
