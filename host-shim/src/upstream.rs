//! The HTTP client for backend hosts: one connection pool, TLS where the URL asks for it, and a limit for every phase.

use std::{
    error::Error as _,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{Client as PooledClient, Error as ClientError, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use paddock::{
    Config,
    platform::{Phase, Timeouts, UpstreamFailure},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tower_service::Service;

use crate::timed_body::TimedBody;

/// How long an idle connection is kept: shorter than servers and proxies keep theirs, so that a request seldom gets a
/// connection that is being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(20);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The pooled client.
pub(crate) struct HttpClient(PooledClient<LimitedConnector, Full<Bytes>>);

impl HttpClient {
    /// A client for these hosts.
    pub(crate) fn new(config: &Config) -> Self {
        let connect_limit = config.timeouts.upstream.connect;
        let any_tls = config.fleet.hosts.iter().any(|host| host.url().starts_with("https:"));
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        // The certificates of the machine are used where there are any, because a private authority must be trusted; an
        // image without them gets the well-known ones. Loading them takes memory, so it is done only if a host uses
        // TLS.
        let own = any_tls.then(|| HttpsConnectorBuilder::new().with_native_roots().ok()).flatten();
        let https = own.unwrap_or_else(|| HttpsConnectorBuilder::new().with_webpki_roots());
        let inner = https.https_or_http().enable_http1().wrap_connector(http);
        let client = PooledClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .build(LimitedConnector { inner, limit: connect_limit });
        Self(client)
    }

    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        limits: Timeouts,
    ) -> Result<Response<TimedBody>, UpstreamFailure> {
        let started = Instant::now();
        let deadline = limits.total.map(|total| started + total);
        // Connecting has a limit of its own, but a request may never reach that phase, so this limit covers it as well.
        let head = started + limits.connect + limits.first_byte;
        let head = deadline.map_or(head, |deadline| deadline.min(head));
        let response = timeout_at(head, self.0.request(request.map(Full::new)))
            .await
            .map_err(|_| UpstreamFailure::TimedOut(Phase::FirstByte))?
            .map_err(|error| failure(&error))?;
        Ok(response.map(|body: Incoming| TimedBody::of_host(body, limits.between_bytes, deadline)))
    }
}

fn failure(error: &ClientError) -> UpstreamFailure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = error.source();
    let mut words = error.to_string();
    while let Some(deeper) = cause {
        if deeper.is::<ConnectTimedOut>() {
            return UpstreamFailure::TimedOut(Phase::Connect);
        }
        words = format!("{words}: {deeper}");
        cause = deeper.source();
    }
    if error.is_connect() { UpstreamFailure::Unreachable(words) } else { UpstreamFailure::Protocol(words) }
}

/// The connection was not made within its limit.
#[derive(Debug)]
struct ConnectTimedOut;

impl std::fmt::Display for ConnectTimedOut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the connection was not made in time")
    }
}

impl std::error::Error for ConnectTimedOut {}

/// Makes connections within a limit that includes name resolution and TLS.
#[derive(Clone)]
struct LimitedConnector {
    inner: HttpsConnector<HttpConnector>,
    limit: Duration,
}

impl Service<Uri> for LimitedConnector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connection = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async move { connection.await.map_err(|_| ConnectTimedOut)? })
    }
}
