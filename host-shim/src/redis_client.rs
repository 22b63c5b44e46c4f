//! The client of Redis over redis-rs: one multiplexed connection, to a server or to a cluster, that all requests share.
//!
//! Every command has its limit, connecting included. Connecting continues in the background when its command gives up,
//! and a connection without a reply within a command's limit is replaced, because its peer may be gone for good.
//!
//! Reconnecting is written by hand because redis-rs' `ConnectionManager` does not replace a connection whose peer is
//! silent for the limit of a single command.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use paddock::{
    config::RedisConfig,
    store::{
        StoreError, StoreResult, TimeLimit,
        redis::{RedisCommands, RedisValue, replicas_wait, server_error},
    },
};
use redis::{Cmd, RedisError, Value};

mod connection;
mod dial;
mod reply_limit;

use self::connection::{Connection, Opener};

/// The limit for connecting, which may outlast the command that began it.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The most idle connections for writes that wait for replicas.
const IDLE_LIMIT: usize = 16;

/// A connection that is being made or was made.
type Opening = Shared<BoxFuture<'static, StoreResult<Connection>>>;

/// The shared connection. Clones share it.
#[derive(Clone)]
pub(crate) struct RedisClient(Arc<RedisClientState>);

struct RedisClientState {
    opener: Opener,
    shared: Mutex<Numbered>,
    /// Idle connections for writes with `WAIT`, which would block the other commands on the shared connection.
    waiting: Mutex<Vec<Connection>>,
}

#[derive(Default)]
struct Numbered {
    number: u64,
    opening: Option<Opening>,
}

impl std::fmt::Debug for RedisClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RedisClient(..)")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RedisClient {
    /// A client that connects at the first command.
    ///
    /// # Errors
    /// When the address cannot be one, or the certificates cannot be read. The address is never part of the error: it
    /// may hold a password.
    pub(crate) fn new(config: &RedisConfig) -> anyhow::Result<Self> {
        let parts = RedisClientState {
            opener: Opener::new(config)?,
            shared: Mutex::default(),
            waiting: Mutex::default(),
        };
        Ok(Self(Arc::new(parts)))
    }

    /// The number of the shared connection, the connection itself, and whether it existed before.
    fn shared(&self) -> (u64, Opening, bool) {
        let mut shared = lock(&self.0.shared);
        if let Some(opening) = &shared.opening {
            match opening.peek() {
                Some(Ok(_)) => return (shared.number, opening.clone(), true),
                None => return (shared.number, opening.clone(), false),
                Some(Err(_)) => {}
            }
        }
        let opener = self.0.opener.clone();
        let opening = async move { opener.open().await }.boxed().shared();
        connect_in_background(opening.clone());
        *shared = Numbered { number: shared.number + 1, opening: Some(opening.clone()) };
        (shared.number, opening, false)
    }

    /// Drops a connection, unless another has replaced it.
    fn forget(&self, number: u64) {
        let mut shared = lock(&self.0.shared);
        if shared.number == number {
            shared.opening = None;
        }
    }

    /// Sends a command. `used` is set to the connection's number if the connection existed before.
    async fn send(&self, command: &Cmd, used: &AtomicU64) -> StoreResult<Value> {
        let (number, opening, is_known) = self.shared();
        if is_known {
            used.store(number, Ordering::Relaxed);
        }
        match opening.await?.send(command).await {
            Err(error) if is_gone(&error) => {
                self.forget(number);
                if !is_known {
                    return Err(self.fault(&error));
                }
            }
            result => return result.map_err(|error| self.fault(&error)),
        }
        // The connection died while it was idle. Every command may be sent twice.
        let (number, opening, _) = self.shared();
        let result = opening.await?.send(command).await;
        result.map_err(|error| {
            if is_gone(&error) {
                self.forget(number);
            }
            self.fault(&error)
        })
    }

    async fn send_replicated(&self, command: &Cmd, wait: &Cmd) -> StoreResult<(Value, Value)> {
        let idle = lock(&self.0.waiting).pop();
        if let Some(mut connection) = idle {
            match connection.send_both(command, wait).await {
                Err(error) if is_gone(&error) => lock(&self.0.waiting).clear(),
                result => return self.kept(connection, result),
            }
        }
        let mut connection = self.0.opener.open().await?;
        let result = connection.send_both(command, wait).await;
        self.kept(connection, result)
    }

    /// Keeps a working connection for the next write with `WAIT`.
    fn kept(
        &self,
        connection: Connection,
        result: Result<(Value, Value), RedisError>,
    ) -> StoreResult<(Value, Value)> {
        let both = result.map_err(|error| self.fault(&error))?;
        let mut waiting = lock(&self.0.waiting);
        if waiting.len() < IDLE_LIMIT {
            waiting.push(connection);
        }
        Ok(both)
    }

    fn fault(&self, error: &RedisError) -> StoreError {
        fault(error, self.0.opener.is_cluster())
    }
}

