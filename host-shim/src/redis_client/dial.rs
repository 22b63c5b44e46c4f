//! Opens a connection to one server: over TCP, with TLS where the address asks for it, and with a limit for each reply.
//!
//! redis-rs opens connections itself, but reads replies of any length.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use futures::{FutureExt as _, future::select_ok};
use paddock::config::RedisConfig;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisFuture,
    Value,
    aio::{ConnectionLike, MultiplexedConnection},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};
use tokio_util::task::AbortOnDropHandle;

use super::{CONNECT_LIMIT, reply_limit::LimitedReplies};

/// What connections are opened with. Clones share it.
#[derive(Clone)]
pub(super) struct Dialer {
    /// `None` where no address asks for TLS.
    tls: Option<TlsConnector>,
    /// The longest reply, in bytes.
    reply_limit: u64,
}

/// A connection to one server, which ends when the last clone is dropped.
#[derive(Clone)]
pub(super) struct NodeConnection {
    connection: MultiplexedConnection,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl Dialer {
    /// # Errors
    /// When the certificates of the authority cannot be read.
    pub(super) fn new(config: &RedisConfig) -> anyhow::Result<Self> {
        let asks_for_tls = config.urls.iter().any(|url| url.starts_with("rediss:"));
        let tls = asks_for_tls.then(|| tls(config.ca_file.as_deref())).transpose()?;
        Ok(Self { tls, reply_limit: config.reply_limit })
    }

    /// Connects within [`CONNECT_LIMIT`].
    pub(super) async fn connect(
        &self,
        info: &ConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<NodeConnection, RedisError> {
        let connected = timeout(CONNECT_LIMIT, async {
            match info.addr() {
                ConnectionAddr::Tcp(host, port) => self.start(dial(host, *port).await?, info, config).await,
                ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
                    let Some(tls) = &self.tls else { return Err(unfit("TLS is not configured")) };
                    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                    let stream = tls.connect(name, dial(host, *port).await?).await?;
                    self.start(Box::new(stream), info, config).await
                }
                ConnectionAddr::TcpTls { .. } | ConnectionAddr::Unix(_) | _ => {
                    Err(unfit("the address is neither redis:// nor rediss://"))
                }
            }
        });
        connected.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Greets the server, and keeps the connection going in a task.
    #[expect(clippy::disallowed_methods, reason = "it ends with the connection, whose requests wait for it")]
    async fn start<S>(
        &self,
        stream: S,
        info: &ConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<NodeConnection, RedisError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = LimitedReplies::new(stream, self.reply_limit);
        let opened = MultiplexedConnection::new_with_config(info.redis_settings(), stream, config);
        let (connection, driver) = opened.await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(NodeConnection { connection, _driver: Arc::new(driver) })
    }
}

/// The first of the host's addresses that can be connected to.
async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<_> =
        lookup_host((host, port)).await?.map(|address| connect(address).boxed()).collect();
    if addresses.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    select_ok(addresses).await.map(|(stream, _)| stream)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Without this a command would wait until the commands before it are acknowledged, which may take as long as their
    // replies.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What speaks TLS with servers for which the authority in this file vouches, or a well-known one.
fn tls(authority: Option<&str>) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match authority {
        Some(path) => {
            let setting = || format!("REDIS_CA_FILE {path}");
            let pem = std::fs::read(path).with_context(setting)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate.with_context(setting)?).with_context(setting)?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn unfit(reason: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, reason).into()
}

impl ConnectionLike for NodeConnection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.connection.req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
