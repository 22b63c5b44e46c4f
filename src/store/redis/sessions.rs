//! Conversations, in Redis: a list of turns each.

use std::time::Duration;

use crate::{
    session::{SessionKey, Turn},
    store::{
        Sessions, StoreResult,
        redis::{RedisCommands, RedisStore, RedisValue, milliseconds},
    },
};

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

impl<C: RedisCommands> Sessions for RedisStore<C> {
    async fn turns(&self, key: &SessionKey, ttl: Duration) -> StoreResult<Vec<Turn>> {
        let key = self.key("session:2", key.as_bytes());
        let ttl = milliseconds(ttl);
        let (range, renewal): ([&[u8]; 3], [&[u8]; 2]) = ([&key, b"0", b"-1"], [&key, ttl.as_bytes()]);
        let (turns, renewed) = futures::join!(self.ask("LRANGE", &range), self.ask("PEXPIRE", &renewal));
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
        self.keep_safe("EVAL", &arguments).await?;
        Ok(())
    }
}
