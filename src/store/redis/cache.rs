//! Answers, in Redis: one value each, with its end.

use std::time::Duration;

use crate::{
    cache::{CacheKey, CachedAnswer},
    store::{
        ResponseCache, StoreError, StoreResult,
        redis::{RedisCommands, RedisStore, RedisValue, milliseconds},
    },
};

impl<C: RedisCommands> ResponseCache for RedisStore<C> {
    async fn answer(&self, key: &CacheKey) -> StoreResult<Option<CachedAnswer>> {
        let key = self.key("cache:2", key.as_bytes());
        let reply = self.ask("GET", &[&key]).await?;
        match reply.into_iter().next() {
            Some(RedisValue::Bytes(value)) => Ok(CachedAnswer::from_json(&value)),
            Some(RedisValue::Nil) | None => Ok(None),
            Some(RedisValue::Integer(_) | RedisValue::Status(_)) => Err(StoreError::UnexpectedReply("GET")),
        }
    }

    async fn put_answer(&self, key: &CacheKey, answer: &CachedAnswer, ttl: Duration) -> StoreResult<()> {
        let key = self.key("cache:2", key.as_bytes());
        self.keep("SET", &[&key, &answer.to_json(), b"PX", milliseconds(ttl).as_bytes()]).await?;
        Ok(())
    }
}
