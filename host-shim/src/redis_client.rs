//! Redis through redis-rs: one multiplexed connection that all requests share and that comes back by itself.
//!
//! Every command has its limit, connection included, and none waits for a reconnection longer than that.

use std::time::Duration;

use anyhow::Context as _;
use paddock::{
    config::RedisConfig,
    store::{
        StoreError, StoreResult,
        redis::{RedisCommands, RedisValue},
    },
};
use redis::{
    Client, Cmd, RedisError, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

/// Limit for making a connection, which may outlive the command that wanted it.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// The shared connection.
#[derive(Clone)]
pub(crate) struct RedisClient(ConnectionManager);

impl std::fmt::Debug for RedisClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RedisClient(..)")
    }
}

impl RedisClient {
    /// A client that connects at the first command.
    ///
    /// # Errors
    /// When the address cannot be one. Its text is never part of the error: it may hold a password.
    pub(crate) fn new(config: &RedisConfig) -> anyhow::Result<Self> {
        let client = Client::open(config.url.as_str())
            .map_err(|_| anyhow::anyhow!("REDIS_URL or one of the REDIS_ settings is no Redis address"))?;
        // No retries: a command that meets a dead connection starts a new one, and the next finds it.
        let manager = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(None);
        let manager = ConnectionManager::new_lazy_with_config(client, manager).context("no Redis client")?;
        Ok(Self(manager))
    }

    async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut connection = self.0.clone();
        match connection.send_packed_command(command).await {
            // The connection died while it lay idle. Every command is harmless when it is sent twice.
            Err(error) if error.is_connection_dropped() || error.is_io_error() => {
                connection.send_packed_command(command).await
            }
            result => result,
        }
    }
}

impl RedisCommands for RedisClient {
    async fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: Duration,
    ) -> StoreResult<Vec<RedisValue>> {
        let mut packed = redis::cmd(command);
        for argument in arguments {
            packed.arg(*argument);
        }
        let value =
            tokio::time::timeout(limit, self.send(&packed)).await.map_err(|_| StoreError::TimedOut)?;
        let value = value.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let mut flat = Vec::new();
        flatten(command, value, &mut flat)?;
        Ok(flat)
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
        Value::ServerError(error) => return Err(StoreError::Unavailable(error.to_string())),
        _ => return Err(StoreError::UnexpectedReply(command)),
    }
    Ok(())
}