/// Makes the connection even if the command that began it gives up.
#[expect(
    clippy::disallowed_methods,
    reason = "it has a limit of its own, and nothing is lost when it is cut"
)]
fn connect_in_background(opening: Opening) {
    tokio::spawn(opening);
}

fn is_gone(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

/// Classifies an error. The client of a cluster finds a moved key by itself; if it has not yet, that says nothing about
/// the server.
fn fault(error: &RedisError, is_cluster: bool) -> StoreError {
    let text = error.to_string();
    match error.code() {
        Some(_) if is_cluster && error.is_cluster_error() => StoreError::Unavailable(text),
        Some(code) => server_error(code, text),
        None => StoreError::Unavailable(text),
    }
}

fn packed(command: &'static str, arguments: &[&[u8]]) -> Cmd {
    let mut packed = redis::cmd(command);
    for argument in arguments {
        packed.arg(*argument);
    }
    packed
}

impl RedisCommands for RedisClient {
    async fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: TimeLimit,
    ) -> StoreResult<Vec<RedisValue>> {
        let (packed, used) = (packed(command, arguments), AtomicU64::new(0));
        let Ok(sent) = tokio::time::timeout(limit.time, self.send(&packed, &used)).await else {
            if limit.is_whole {
                self.forget(used.into_inner());
            }
            return Err(limit.passed());
        };
        let mut flat = Vec::new();
        flatten(command, sent?, &mut flat)?;
        Ok(flat)
    }

    async fn execute_replicated(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        replicas: u32,
        limit: TimeLimit,
    ) -> StoreResult<(Vec<RedisValue>, u32)> {
        // The client of a cluster waits for no reply longer than this.
        let left = if self.0.opener.is_cluster() { limit.time.min(CONNECT_LIMIT) } else { limit.time };
        let mut wait = redis::cmd("WAIT");
        wait.arg(replicas).arg(replicas_wait(left).as_millis().max(1).to_string());
        let packed = packed(command, arguments);
        let sent = self.send_replicated(&packed, &wait);
        let (reply, waited) = tokio::time::timeout(limit.time, sent).await.map_err(|_| limit.passed())??;
        let mut flat = Vec::new();
        flatten(command, reply, &mut flat)?;
        let mut reached = Vec::new();
        flatten("WAIT", waited, &mut reached)?;
        match reached.first() {
            Some(RedisValue::Integer(reached)) => Ok((flat, u32::try_from(*reached).unwrap_or_default())),
            Some(RedisValue::Nil | RedisValue::Status(_) | RedisValue::Bytes(_)) | None => {
                Err(StoreError::UnexpectedReply("WAIT"))
            }
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum may grow; what we do not ask for is unexpected")]
fn flatten(command: &'static str, value: Value, flat: &mut Vec<RedisValue>) -> StoreResult<()> {
    match value {
        Value::Nil => flat.push(RedisValue::Nil),
        Value::Int(number) => flat.push(RedisValue::Integer(number)),
        Value::BulkString(bytes) => flat.push(RedisValue::Bytes(bytes)),
        Value::SimpleString(text) => flat.push(RedisValue::Status(text)),
        Value::Okay => flat.push(RedisValue::Status("OK".to_owned())),
        Value::Array(values) => {
            for value in values {
                flatten(command, value, flat)?;
            }
        }
        // Of a cluster, what each node says of itself stands behind its address.
        Value::Map(pairs) => {
            for (name, value) in pairs {
                flatten(command, name, flat)?;
                flatten(command, value, flat)?;
            }
        }
        Value::ServerError(error) => return Err(server_error(error.code(), error.to_string())),
        _ => return Err(StoreError::UnexpectedReply(command)),
    }
    Ok(())
}
