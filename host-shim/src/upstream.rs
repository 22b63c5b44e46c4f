//! The HTTP client for backend hosts: one connection pool, TLS where the URL asks for it, and a limit for every phase.

mod connection;

use std::{error::Error as _, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{
        Client, Error as ClientError,
        connect::{HttpConnector, capture_connection},
    },
    rt::{TokioExecutor, TokioTimer},
};
use paddock::{
    Config,
    platform::{Phase, Timeouts, UpstreamFailure},
};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::connection::{ConnectTimedOut, Exchange, LimitedConnector};
use crate::timed_body::TimedBody;

/// How long an idle connection is kept: shorter than servers and proxies keep theirs, so that a request seldom gets a
/// connection that is being closed.
const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// How soon a connection that the host closed while it was idle shows it. Whatever ends later may have been at work on the
/// request, which must not be done twice.
const STALE_LIMIT: Duration = Duration::from_secs(1);

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
        // The limit of a call ends its wait; this one ends a connection that is still being made for later calls.
        let connect_limit = config.timeouts.upstream.connect.max(config.fleet.probe_connect_timeout);
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
    /// The client's own retries do not hold there: it repeats only what it has not begun to write. An end that comes later
    /// than [`STALE_LIMIT`] is reported.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        limits: Timeouts,
    ) -> Result<Response<TimedBody>, UpstreamFailure> {
        let deadline = limits.total.map(|total| Instant::now() + total);
        let (parts, body) = request.into_parts();
        let repeated = parts.clone();
        let request = Request::from_parts(parts, Full::new(body.clone()));
        let asked = Instant::now();
        let response = match ask(&self.pooled, request, limits, deadline).await {
            Err(Unanswered::Failed(error)) if is_stale(was_idle(&error), asked.elapsed()) => {
                let request = Request::from_parts(repeated, Full::new(body));
                ask(&self.fresh, request, limits, deadline).await
            }
            answered => answered,
        };
        match response {
            Ok(response) => {
                Ok(response.map(|body: Incoming| TimedBody::of_host(body, limits.between_bytes, deadline)))
            }
            Err(Unanswered::Failed(error)) => Err(failure(&error)),
            Err(Unanswered::Late(phase)) => Err(UpstreamFailure::TimedOut(phase)),
        }
    }
}

/// Why a request has no answer.
enum Unanswered {
    Failed(ClientError),
    Late(Phase),
}

/// Waits for a connection within its limit, and from then on for the head within its own.
async fn ask(
    client: &HyperClient,
    mut request: Request<Full<Bytes>>,
    limits: Timeouts,
    deadline: Option<Instant>,
) -> Result<Response<Incoming>, Unanswered> {
    let within = |limit| {
        let end = Instant::now() + limit;
        deadline.map_or(end, |deadline| deadline.min(end))
    };
    let mut connection = capture_connection(&mut request);
    let mut asking = pin!(client.request(request));
    tokio::select! {
        biased;
        answered = asking.as_mut() => return noted(answered),
        // A connection that is kept is there when the request is first polled.
        _ = connection.wait_for_connection_metadata() => {}
        () = sleep_until(within(limits.connect)) => return Err(Unanswered::Late(Phase::Connect)),
    }
    match timeout_at(within(limits.first_byte), asking).await {
        Ok(answered) => noted(answered),
        Err(_) => Err(Unanswered::Late(Phase::FirstByte)),
    }
}

/// Notes on the connection that its host has answered a request.
fn noted(answered: Result<Response<Incoming>, ClientError>) -> Result<Response<Incoming>, Unanswered> {
    let response = answered.map_err(Unanswered::Failed)?;
    if let Some(exchange) = response.extensions().get::<Exchange>() {
        exchange.note_answer();
    }
    Ok(response)
}

/// Whether the request met a connection that was used before and ended without a byte of the answer.
fn was_idle(error: &ClientError) -> bool {
    error.connect_info().and_then(Exchange::of).is_some_and(|exchange| exchange.is_unheard_again())
}

/// Whether a failure after this time says that the connection was closed while it was idle.
fn is_stale(was_idle: bool, elapsed: Duration) -> bool {
    was_idle && elapsed <= STALE_LIMIT
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_idle_connection_ends_at_once_is_asked_again() {
        for (was_idle, millis, expected) in [
            (true, 0, true),
            (true, 1_000, true),
            (true, 1_001, false),
            (true, 60_000, false),
            (false, 0, false),
        ] {
            assert_eq!(is_stale(was_idle, Duration::from_millis(millis)), expected, "{was_idle} {millis}");
        }
    }
}
