-- Reads the newest turns of a session, or those before one of them, and renews it. Needs `session.lua`.
--
-- KEYS: as `session.lua` names them.
-- ARGV, behind the one of `session.lua`:
--   2 id of the turn before which it reads, '' for none
--   3 how many turns it reads at most
--   4 after how many bytes of turns it stops
--   5 how many bytes the reply has, at most
-- Replies: the age in ms, how many turns came before, the head, what was told, and the turns, newest first; nothing
-- when there is no session. What does not fit into the reply is left out, with all that came before it.

if not head then return {} end
renew(head)
local about = redis.call('HMGET', KEYS[1], 'first', 'next', 'told', 'i' .. ARGV[2])
local first, place = tonumber(about[1]), tonumber(about[2])
if ARGV[2] ~= '' then place = tonumber(about[4]) or first end
local turns, wanted, left = {}, tonumber(ARGV[3]), tonumber(ARGV[4])
local told, room = about[3], tonumber(ARGV[5]) - #head
if told and #told > room then told = false end
room = room - #(told or '')
while place > first and #turns < wanted and left >= 0 do
  local turn = redis.call('HGET', KEYS[1], string.format('%.0f', place - 1)) or ''
  if #turn > room then break end
  place, left, room = place - 1, left - #turn, room - #turn
  turns[#turns + 1] = turn
end
return {math.max(now - began(head), 0), place, head, told, turns}
