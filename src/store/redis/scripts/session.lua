-- Stands ahead of the scripts of one session. A session is a hash with these fields:
--
-- - `head`: when it began, in ms since 1970, and its own time to live in ms, 0 for none; its JSON follows, which no
--   script reads;
-- - `told`: the system message of the newest turn that had one;
-- - `first`, `next`, `bytes`: the number of the oldest turn, the number that the next turn gets, the bytes of all
--   turns;
-- - a turn under its number, and its number under `i` and its id.
--
-- What the version before kept in a list is moved over: the head where there is no hash yet, and the turns that the
-- hash lacks. Behind this, `head` is the head of the session, or false when there is none.
--
-- KEYS: the session, the list in which the version before kept it.
-- ARGV:
--   1 the time to live of a session that has none of its own, in ms
--   2 and on: what the script names that stands behind this

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function began(head) return tonumber(string.match(head, '^(%d+) ')) or now end
local function renew(head)
  local own = tonumber(string.match(head, '^%d+ (%d+) ')) or 0
  redis.call('PEXPIRE', KEYS[1], own > 0 and own or ARGV[1])
end
local function begin(head)
  redis.call('HSET', KEYS[1], 'head', head, 'first', 0, 'next', 0, 'bytes', 0)
end
local function id_of(turn) return string.match(turn, '^{"id":"([^"\\]*)"') end
local function add(turn, id)
  local next = tonumber(redis.call('HGET', KEYS[1], 'next'))
  redis.call('HSET', KEYS[1], string.format('%.0f', next), turn, 'next', string.format('%.0f', next + 1))
  redis.call('HINCRBY', KEYS[1], 'bytes', #turn)
  if id then redis.call('HSET', KEYS[1], 'i' .. id, string.format('%.0f', next)) end
end
if redis.call('EXISTS', KEYS[2]) == 1 then
  local old = redis.call('LRANGE', KEYS[2], 0, -1)
  if redis.call('EXISTS', KEYS[1]) == 0 then
    begin(old[1])
    redis.call('PEXPIRE', KEYS[1], math.max(redis.call('PTTL', KEYS[2]), 1))
  end
  for place = 2, #old do
    local id = id_of(old[place])
    if id and redis.call('HEXISTS', KEYS[1], 'i' .. id) == 0 then
      add(old[place], id)
      local is_json, turn = pcall(cjson.decode, old[place])
      if is_json and type(turn.system) == 'string' then redis.call('HSET', KEYS[1], 'told', turn.system) end
    end
  end
  redis.call('DEL', KEYS[2])
end
local head = redis.call('HGET', KEYS[1], 'head')
