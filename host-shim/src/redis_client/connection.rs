//! Makes connections to one server or to the nodes of a cluster, and sends commands on them.

use anyhow::Context as _;
use futures::{FutureExt as _, future::BoxFuture};
use paddock::{
    config::RedisConfig,
    store::{StoreError, StoreResult},
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, IntoConnectionInfo as _, Pipeline, RedisError,
    TlsCertificates, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
};

use super::CONNECT_LIMIT;

/// How often the client of a cluster follows a moved key or retries a node, within a command's limit.
const CLUSTER_RETRIES: u32 = 3;
/// The least and the longest pause between those retries, in milliseconds.
const CLUSTER_PAUSES: (u64, u64) = (5, 50);

/// Makes connections.
#[derive(Clone)]
pub(super) enum Opener {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
}

/// A connection. Clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Opener {
    pub(super) fn new(config: &RedisConfig) -> anyhow::Result<Self> {
        let authority = match &config.ca_file {
            Some(path) => Some(std::fs::read(path).with_context(|| format!("REDIS_CA_FILE {path}"))?),
            None => None,
        };
        let certificates = authority.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) });
        Self::build(config, certificates).map_err(|error| {
            // The error's text may contain the address with its password; its category does not.
            anyhow::anyhow!("the REDIS_ settings do not hold: {}", error.category())
        })
    }

    fn build(config: &RedisConfig, certificates: Option<TlsCertificates>) -> Result<Self, RedisError> {
        // Without this a command would wait until the commands before it are acknowledged, which may take as long as
        // their replies.
        let tcp = TcpSettings::default().set_nodelay(true);
        if config.is_cluster {
            let (from, to) = CLUSTER_PAUSES;
            let mut builder = ClusterClientBuilder::new(config.urls.iter().map(String::as_str))
                .tcp_settings(tcp)
                .connection_timeout(CONNECT_LIMIT)
                .response_timeout(CONNECT_LIMIT)
                .retries(CLUSTER_RETRIES)
                .min_retry_wait(from)
                .max_retry_wait(to);
            if let Some(certificates) = certificates {
                builder = builder.certs(certificates);
            }
            return Ok(Self::Cluster(Box::new(builder.build()?)));
        }
        let url = config.urls.first().map(String::as_str).unwrap_or_default();
        let address = url.into_connection_info()?.set_tcp_settings(tcp);
        match certificates {
            Some(certificates) => Client::build_with_tls(address, certificates),
            None => Client::open(address),
        }
        .map(|client| Self::Single(Box::new(client)))
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
                Self::Single(client) => {
                    let config =
                        AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
                    let opened = client.get_multiplexed_async_connection_with_config(&config).await;
                    opened.map(Connection::Single)
                }
                Self::Cluster(client) => client.get_async_connection().await.map(Connection::Cluster),
            }
        });
        let opened = opened.await.map_err(|_| StoreError::TimedOut)?;
        // Any error reply during the handshake means that the server does not serve us.
        opened.map_err(|error| StoreError::Unavailable(error.to_string()))
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
