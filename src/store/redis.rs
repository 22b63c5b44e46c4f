//! The store over Redis, written once for both forms.
//!
//! It speaks through [`RedisCommands`], which the Spin host and the native host implement. Every command and
//! script touches one key or one hash slot, no command blocks, and each carries its limit.

mod breaker;
mod cache;
mod fault;
mod fleet;
mod guard;
pub(crate) mod script;
mod sessions;

use std::{future::Future, sync::Arc, time::Duration};

use super::{Outage, Store, StoreError, StoreResult, StoreTimeouts, TimeLimit, Within};
use crate::platform::{MaybeSend, MaybeSync};
pub use fault::{error_text, server_error};
pub use guard::Guard;

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
        limit: TimeLimit,
    ) -> impl Future<Output = StoreResult<Vec<RedisValue>>> + MaybeSend;

    /// Whether there is a Redis to send them to; without one every command fails as [`StoreError::Absent`].
    fn is_configured(&self) -> bool {
        true
    }

    /// Executes one write and waits until so many replicas have it, both within `limit`, on a connection that carries
    /// nothing else meanwhile. Gives the reply and how many replicas have it.
    fn execute_replicated(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        replicas: u32,
        limit: TimeLimit,
    ) -> impl Future<Output = StoreResult<(Vec<RedisValue>, u32)>> + MaybeSend;
}

/// How long a server is told to wait for its replicas when `left` is left: so much less that it still says that they did not
/// get it. Its silence would look as if it were gone itself.
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
}

impl<C: RedisCommands> RedisStore<C> {
    /// A store whose keys begin with `prefix`.
    pub fn new(commands: C, prefix: &str, timeouts: StoreTimeouts) -> Self {
        let (ask, keep) = (TimeLimit::whole(timeouts.ask), TimeLimit::whole(timeouts.keep));
        Self { commands, prefix: prefix.into(), ask, keep, replicas: 0, outage: Arc::default() }
    }

    /// A store that acknowledges a turn only when so many replicas have it.
    #[must_use]
    pub fn with_replicas(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    /// Executes what a request waits for before an upstream is asked.
    async fn ask(&self, command: &'static str, arguments: &[&[u8]]) -> StoreResult<Vec<RedisValue>> {
        if self.ask.time.is_zero() {
            return Err(self.ask.passed());
        }
        self.commands.execute(command, arguments, self.ask).await
    }

    /// Executes what keeps something, or what nobody waits for.
    async fn keep(&self, command: &'static str, arguments: &[&[u8]]) -> StoreResult<Vec<RedisValue>> {
        self.commands.execute(command, arguments, self.keep).await
    }

    /// Keeps what is to survive the server that was given it.
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

fn hex(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    [digit(byte >> 4), digit(byte & 15)]
}

fn milliseconds(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

impl<C: RedisCommands + Clone> Store for RedisStore<C> {
    fn is_shared(&self) -> bool {
        self.commands.is_configured()
    }

    fn timeouts(&self) -> StoreTimeouts {
        StoreTimeouts { ask: self.ask.time, keep: self.keep.time }
    }

    fn within(&self, limit: TimeLimit) -> Within<'_, Self> {
        Within::Limited(Self { ask: limit, ..self.clone() })
    }

    async fn next_sequence(&self) -> StoreResult<u64> {
        let key = format!("{}:turn:1", self.prefix);
        let reply = self.ask("INCR", &[key.as_bytes()]).await?;
        match reply.first() {
            Some(RedisValue::Integer(count)) => Ok(u64::try_from(count - 1).unwrap_or_default()),
            Some(RedisValue::Nil | RedisValue::Status(_) | RedisValue::Bytes(_)) | None => {
                Err(StoreError::UnexpectedReply("INCR"))
            }
        }
    }

    async fn ping(&self) -> StoreResult<()> {
        self.keep(guard::PROBE, &[]).await?;
        Ok(())
    }

    fn outage(&self) -> &Outage {
        &self.outage
    }
}
