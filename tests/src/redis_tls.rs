//! TLS in front of a Redis, with a certificate of an authority that nobody knows: not every Redis for tests can speak
//! TLS itself.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

use crate::redis_server::RedisServer;

/// A door with TLS. It closes when it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    authority: PathBuf,
    _directory: TempDir,
    _tasks: JoinSet<()>,
}

impl TlsFront {
    /// Stands before this server.
    pub async fn start(server: &RedisServer) -> Result<Self> {
        let upstream = server.url().socket_addrs(|| None)?.first().copied().context("no address")?;
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let directory = tempfile::tempdir()?;
        let authority = directory.path().join("authority.pem");
        std::fs::write(&authority, certified.cert.pem())?;
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), upstream));
        Ok(Self { address, authority, _directory: directory, _tasks: tasks })
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("rediss://localhost:{}/0", self.address.port())
    }

    /// The file of its authority's certificate.
    pub fn authority(&self) -> &Path {
        &self.authority
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, upstream: SocketAddr) {
    let mut tasks = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tasks.spawn(async move {
            // Whoever does not trust it hangs up.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            let Ok(mut server) = TcpStream::connect(upstream).await else { return };
            tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
        });
    }
}
