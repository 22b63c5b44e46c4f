//! The store over Redis, written once for both forms.
//!
//! It speaks through [`RedisCommands`], which the Spin host and the native host implement. Every command and
//! script touches one key or one hash slot, no command blocks, and each carries its limit.

mod cache;
mod fleet;
mod sessions;

use std::{future::Future, time::Duration};

use crate::{
    host::{MaybeSend, MaybeSync},
    store::{Outage, Store, StoreError, StoreResult},
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
}

fn hex(byte: u8) -> [u8; 2] {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    [digit(byte >> 4), digit(byte & 15)]
}

fn milliseconds(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
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
