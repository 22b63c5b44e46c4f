//! The store over Redis, written once for both deployments.
//!
//! It sends commands through [`RedisCommands`], which the native and the Spin platform implement. Every command and
//! script touches one key or one hash slot, no command blocks, and each has a time limit.

mod breaker;
mod cache;
mod fault;
mod fleet;
mod guard;
mod memory;
pub(crate) mod script;
mod sessions;

use std::{
    future::Future,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use super::{Outage, Store, StoreError, StoreResult, StoreTimeouts, TimeLimit, Within};
use crate::{
    fleet::local::LocalFleet,
    platform::{Locked, MaybeSend, MaybeSync},
};
pub use fault::{error_text, server_error};
pub use guard::Guard;
use memory::ServerMemory;

/// One element of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisValue {
    /// No value.
    Nil,
    /// A number.
    Integer(i64),
    /// A simple string such as `OK`.
    Status(String),
    /// A bulk string.
    Bytes(Vec<u8>),
}

/// The port for sending commands to Redis.
pub trait RedisCommands: MaybeSend + MaybeSync {
    /// Executes one command within `limit`, connecting included. The reply is flat, as Spin returns it: a scalar is one
    /// element, nested arrays are joined. Commands executed at the same time share a round trip.
    fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: TimeLimit,
    ) -> impl Future<Output = StoreResult<Vec<RedisValue>>> + MaybeSend;

    /// Whether a Redis is configured; without one every command fails with [`StoreError::Absent`].
    fn is_configured(&self) -> bool {
        true
    }

    /// Executes one write and waits until `replicas` replicas have it, both within `limit`, on a connection that
    /// carries nothing else meanwhile. Returns the reply and the number of replicas that have it.
    fn execute_replicated(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        replicas: u32,
        limit: TimeLimit,
    ) -> impl Future<Output = StoreResult<(Vec<RedisValue>, u32)>> + MaybeSend;
}

/// How long `WAIT` may take when `left` is left of the limit: less than that, so that the server can still report
/// missing replicas. Without its reply the server would look dead.
pub fn replicas_wait(left: Duration) -> Duration {
    left * 3 / 4
}

/// The store over Redis. Clones share it.
#[derive(Debug, Clone)]
pub struct RedisStore<C> {
    commands: C,
    prefix: Arc<str>,
    ask: TimeLimit,
    keep: TimeLimit,
    replicas: u32,
    outage: Arc<Outage>,
    /// The most bytes of answers that the operator has set.
    cache_limit: Option<u64>,
    /// The most bytes of a reply.
    reply_limit: u64,
    /// What the server said of its memory; `None` until it was asked.
    memory: Arc<Locked<Option<ServerMemory>>>,
    /// Whether the server is known to have epochs.
    has_epochs: Arc<AtomicBool>,
}

impl<C: RedisCommands> RedisStore<C> {
    /// A store whose keys begin with `prefix`.
    pub fn new(commands: C, prefix: &str, timeouts: StoreTimeouts) -> Self {
        let (ask, keep) = (TimeLimit::whole(timeouts.ask), TimeLimit::whole(timeouts.keep));
        Self {
            commands,
            prefix: prefix.into(),
            ask,
            keep,
            replicas: 0,
            outage: Arc::default(),
            cache_limit: None,
            reply_limit: u64::MAX,
            memory: Arc::default(),
            has_epochs: Arc::default(),
        }
    }

    /// The store, which keeps so many bytes of answers at most, and not what the server's memory suggests.
    #[must_use]
    pub fn with_cache_limit(self, cache_limit: Option<u64>) -> Self {
        Self { cache_limit, ..self }
    }

    /// The store, which never asks for a session's turns beyond so many bytes in one reply. The port need not read more.
    #[must_use]
    pub fn with_reply_limit(self, reply_limit: u64) -> Self {
        Self { reply_limit, ..self }
    }

