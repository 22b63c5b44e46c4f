-- Looks for an answer, and takes the lead of its flight where there is neither an answer nor a leader. Needs
-- `listen.lua`.
--
-- KEYS: flight, audience, the answer for both forms, the answer for this form alone.
-- ARGV:
--   1 who would lead
--   2 how long the lead holds, in ms
--   3 how long the attention of a follower holds, in ms
--   4 how old an answer may be, in ms, '' for any age
-- Replies: 1, the younger answer and its time to live in ms; or 2 for the lead; or 3 and who leads.

local answer, left
for i = 3, 4 do
  local value = redis.call('GET', KEYS[i])
  if value then
    local time = redis.call('PTTL', KEYS[i])
    local ttl = ARGV[4] ~= '' and string.match(value, '"ttl_ms":(%d+)')
    local is_young = not ttl or ttl - time <= tonumber(ARGV[4])
    if is_young and (not answer or time > left) then answer, left = value, time end
  end
end
if answer then return {1, answer, left} end
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then
  listen(KEYS[2], ARGV[1], ARGV[3])
  return {3, leader}
end
if not leader then redis.call('DEL', KEYS[2]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {2}
