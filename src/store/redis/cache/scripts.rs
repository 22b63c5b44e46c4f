//! The scripts of answers and flights. None decides anything, and each touches the keys of one question alone.

/// Takes note in the set `$audience` that `$follower` listens for `$attention` ms. Every member has its end, by the server's
/// clock, as its score.
macro_rules! listening {
    ($audience:literal, $follower:literal, $attention:literal) => {
        concat!(
            "
local time = redis.call('TIME')
local till = time[1] * 1000 + math.floor(time[2] / 1000) + ",
            $attention,
            "
redis.call('ZADD', ",
            $audience,
            ", string.format('%.0f', till), ",
            $follower,
            ")
redis.call('PEXPIRE', ",
            $audience,
            ", ",
            $attention,
            ")
"
        )
    };
}

/// KEYS: flight, audience, two answers. ARGV: who would lead, how long in ms, how long the attention of a follower holds in
/// ms, how old an answer may be in ms or ''.
/// Gives 1, the younger answer and its time to live in ms; or 2; or 3 and who leads.
pub(super) const ANSWER_OR_LEAD: &[u8] = concat!(
    "
local answer, left
for i = 3, 4 do
  local value = redis.call('GET', KEYS[i])
  if value then
    local time = redis.call('PTTL', KEYS[i])
    local ttl = ARGV[4] ~= '' and string.match(value, '\"ttl_ms\":(%d+)')
    local is_young = not ttl or ttl - time <= tonumber(ARGV[4])
    if is_young and (not answer or time > left) then answer, left = value, time end
  end
end
if answer then return {1, answer, left} end
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then",
    listening!("KEYS[2]", "ARGV[1]", "ARGV[3]"),
    "return {3, leader}
end
if not leader then redis.call('DEL', KEYS[2]) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {2}
"
)
.as_bytes();

/// Hands entries of a log over; what happens to the lead and the log before anybody is known to listen is `$lead`, and what
/// happens afterwards `$after`.
macro_rules! handing_over {
    ($lead:literal, $after:literal) => {
        concat!(
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 2 end\n",
            $lead,
            "
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
if redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
local first = redis.call('LINDEX', KEYS[2], 0)
local base = first and tonumber(string.sub(first, 1, 8)) or 0
local known = base + redis.call('LLEN', KEYS[2]) - tonumber(ARGV[4])
if known < 0 then return 2 end
for i = 6 + known, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
if tonumber(ARGV[5]) > base then redis.call('LTRIM', KEYS[2], ARGV[5] - base, -1) end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
",
            $after,
            "
return 1
"
        )
        .as_bytes()
    };
}

/// KEYS: flight, log, audience. ARGV: who leads, how long in ms, how long the log is kept in ms, how many entries were
/// handed over before, how many of all are forgotten, further entries. Those that were handed over are passed over. Each
/// entry begins with its number, so that the first one tells how many were forgotten.
/// Gives 0 when nobody listens, 1 when somebody does, 2 when somebody else leads or the log has a gap.
pub(super) const PUBLISH: &[u8] =
    handing_over!("redis.call('PEXPIRE', KEYS[1], ARGV[2]) redis.call('PEXPIRE', KEYS[2], ARGV[3])", "");

/// As the former; the flight is over, and whoever came to listen meanwhile finds how it ended.
pub(super) const END: &[u8] = handing_over!("redis.call('DEL', KEYS[1])", "redis.call('DEL', KEYS[3])");

/// KEYS: flight, log, audience. ARGV: who leads, how many entries are known, how long the attention holds in ms, who
/// follows.
/// Gives 1 while that one leads, else 0; then the entries since.
pub(super) const FOLLOW: &[u8] = concat!(
    "
local is_led = redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
if is_led == 1 then",
    listening!("KEYS[3]", "ARGV[4]", "ARGV[3]"),
    "end
local first = redis.call('LINDEX', KEYS[2], 0)
local base = first and tonumber(string.sub(first, 1, 8)) or 0
local from = tonumber(ARGV[2]) - base
if from < 0 then return {is_led, string.sub(first, 1, 8) .. 'x'} end
local reply = redis.call('LRANGE', KEYS[2], from, -1)
table.insert(reply, 1, is_led)
return reply
"
)
.as_bytes();

/// KEYS: epochs. ARGV: the model or '', how long it is remembered in ms.
pub(super) const PURGE: &[u8] = b"
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[1], ARGV[1], now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
";
