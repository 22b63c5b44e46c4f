//! The HTTP client for backend hosts: one connection pool, TLS where the URL asks for it, and a limit for every phase.

mod connection;

use std::{error::Error as _, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Client, Error as ClientError, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use paddock::{
    Config,
    platform::{Phase, Timeouts, UpstreamFailure},
};
use tokio::time::{Instant, timeout_at};

use self::connection::{ConnectTimedOut, Exchange, LimitedConnector};
use crate::timed_body::TimedBody;

/// How long an idle connection is kept: shorter than servers and proxies keep theirs, so that a request seldom gets a
/// connection that is being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(20);

type HyperClient = Client<LimitedConnector, Full<Bytes>>;

/// The client for all hosts.
pub(crate) struct HttpClient {
    /// Keeps connections for the next request.
    pooled: HyperClient,
    /// Makes a new connection for each request.
    fresh: HyperClient,
}

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
        let connector = LimitedConnector { inner, limit: connect_limit };
        let pooled = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_LIMIT)
            .build(connector.clone());
        let fresh = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { pooled, fresh }
    }

    /// Sends a request, and once more on a new connection where a connection that was used before ends before any byte of
    /// the answer: the host closed it while it was idle, which both sides may do at any time, and which is nobody's fault.
    /// The client's own retries do not hold there: it repeats only what it has not begun to write.
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
        let (parts, body) = request.into_parts();
        let repeated = parts.clone();
        let asking = async {
            let request = Request::from_parts(parts, Full::new(body.clone()));
            match self.pooled.request(request).await {
                Err(error) if was_idle(&error) => {
                    self.fresh.request(Request::from_parts(repeated, Full::new(body))).await
                }
                answered => answered,
            }
        };
        let response = timeout_at(head, asking)
            .await
            .map_err(|_| UpstreamFailure::TimedOut(Phase::FirstByte))?
            .map_err(|error| failure(&error))?;
        Ok(response.map(|body: Incoming| TimedBody::of_host(body, limits.between_bytes, deadline)))
    }
}

/// Whether the request met a connection that was used before and ended without a byte of the answer.
fn was_idle(error: &ClientError) -> bool {
    error.connect_info().and_then(Exchange::of).is_some_and(|exchange| exchange.is_unheard_again())
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
