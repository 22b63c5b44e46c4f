//! The store over Redis, written once for both forms.
//!
//! It speaks through [`RedisCommands`], which the Spin host and the native host implement. Every command and
//! script touches one key or one hash slot, no command blocks, and each carries its limit.

mod fleet;

use std::{future::Future, time::Duration};

use crate::{
    cache::{CacheKey, CachedAnswer},
    host::{MaybeSend, MaybeSync},
    session::{SessionKey, Turn},
    store::{Outage, ResponseCache, Sessions, Store, StoreError, StoreResult},
};

/// One element of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisValue {
    /// Nothing there.
    Nil,
    /// A number.
    Integer(i64),
    /// A simple string such as `OK`.
    Status(String),
    /// A bulk string.
    Bytes(Vec<u8>),
}

/// Sends commands to Redis.
pub trait RedisCommands: MaybeSend + MaybeSync {
    /// Executes one command within `limit`, connection included; its reply is flat, as Spin gives it: a scalar is
    /// one element, nested arrays are joined. Commands executed at the same time share a round trip.
    fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: Duration,
    ) -> impl Future<Output = StoreResult<Vec<RedisValue>>> + MaybeSend;
}

/// KEYS: the session. ARGV: turn id, turn, time to live in ms, turns to keep.
/// The id is looked for among the newest turns only: a repetition comes soon or never.
const APPEND: &[u8] = b"
for _, turn in ipairs(redis.call('LRANGE', KEYS[1], -16, -1)) do
  if string.find(turn, ARGV[1], 1, true) then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return 0
  end
end
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[4]), -1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
";

/// The store over Redis.
#[derive(Debug)]
pub struct RedisStore<C> {
    commands: C,
    prefix: String,
    limit: Duration,
    outage: Outage,
}

impl<C: RedisCommands> RedisStore<C> {
    /// A store whose keys begin with `prefix` and whose commands take `limit` at most.
    pub fn new(commands: C, prefix: &str, limit: Duration) -> Self {
        Self { commands, prefix: prefix.to_owned(), limit, outage: Outage::default() }
    }

    async fn execute(&self, command: &'static str, arguments: &[&[u8]]) -> StoreResult<Vec<RedisValue>> {
        self.commands.execute(command, arguments, self.limit).await
    }

    fn key(&self, kind: &str, name: &[u8; 32]) -> Vec<u8> {
        let mut key = format!("{}:{kind}:", self.prefix).into_bytes();
        key.extend(name.iter().flat_map(|byte| hex(*byte)));
        key
    }
}

fn hex(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    [digit(byte >> 4), digit(byte & 15)]
}

fn milliseconds(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

impl<C: RedisCommands> ResponseCache for RedisStore<C> {
    async fn answer(&self, key: &CacheKey) -> StoreResult<Option<CachedAnswer>> {
        let key = self.key("cache:2", key.as_bytes());
        let reply = self.execute("GET", &[&key]).await?;
        match reply.into_iter().next() {
            Some(RedisValue::Bytes(value)) => Ok(CachedAnswer::from_json(&value)),
            Some(RedisValue::Nil) | None => Ok(None),
            Some(RedisValue::Integer(_) | RedisValue::Status(_)) => Err(StoreError::UnexpectedReply("GET")),
        }
    }

    async fn put_answer(&self, key: &CacheKey, answer: &CachedAnswer, ttl: Duration) -> StoreResult<()> {
        let key = self.key("cache:2", key.as_bytes());
        self.execute("SET", &[&key, &answer.to_json(), b"PX", milliseconds(ttl).as_bytes()]).await?;
        Ok(())
    }
}

impl<C: RedisCommands> Sessions for RedisStore<C> {
    async fn turns(&self, key: &SessionKey, ttl: Duration) -> StoreResult<Vec<Turn>> {
        let key = self.key("session:2", key.as_bytes());
        let ttl = milliseconds(ttl);
        let (range, renewal): ([&[u8]; 3], [&[u8]; 2]) = ([&key, b"0", b"-1"], [&key, ttl.as_bytes()]);
        let (turns, renewed) =
            futures::join!(self.execute("LRANGE", &range), self.execute("PEXPIRE", &renewal));
        renewed?;
        let turns = turns?.into_iter().filter_map(|value| match value {
            RedisValue::Bytes(turn) => Turn::from_json(&turn),
            RedisValue::Nil | RedisValue::Integer(_) | RedisValue::Status(_) => None,
        });
        Ok(turns.collect())
    }

    async fn append_turn(
        &self,
        key: &SessionKey,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<()> {
        let key = self.key("session:2", key.as_bytes());
        let value = serde_json::to_vec(turn).unwrap_or_default();
        let (ttl, keep) = (milliseconds(ttl), keep.max(1).to_string());
        let arguments: [&[u8]; 7] =
            [APPEND, b"1", &key, turn.id.as_bytes(), &value, ttl.as_bytes(), keep.as_bytes()];
        self.execute("EVAL", &arguments).await?;
        Ok(())
    }
}

impl<C: RedisCommands> Store for RedisStore<C> {
    async fn next_turn(&self) -> StoreResult<u64> {
        let key = format!("{}:turn:1", self.prefix);
        let reply = self.execute("INCR", &[key.as_bytes()]).await?;
        match reply.first() {
            Some(RedisValue::Integer(count)) => Ok(u64::try_from(count - 1).unwrap_or_default()),
            Some(RedisValue::Nil | RedisValue::Status(_) | RedisValue::Bytes(_)) | None => {
                Err(StoreError::UnexpectedReply("INCR"))
            }
        }
    }

    async fn ping(&self) -> StoreResult<()> {
        self.execute("PING", &[]).await?;
        Ok(())
    }

    fn outage(&self) -> &Outage {
        &self.outage
    }
}
