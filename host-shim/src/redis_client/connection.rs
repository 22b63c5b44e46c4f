//! Makes connections to one server or to the nodes of a cluster, and sends commands on them.

use std::sync::OnceLock;

use futures::{FutureExt as _, future::BoxFuture};
use paddock::{
    config::RedisConfig,
    store::{StoreError, StoreResult},
};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline, RedisError,
    RedisFuture, Value,
    aio::ConnectionLike,
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::{ClusterConnection, Connect},
};

use super::{
    CONNECT_LIMIT,
    dial::{Dialer, NodeConnection},
};

/// How often the client of a cluster follows a moved key or retries a node, within a command's limit.
const CLUSTER_RETRIES: u32 = 3;
/// The least and the longest pause between those retries, in milliseconds.
const CLUSTER_PAUSES: (u64, u64) = (5, 50);

/// What the nodes of a cluster are connected with. The client of a cluster makes its connections by their type alone, so
/// that this has no other place; a process has one Redis.
static CLUSTER_DIALER: OnceLock<Dialer> = OnceLock::new();

/// Makes connections.
#[derive(Clone)]
pub(super) enum Opener {
    Single(Box<ConnectionInfo>, Dialer),
    Cluster(Box<ClusterClient>),
}

/// A connection. Clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Single(NodeConnection),
    Cluster(ClusterConnection<NodeConnection>),
}

impl Opener {
    pub(super) fn new(config: &RedisConfig) -> anyhow::Result<Self> {
        let dialer = Dialer::new(config)?;
        Self::build(config, dialer).map_err(|error| {
            // The error's text may contain the address with its password; its category does not.
            anyhow::anyhow!("the REDIS_ settings do not hold: {}", error.category())
        })
    }

    fn build(config: &RedisConfig, dialer: Dialer) -> Result<Self, RedisError> {
        if config.is_cluster {
            CLUSTER_DIALER.get_or_init(|| dialer);
            let (from, to) = CLUSTER_PAUSES;
            let builder = ClusterClientBuilder::new(config.urls.iter().map(String::as_str))
                .connection_timeout(CONNECT_LIMIT)
                .response_timeout(CONNECT_LIMIT)
                .retries(CLUSTER_RETRIES)
                .min_retry_wait(from)
                .max_retry_wait(to);
            return Ok(Self::Cluster(Box::new(builder.build()?)));
        }
        let url = config.urls.first().map(String::as_str).unwrap_or_default();
        Ok(Self::Single(Box::new(url.into_connection_info()?), dialer))
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Makes a connection. The future is boxed: connecting is rare, and its type, which reaches into the sockets of the
    /// runtime, would otherwise be a part of every request's.
    pub(super) fn open(&self) -> BoxFuture<'_, StoreResult<Connection>> {
        self.connect().boxed()
    }

    async fn connect(&self) -> StoreResult<Connection> {
        let opened = tokio::time::timeout(CONNECT_LIMIT, async {
            match self {
                Self::Single(address, dialer) => {
                    let config =
                        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
                    dialer.connect(address, config).await.map(Connection::Single)
                }
                Self::Cluster(client) => client.get_async_generic_connection().await.map(Connection::Cluster),
            }
        });
        let opened = opened.await.map_err(|_| StoreError::TimedOut)?;
        // Any error reply during the handshake means that the server does not serve us.
        opened.map_err(|error| StoreError::Unavailable(error.to_string()))
    }
}

impl Connect for NodeConnection {
    fn connect_with_config<'a, T>(info: T, config: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        async move {
            let unknown = || RedisError::from((ErrorKind::InvalidClientConfig, "no cluster is configured"));
            let dialer = CLUSTER_DIALER.get().ok_or_else(unknown)?;
            dialer.connect(&info.into_connection_info()?, config).await
        }
        .boxed()
    }
}

impl Connection {
    pub(super) async fn send(mut self, command: &Cmd) -> Result<Value, RedisError> {
        match &mut self {
            Self::Single(connection) => connection.req_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        }
    }

    /// Sends a command and the `WAIT` for it together to the same server.
    pub(super) async fn send_both(
        &mut self,
        command: &Cmd,
        wait: &Cmd,
    ) -> Result<(Value, Value), RedisError> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(command.clone()).add_command(wait.clone());
        let replies = match self {
            Self::Single(connection) => connection.req_packed_commands(&pipeline, 0, 2).await?,
            // The first command with a key selects the node.
            Self::Cluster(connection) => connection.req_packed_commands(&pipeline, 0, 2).await?,
        };
        let mut replies = replies.into_iter();
        match (replies.next(), replies.next()) {
            (Some(first), Some(second)) => Ok((first, second)),
            _ => Err((ErrorKind::UnexpectedReturnType, "two commands, but not two replies").into()),
        }
    }
}
