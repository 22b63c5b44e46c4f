-- Adds one request to the counters. A model gets a label of its own once it answered, while there are labels left.
--
-- KEYS: counters, models.
-- ARGV:
--   1 model, '' for none
--   2 '1' when it answered, else '0'
--   3 how many models have a label of their own
--   4 the label of the others
--   5 and on: for each field its name before the model's label, its name after it, '1' when it has the label and else
--     '0', and the amount
-- Replies: 1.

local model = ARGV[4]
if ARGV[1] ~= '' then
  if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then
    model = ARGV[1]
  elseif ARGV[2] == '1' and redis.call('SCARD', KEYS[2]) < tonumber(ARGV[3]) then
    redis.call('SADD', KEYS[2], ARGV[1])
    model = ARGV[1]
  end
end
for i = 5, #ARGV, 4 do
  local field = ARGV[i]
  if ARGV[i + 2] == '1' then field = field .. model .. ARGV[i + 1] end
  redis.call('HINCRBY', KEYS[1], field, ARGV[i + 3])
end
return 1
