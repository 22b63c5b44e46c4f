-- Reads all that is known of the fleet, but for the inventories, and changes nothing. Needs `fleet_time.lua`.
--
-- KEYS: stats, leases, tickets, served, budget.
-- ARGV:
--   1 the window over which retries are budgeted, in s
-- Replies: the time in ms as text; then three lists, each behind a number: the stats by host, behind how many fields
-- and values they are; the leases that hold, behind how many; the tickets that hold, behind how many, each with the
-- times in ms as text at which its caller and its session were served last. At the end how many requests and how many
-- retries the window has.

local reply = {now}
local stats = redis.call('HGETALL', KEYS[1])
reply[#reply + 1] = #stats
for _, value in ipairs(stats) do reply[#reply + 1] = value end
local leases = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')
reply[#reply + 1] = #leases
for _, value in ipairs(leases) do reply[#reply + 1] = value end
local others = redis.call('ZSCORE', KEYS[4], '') or '0'
local function served(flow) return redis.call('ZSCORE', KEYS[4], flow) or others end
local tickets = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. now, '+inf')
reply[#reply + 1] = #tickets
for _, ticket in ipairs(tickets) do
  local lane, caller, session = string.match(ticket, '^[^\31]*\31([^\31]*)\31[^\31]*\31([^\31]*)\31([^\31]*)')
  reply[#reply + 1] = ticket
  reply[#reply + 1] = lane and served(lane .. '\31' .. caller) or '0'
  reply[#reply + 1] = lane and served(lane .. '\31' .. caller .. '\31' .. session) or '0'
end
local requests, retries = 0, 0
local counts = redis.call('HGETALL', KEYS[5])
for i = 1, #counts, 2 do
  if tonumber(string.sub(counts[i], 2)) > tonumber(time[1]) - tonumber(ARGV[1]) then
    requests = requests + counts[i + 1]
    if string.sub(counts[i], 1, 1) == 'r' then retries = retries + counts[i + 1] end
  end
end
reply[#reply + 1] = requests
reply[#reply + 1] = retries
return reply
