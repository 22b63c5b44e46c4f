-- Stands ahead of the scripts of the fleet. `now` is the time in ms as text, by the clock of Redis, so that replicas
-- need no common clock; `time` is the same as Redis gives it.
--
-- '\31' parts the fields of a lease (host, lane, id, marks, when it began in ms), of a ticket (id, lane, host, caller,
-- session, since when it waits in ms), and of whoever was served (lane, caller, and session if it is one; '' stands for all
-- who are not remembered one by one).

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
