//! What every store promises, held against the embedded one, in memory and on disk, and against a real Redis, Valkey
//! and Redis Cluster.

#![cfg(test)]

/// Holds each promise, a function of a [`Subject`], against every store.
macro_rules! contract {
    ($($promise:ident,)*) => {
        mod embedded {
            $(#[tokio::test]
            async fn $promise() -> anyhow::Result<()> {
                super::$promise(crate::embedded().await?).await
            })*
        }
        mod embedded_database {
            $(#[tokio::test]
            async fn $promise() -> anyhow::Result<()> {
                super::$promise(crate::on_disk().await?).await
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $promise() -> anyhow::Result<()> {
                super::$promise(crate::over_redis().await?).await
            })*
        }
        mod cluster {
            $(#[tokio::test]
            async fn $promise() -> anyhow::Result<()> {
                super::$promise(crate::over_cluster().await?).await
            })*
        }
        mod valkey {
            $(#[tokio::test]
            async fn $promise() -> anyhow::Result<()> {
                super::$promise(crate::over_valkey().await?).await
            })*
        }
    };
}
use contract;

mod embedded;
mod embedded_database;
mod failing_disk;
mod fleet;
mod fleet_redis;
mod metrics;
mod redis;
mod shares;
mod store;

use std::{any::Any, sync::Arc, time::Duration};

use anyhow::Result;
use host_shim::disk_store::{DiskLimits, DiskStore};
use paddock::{
    api::auth::CallerId,
    cache::{CacheKey, Chat, Delivery, Entry, Epochs, KeyContext},
    host::memory::ManualClock,
    session::{Dialect, RawMessage, SessionId, SessionKey, Span, Turn},
    store::{FlightKey, Sessions, Store, StoreTimeouts, memory::MemoryStore, redis::RedisStore},
};
use paddock_tests::{
    redis_cluster::RedisCluster, redis_commands::Connection, redis_server::RedisServer, setup::Setup,
};
use serde_json::{json, value::to_raw_value};
use tempfile::TempDir;

/// The key of a question that is nothing but its text.
fn key(question: &str) -> CacheKey {
    let caller = CallerId::public();
    let context =
        KeyContext { path: "/chat", caller: Some(&caller), digest: [0; 32], epochs: Epochs::default() };
    let messages = [question];
    let chat =
        Chat { model: "m", messages: &messages, format: None, options: None, think: None, tools: None };
    CacheKey::of_chat(&context, &chat)
}

/// That question, asked for in one piece.
fn asked(question: &str) -> FlightKey {
    FlightKey { key: key(question), form: Delivery::Whole }
}

fn answer(text: &str) -> Entry {
    Entry::new(Delivery::Whole, "application/json", text.to_owned().into())
}

/// Text that nothing makes smaller.
fn noise(bytes: usize, seed: u64) -> String {
    let mut state = seed;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + u8::try_from(state >> 58).unwrap_or_default())
    });
    letters.take(bytes).collect()
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

struct OnDisk {
    clock: ManualClock,
    store: DiskStore<ManualClock>,
    directory: TempDir,
}

/// Limits that no test meets by accident.
const ROOMY: DiskLimits = DiskLimits { memory: 8 << 20, disk: 1 << 30, wait: Duration::from_secs(20) };

async fn on_disk() -> Result<OnDisk> {
    let (clock, directory) = (ManualClock::default(), TempDir::new()?);
    Ok(OnDisk { store: DiskStore::open(directory.path(), ROOMY, clock.clone())?, clock, directory })
}

impl OnDisk {
    /// Closes the database and opens it again, as a process does that follows another.
    async fn again(self) -> Result<Self> {
        self.store.close().await;
        let Self { clock, store, directory } = self;
        drop(store);
        Ok(Self { store: DiskStore::open(directory.path(), ROOMY, clock.clone())?, clock, directory })
    }
}

impl Subject for OnDisk {
    type Store = DiskStore<ManualClock>;

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
    _server: Arc<dyn Any + Send + Sync>,
}

async fn over_redis() -> Result<OverRedis> {
    let server = RedisServer::shared()?;
    Ok(OverRedis::new(Connection::open(&server).await?, server))
}

async fn over_cluster() -> Result<OverRedis> {
    let cluster = RedisCluster::shared().await?;
    Ok(OverRedis::new(Connection::open_cluster(&cluster).await?, cluster))
}

async fn over_valkey() -> Result<OverRedis> {
    let server = RedisServer::shared_valkey()?;
    Ok(OverRedis::new(Connection::open(&server).await?, server))
}

impl OverRedis {
    fn new(connection: Connection, server: Arc<dyn Any + Send + Sync>) -> Self {
        let prefix = Setup::new([]).prefix().to_owned();
        let store = RedisStore::new(connection.clone(), &prefix, limits(Duration::from_secs(20)));
        Self { store, connection, prefix, _server: server }
    }
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
    let session = store.session(key, Span::ALL, Duration::from_hours(1)).await?;
    Ok(session.map(|session| session.turns).unwrap_or_default())
}

/// One limit for everything.
fn limits(limit: Duration) -> StoreTimeouts {
    StoreTimeouts { ask: limit, keep: limit }
}

fn session(id: &str) -> Result<SessionKey> {
    Ok(SessionKey::of(&CallerId::public(), &SessionId::parse(id)?))
}