    /// The store, which acknowledges a turn only when that many replicas have it.
    #[must_use]
    pub fn with_replicas(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    /// Asks the server how much memory it may use. One that does not tell, or forbids to ask, is asked no more until the next
    /// ping.
    async fn learn_memory(&self) {
        let info = self.keep("INFO", &[b"memory"]).await;
        let told = match info {
            Ok(told) => told,
            Err(StoreError::Refused(_) | StoreError::UnexpectedReply(_)) => Vec::new(),
            Err(_) => return,
        };
        // Of a cluster each node tells of itself.
        let texts = told.iter().filter_map(|value| match value {
            RedisValue::Bytes(text) => Some(String::from_utf8_lossy(text)),
            RedisValue::Nil | RedisValue::Integer(_) | RedisValue::Status(_) => None,
        });
        let memory = texts.map(|text| ServerMemory::read(&text)).reduce(ServerMemory::and);
        *self.memory.lock() = Some(memory.unwrap_or_default());
    }

    /// The most bytes of answers; `None` while that is not known.
    fn answers_limit(&self) -> Option<u64> {
        self.cache_limit.or_else(|| self.memory.lock().as_ref().map(ServerMemory::answers))
    }

    /// The most bytes of sessions; `None` where only their ends bound them, or while that is not known.
    fn sessions_limit(&self) -> Option<u64> {
        self.memory.lock().as_ref().and_then(ServerMemory::sessions)
    }

    /// Executes a command that a request waits for before it asks upstream.
    async fn ask(&self, command: &'static str, arguments: &[&[u8]]) -> StoreResult<Vec<RedisValue>> {
        if self.ask.time.is_zero() {
            return Err(self.ask.passed());
        }
        self.commands.execute(command, arguments, self.ask).await
    }

    /// Executes a command that stores something, or that no request waits for.
    async fn keep(&self, command: &'static str, arguments: &[&[u8]]) -> StoreResult<Vec<RedisValue>> {
        self.commands.execute(command, arguments, self.keep).await
    }

    /// Executes a command whose effect must survive the loss of the server.
    async fn keep_safe(&self, command: &'static str, arguments: &[&[u8]]) -> StoreResult<Vec<RedisValue>> {
        if self.replicas == 0 {
            return self.keep(command, arguments).await;
        }
        let (replicas, limit) = (self.replicas, self.keep);
        let (reply, reached) = self.commands.execute_replicated(command, arguments, replicas, limit).await?;
        if reached < replicas {
            return Err(StoreError::Refused(format!("{reached} of {replicas} replicas have it")));
        }
        Ok(reply)
    }
}

fn milliseconds_text(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

impl<C: RedisCommands + Clone> Store for RedisStore<C> {
    type Answers = Self;
    type Flights = Self;
    type Sessions = Self;
    type Fleet = Self;
    type Inventories = Self;

    fn answers(&self) -> &Self {
        self
    }

    fn flights(&self) -> &Self {
        self
    }

    fn sessions(&self) -> &Self {
        self
    }

    fn fleet(&self) -> &Self {
        self
    }

    fn inventories(&self) -> &Self {
        self
    }

    fn is_shared(&self) -> bool {
        self.commands.is_configured()
    }

    fn local_fleet(&self) -> Option<Arc<LocalFleet>> {
        None
    }

    fn timeouts(&self) -> StoreTimeouts {
        StoreTimeouts { ask: self.ask.time, keep: self.keep.time }
    }

    fn within(&self, limit: TimeLimit) -> Within<'_, Self> {
        Within::Limited(Self { ask: limit, ..self.clone() })
    }

    async fn ping(&self) -> StoreResult<()> {
        let (answer, ()) = futures::join!(self.keep(guard::PROBE, &[]), self.learn_memory());
        answer.map(drop)
    }

    fn warning(&self) -> Option<String> {
        self.memory.lock().as_ref().and_then(ServerMemory::warning)
    }

    fn outage(&self) -> &Outage {
        &self.outage
    }
}
