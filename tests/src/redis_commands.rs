//! The core's Redis port over redis-rs, and the same connection for looking at what the service stored.

use anyhow::{Context as _, Result};
use paddock::store::{
    StoreError, StoreResult, TimeLimit,
    redis::{RedisCommands, RedisValue, server_error},
};
use redis::{
    Cmd, Value, aio::MultiplexedConnection, cluster::ClusterClient, cluster_async::ClusterConnection,
};

use crate::{redis_cluster::RedisCluster, redis_server::RedisServer};

/// A connection to a server or to a cluster.
#[derive(Clone)]
pub struct Connection(Peer);

#[derive(Clone)]
enum Peer {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Connection(..)")
    }
}

impl Connection {
    /// Connects.
    pub async fn open(server: &RedisServer) -> Result<Self> {
        let client = redis::Client::open(server.url().as_str())?;
        let connection = client.get_multiplexed_async_connection().await.context("connecting to Redis")?;
        Ok(Self(Peer::Server(connection)))
    }

    /// Connects to a cluster.
    pub async fn open_cluster(cluster: &RedisCluster) -> Result<Self> {
        let client = ClusterClient::new(cluster.urls().split(',').collect::<Vec<_>>())?;
        Ok(Self(Peer::Cluster(client.get_async_connection().await.context("connecting to the cluster")?)))
    }

    async fn value(&self, command: &Cmd) -> redis::RedisResult<Value> {
        match self.0.clone() {
            Peer::Server(mut connection) => command.query_async(&mut connection).await,
            Peer::Cluster(mut connection) => command.query_async(&mut connection).await,
        }
    }

    /// Runs any command and gives its reply as text, nested lists flat.
    pub async fn run(&self, words: &[&str]) -> Result<Vec<String>> {
        let (command, arguments) = words.split_first().context("no command")?;
        let mut packed = redis::cmd(command);
        for argument in arguments {
            packed.arg(*argument);
        }
        let value = self.value(&packed).await?;
        let mut flat = Vec::new();
        flatten(value, &mut flat)?;
        let text = |value| match value {
            RedisValue::Nil => String::new(),
            RedisValue::Integer(number) => number.to_string(),
            RedisValue::Status(text) => text,
            RedisValue::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        };
        Ok(flat.into_iter().map(text).collect())
    }

    async fn query(&self, command: &Cmd) -> StoreResult<Vec<RedisValue>> {
        let value = self.value(command).await;
        let value = value.map_err(|error| match error.code() {
            Some(code) => server_error(code, error.to_string()),
            None => StoreError::Unavailable(error.to_string()),
        })?;
        let mut flat = Vec::new();
        flatten(value, &mut flat).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(flat)
    }
}

impl RedisCommands for Connection {
    async fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: TimeLimit,
    ) -> StoreResult<Vec<RedisValue>> {
        let mut packed = redis::cmd(command);
        for argument in arguments {
            packed.arg(*argument);
        }
        tokio::time::timeout(limit.time, self.query(&packed)).await.map_err(|_| limit.passed())?
    }

    async fn execute_replicated(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        replicas: u32,
        limit: TimeLimit,
    ) -> StoreResult<(Vec<RedisValue>, u32)> {
        let reply = self.execute(command, arguments, limit).await?;
        let (replicas, time) = (replicas.to_string(), limit.time.as_millis().to_string());
        let reached = self.execute("WAIT", &[replicas.as_bytes(), time.as_bytes()], limit).await?;
        match reached.first() {
            Some(RedisValue::Integer(reached)) => Ok((reply, u32::try_from(*reached).unwrap_or_default())),
            _ => Err(StoreError::UnexpectedReply("WAIT")),
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum may grow; what we do not ask for is an error")]
fn flatten(value: Value, flat: &mut Vec<RedisValue>) -> Result<()> {
    match value {
        Value::Nil => flat.push(RedisValue::Nil),
        Value::Int(number) => flat.push(RedisValue::Integer(number)),
        Value::BulkString(bytes) => flat.push(RedisValue::Bytes(bytes)),
        Value::SimpleString(text) => flat.push(RedisValue::Status(text)),
        Value::Okay => flat.push(RedisValue::Status("OK".to_owned())),
        Value::Array(values) => {
            for value in values {
                flatten(value, flat)?;
            }
        }
        other => anyhow::bail!("an unexpected reply: {other:?}"),
    }
    Ok(())
}
