//! Conversations, in Redis: a hash each, with what holds for the session and its turns by number.
//!
//! One key holds all of a session, so that it expires, is evicted and is deleted at once, and every script touches one
//! hash slot: the second key is the list in which the version before kept it, in the same slot. What lies there is moved
//! over by whichever script comes by first, and turns that an older replica adds later are moved behind the others.

use std::time::Duration;

use super::{RedisCommands, RedisStore, RedisValue, hex, milliseconds};
use crate::{
    session::{KEPT_BYTES, Session, SessionHead, SessionKey, Span, Turn},
    store::{Sessions, StoreResult},
};

/// The fields of a session's hash:
///
/// - `head`: when it began, in ms since 1970, and its own time to live in ms, 0 for none; its JSON follows and is not the
///   scripts' to read;
/// - `told`: the system message of the newest turn that had one;
/// - `first`, `next`, `bytes`: the number of the oldest turn, the number that the next turn gets, the bytes of all turns;
/// - a turn under its number, and its number under `i` and its id.
///
/// ARGV[1] is the time to live of a session that has none of its own.
const COMMON: &str = "
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
local function id_of(turn) return string.match(turn, '^{\"id\":\"([^\"\\\\]*)\"') end
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
";

/// ARGV[2], ARGV[3], ARGV[4]: the id of the turn before which it reads, empty for none, how many turns, how many bytes.
/// Gives the age in ms, how many turns came before, the head, what was system, and the turns, newest first; nothing when
/// there is no session.
const LOAD: &str = "
if not head then return {} end
renew(head)
local about = redis.call('HMGET', KEYS[1], 'first', 'next', 'told', 'i' .. ARGV[2])
local first, place = tonumber(about[1]), tonumber(about[2])
if ARGV[2] ~= '' then place = tonumber(about[4]) or first end
local turns, wanted, left = {}, tonumber(ARGV[3]), tonumber(ARGV[4])
while place > first and #turns < wanted and left >= 0 do
  place = place - 1
  local turn = redis.call('HGET', KEYS[1], string.format('%.0f', place)) or ''
  turns[#turns + 1] = turn
  left = left - #turn
end
return {math.max(now - began(head), 0), place, head, about[3], turns}
";

/// ARGV[2], ARGV[3]: its own time to live, its JSON.
const CREATE: &str = "
if head then return 0 end
head = string.format('%.0f ', now) .. ARGV[2] .. ' ' .. ARGV[3]
begin(head)
renew(head)
return 1
";

/// ARGV[2], ARGV[3]: the turn's id, the turn; ARGV[4], ARGV[5]: how many turns to keep, and how many bytes of them; ARGV[6]:
/// when the session must have begun, empty for any time; ARGV[7], if there is one: the system message that the turn brings.
const APPEND: &str = "
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
";

/// A session is there in either form.
const DELETE: &str = "return redis.call('DEL', KEYS[1], KEYS[2])";

impl<C: RedisCommands> RedisStore<C> {
    /// What is in braces decides about the hash slot: whatever a session will ever need beside this key goes with it.
    fn session_key(&self, version: u8, key: &SessionKey) -> Vec<u8> {
        let mut name = format!("{}:session:{version}:{{", self.prefix).into_bytes();
        name.extend(key.as_bytes().iter().flat_map(|byte| hex(*byte)));
        name.push(b'}');
        name
    }

    async fn run(
        &self,
        script: &str,
        key: &SessionKey,
        ttl: Duration,
        rest: &[&[u8]],
    ) -> StoreResult<Vec<RedisValue>> {
        let (text, ttl) = ([COMMON, script].concat(), milliseconds(ttl));
        let (key, old) = (self.session_key(4, key), self.session_key(3, key));
        let arguments: [&[u8]; 5] = [text.as_bytes(), b"2", &key, &old, ttl.as_bytes()];
        let arguments = [&arguments[..], rest].concat();
        if script == LOAD {
            self.ask("EVAL", &arguments).await
        } else {
            self.keep_safe("EVAL", &arguments).await
        }
    }
}

impl<C: RedisCommands> Sessions for RedisStore<C> {
    async fn session(&self, key: &SessionKey, span: Span<'_>, ttl: Duration) -> StoreResult<Option<Session>> {
        let before = span.before.unwrap_or_default();
        let (turns, bytes) = (span.turns.to_string(), span.bytes.to_string());
        let mut kept = self
            .run(LOAD, key, ttl, &[before.as_bytes(), turns.as_bytes(), bytes.as_bytes()])
            .await?
            .into_iter();
        let (Some(RedisValue::Integer(age)), Some(RedisValue::Integer(skipped))) = (kept.next(), kept.next())
        else {
            return Ok(None);
        };
        let text = |value| match value {
            RedisValue::Bytes(text) => Some(text),
            RedisValue::Nil | RedisValue::Integer(_) | RedisValue::Status(_) => None,
        };
        let head = kept.next().and_then(text).unwrap_or_default();
        let system = kept.next().and_then(text).and_then(|text| String::from_utf8(text).ok());
        let mut turns: Vec<_> = kept.filter_map(text).filter_map(|turn| Turn::from_json(&turn)).collect();
        turns.reverse();
        Ok(Some(Session {
            head: read_head(&head),
            generation: generation(&head),
            age: Duration::from_millis(u64::try_from(age).unwrap_or_default()),
            system,
            skipped: usize::try_from(skipped).unwrap_or_default(),
            turns,
        }))
    }

    async fn create_session(&self, key: &SessionKey, head: &SessionHead, ttl: Duration) -> StoreResult<()> {
        let own = head.ttl.map_or_else(|| "0".to_owned(), milliseconds);
        self.run(CREATE, key, ttl, &[own.as_bytes(), &head.to_json()]).await?;
        Ok(())
    }

    async fn delete_session(&self, key: &SessionKey) -> StoreResult<bool> {
        let (key, old) = (self.session_key(4, key), self.session_key(3, key));
        let reply = self.keep_safe("EVAL", &[DELETE.as_bytes(), b"2", &key, &old]).await?;
        Ok(matches!(*reply, [RedisValue::Integer(deleted)] if deleted > 0))
    }

    async fn append_turn_to(
        &self,
        key: &SessionKey,
        generation: Option<u64>,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<bool> {
        let (value, keep, bytes) = (turn.to_json(), keep.to_string(), KEPT_BYTES.to_string());
        let generation = generation.map(|generation| generation.to_string()).unwrap_or_default();
        let mut rest: Vec<&[u8]> = vec![turn.id.as_bytes(), &value];
        rest.extend([&keep, &bytes, &generation].map(String::as_bytes));
        rest.extend(turn.system.as_deref().map(str::as_bytes));
        let reply = self.run(APPEND, key, ttl, &rest).await?;
        Ok(!matches!(*reply, [RedisValue::Integer(-1)]))
    }
}

/// When a session began, by its head.
fn generation(head: &[u8]) -> Option<u64> {
    std::str::from_utf8(head.split(|byte| *byte == b' ').next()?).ok()?.parse().ok()
}

/// The head behind what is the scripts'; that of another version is an empty one.
fn read_head(head: &[u8]) -> SessionHead {
    let json = head.splitn(3, |byte| *byte == b' ').nth(2);
    json.and_then(SessionHead::from_json).unwrap_or_default()
}
