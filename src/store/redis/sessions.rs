//! Conversations, in Redis: a list each, whose first element is the session's head and the rest its turns.
//!
//! One key holds all of a session, so that it expires, is evicted and is deleted at once, and every script touches one
//! hash slot.

use std::time::Duration;

use crate::{
    session::{Session, SessionHead, SessionKey, Turn},
    store::{
        Sessions, StoreResult,
        redis::{RedisCommands, RedisStore, RedisValue, hex, milliseconds},
    },
};

/// What the scripts know of a head: when the session began, in ms since 1970, and its own time to live in ms, 0 for none.
/// Its JSON follows and is not theirs to read. ARGV[1] is the time to live of a session that has none of its own.
const HEAD: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function began(head) return tonumber(string.match(head, '^(%d+) ')) or now end
local function renew(head)
  local own = tonumber(string.match(head, '^%d+ (%d+) ')) or 0
  redis.call('PEXPIRE', KEYS[1], own > 0 and own or ARGV[1])
end
";

/// Gives the age in ms, the head and the turns; nothing when there is no session.
const LOAD: &str = "
local kept = redis.call('LRANGE', KEYS[1], 0, -1)
if not kept[1] then return {} end
renew(kept[1])
return {math.max(now - began(kept[1]), 0), kept}
";

/// ARGV[2], ARGV[3]: its own time to live, its JSON.
const CREATE: &str = "
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local head = string.format('%.0f ', now) .. ARGV[2] .. ' ' .. ARGV[3]
redis.call('RPUSH', KEYS[1], head)
renew(head)
return 1
";

/// ARGV[2], ARGV[3], ARGV[4]: how a turn with its id begins, the turn, how many turns to keep. ARGV[5]: when the session must
/// have begun, empty for any time.
/// The id is looked for among the newest turns only: a repetition comes soon or never.
const APPEND: &str = "
local head = redis.call('LINDEX', KEYS[1], 0)
if ARGV[5] ~= '' and not (head and string.match(head, '^(%d+) ') == ARGV[5]) then return -1 end
if not head then
  head = string.format('%.0f 0 {}', now)
  redis.call('RPUSH', KEYS[1], head)
end
for _, turn in ipairs(redis.call('LRANGE', KEYS[1], -16, -1)) do
  if string.sub(turn, 1, #ARGV[2]) == ARGV[2] then
    renew(head)
    return 0
  end
end
local count = redis.call('RPUSH', KEYS[1], ARGV[3])
if count - 1 > tonumber(ARGV[4]) then
  redis.call('LTRIM', KEYS[1], -tonumber(ARGV[4]), -1)
  redis.call('LPUSH', KEYS[1], head)
end
renew(head)
return 1
";

impl<C: RedisCommands> RedisStore<C> {
    /// What is in braces decides about the hash slot: whatever a session will ever need beside this key goes with it.
    fn session_key(&self, key: &SessionKey) -> Vec<u8> {
        let mut name = format!("{}:session:3:{{", self.prefix).into_bytes();
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
        let (text, key, ttl) = ([HEAD, script].concat(), self.session_key(key), milliseconds(ttl));
        let arguments: [&[u8]; 4] = [text.as_bytes(), b"1", &key, ttl.as_bytes()];
        let arguments = [&arguments[..], rest].concat();
        if script == LOAD {
            self.ask("EVAL", &arguments).await
        } else {
            self.keep_safe("EVAL", &arguments).await
        }
    }
}

impl<C: RedisCommands> Sessions for RedisStore<C> {
    async fn session(&self, key: &SessionKey, ttl: Duration) -> StoreResult<Option<Session>> {
        let mut kept = self.run(LOAD, key, ttl, &[]).await?.into_iter();
        let Some(RedisValue::Integer(age)) = kept.next() else { return Ok(None) };
        let mut texts = kept.filter_map(|value| match value {
            RedisValue::Bytes(text) => Some(text),
            RedisValue::Nil | RedisValue::Integer(_) | RedisValue::Status(_) => None,
        });
        let head = texts.next().unwrap_or_default();
        Ok(Some(Session {
            head: read_head(&head),
            origin: origin(&head),
            age: Duration::from_millis(u64::try_from(age).unwrap_or_default()),
            turns: texts.filter_map(|turn| Turn::from_json(&turn)).collect(),
        }))
    }

    async fn create_session(&self, key: &SessionKey, head: &SessionHead, ttl: Duration) -> StoreResult<()> {
        let own = head.ttl.map_or_else(|| "0".to_owned(), milliseconds);
        self.run(CREATE, key, ttl, &[own.as_bytes(), &head.to_json()]).await?;
        Ok(())
    }

    async fn delete_session(&self, key: &SessionKey) -> StoreResult<bool> {
        let reply = self.keep_safe("DEL", &[&self.session_key(key)]).await?;
        Ok(matches!(*reply, [RedisValue::Integer(1)]))
    }

    async fn append_turn_to(
        &self,
        key: &SessionKey,
        origin: Option<u64>,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<bool> {
        let (value, keep) = (turn.to_json(), keep.max(1).to_string());
        let origin = origin.map(|origin| origin.to_string()).unwrap_or_default();
        let beginning = format!("{{\"id\":{},", serde_json::to_string(&turn.id).unwrap_or_default());
        let arguments = [beginning.as_bytes(), &value, keep.as_bytes(), origin.as_bytes()];
        let reply = self.run(APPEND, key, ttl, &arguments).await?;
        Ok(!matches!(*reply, [RedisValue::Integer(-1)]))
    }
}

/// When a session began, by its head.
fn origin(head: &[u8]) -> Option<u64> {
    std::str::from_utf8(head.split(|byte| *byte == b' ').next()?).ok()?.parse().ok()
}

/// The head behind what is the scripts'; that of another version is an empty one.
fn read_head(head: &[u8]) -> SessionHead {
    let json = head.splitn(3, |byte| *byte == b' ').nth(2);
    json.and_then(SessionHead::from_json).unwrap_or_default()
}
