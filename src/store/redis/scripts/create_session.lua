-- Begins a session, unless there is one. Needs `session.lua`.
--
-- KEYS: as `session.lua` names them.
-- ARGV, behind the one of `session.lua`:
--   2 its own time to live, in ms, 0 for none
--   3 its JSON
-- Replies: 1 when it began, else 0.

if head then return 0 end
head = string.format('%.0f ', now) .. ARGV[2] .. ' ' .. ARGV[3]
begin(head)
renew(head)
return 1
