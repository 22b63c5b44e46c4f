-- Appends a turn to a session, which begins with it where there is none, and drops its oldest turns. Needs
-- `session.lua`.
--
-- KEYS: as `session.lua` names them.
-- ARGV, behind the one of `session.lua`:
--   2 id of the turn
--   3 the turn
--   4 how many turns are kept
--   5 how many bytes of turns are kept
--   6 when the session must have begun, in ms since 1970, '' for any time
--   7 the system message that the turn brings; it is left out where there is none
-- Replies: 1 when the turn was appended, 0 when it was there already, -1 when the session began at another time.

if ARGV[6] ~= '' and not (head and string.match(head, '^(%d+) ') == ARGV[6]) then return -1 end
if not head then
  head = string.format('%.0f 0 {}', now)
  begin(head)
end
local is_new = redis.call('HEXISTS', KEYS[1], 'i' .. ARGV[2]) == 0
if is_new then
  add(ARGV[3], ARGV[2])
  if ARGV[7] then redis.call('HSET', KEYS[1], 'told', ARGV[7]) end
  local about = redis.call('HMGET', KEYS[1], 'first', 'next', 'bytes')
  local first, next, bytes = tonumber(about[1]), tonumber(about[2]), tonumber(about[3])
  while next - first > 1 and (next - first > tonumber(ARGV[4]) or bytes > tonumber(ARGV[5])) do
    local number = string.format('%.0f', first)
    local turn = redis.call('HGET', KEYS[1], number) or ''
    redis.call('HDEL', KEYS[1], number, 'i' .. (id_of(turn) or ''))
    first, bytes = first + 1, bytes - #turn
  end
  redis.call('HSET', KEYS[1], 'first', string.format('%.0f', first), 'bytes', string.format('%.0f', bytes))
end
renew(head)
return is_new and 1 or 0
