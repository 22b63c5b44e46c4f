//! What every store promises, held against the embedded one and against a real Redis.

#![cfg(test)]

/// Holds each promise, a function of a [`Subject`], against both stores.
macro_rules! contract {
    ($($promise:ident,)*) => {
        mod embedded {
            $(#[tokio::test]
            async fn $promise() -> anyhow::Result<()> {
                super::$promise(crate::embedded().await?).await
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $promise() -> anyhow::Result<()> {
                super::$promise(crate::over_redis().await?).await
            })*
        }
    };
}
use contract;

mod embedded;
mod fleet;
mod fleet_redis;
mod metrics;
mod redis;
mod store;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use paddock::{
    cache::{CacheKey, CachedAnswer, Question},
    caller::Scope,
    memory_host::ManualClock,
    session::{Dialect, RawMessage, SessionKey, Turn},
    store::{Sessions, Store, memory::MemoryStore, redis::RedisStore},
};
use paddock_tests::{redis_commands::Connection, redis_server::RedisServer, setup::Setup};
use serde_json::{json, value::to_raw_value};

/// The key of a question that is nothing but its text.
fn key(question: &str) -> CacheKey {
    let scope = Scope::public();
    let messages = [question];
    CacheKey::of(&Question {
        scope: &scope,
        model: "m",
        messages: &messages,
        format: None,
        options: None,
        think: None,
        tools: None,
    })
}

fn answer(text: &str) -> CachedAnswer {
    let mut answer = CachedAnswer::default();
    text.clone_into(&mut answer.spoken.text);
    answer
}

fn message(role: &str, content: &str) -> RawMessage {
    RawMessage::from(to_raw_value(&json!({ "role": role, "content": content })).unwrap())
}

/// A question with its answer.
fn exchange(id: &str, question: &str, answer: &str) -> Turn {
    Turn {
        id: id.to_owned(),
        dialect: Dialect::Ollama,
        system: None,
        messages: vec![message("user", question), message("assistant", answer)],
        prompt: None,
    }
}

/// A store with what makes its time pass.
trait Subject {
    type Store: Store;

    fn store(&self) -> &Self::Store;

    async fn pass(&self, time: Duration);
}

struct Embedded {
    clock: ManualClock,
    store: MemoryStore<ManualClock>,
}

#[expect(clippy::unused_async, reason = "the other one connects")]
async fn embedded() -> Result<Embedded> {
    let clock = ManualClock::default();
    Ok(Embedded { store: MemoryStore::new(clock.clone(), 64 << 20), clock })
}

impl Subject for Embedded {
    type Store = MemoryStore<ManualClock>;

    fn store(&self) -> &Self::Store {
        &self.store
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

struct OverRedis {
    store: RedisStore<Connection>,
    connection: Connection,
    prefix: String,
    _server: Arc<RedisServer>,
}

async fn over_redis() -> Result<OverRedis> {
    let server = RedisServer::shared()?;
    let connection = Connection::open(&server).await?;
    let prefix = Setup::new([]).prefix().to_owned();
    let store = RedisStore::new(connection.clone(), &prefix, Duration::from_secs(20));
    Ok(OverRedis { store, connection, prefix, _server: server })
}

impl Subject for OverRedis {
    type Store = RedisStore<Connection>;

    fn store(&self) -> &Self::Store {
        &self.store
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// The turns of a session; none when there is no session.
async fn turns(store: &impl Sessions, key: &SessionKey) -> Result<Vec<Turn>> {
    let session = store.session(key, Duration::from_hours(1)).await?;
    Ok(session.map(|session| session.turns).unwrap_or_default())
}

fn session(id: &str) -> Result<SessionKey> {
    Ok(SessionKey::of(&Scope::public(), id)?)
}
