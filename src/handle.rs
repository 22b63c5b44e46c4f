//! The only entry: a request comes in, a complete reply goes out.
//!
//! It finds the route, checks the key, and closes the account of every request. Nothing here fails: each error
//! becomes a reply in its documented shape.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request::Parts};
use http_body::Body;

use crate::{
    account::{Account, note_outage},
    chat,
    error::Error,
    health,
    host::{Host, MaybeSend},
    metrics::{self, Gauges, Metrics},
    reply::{self, ReplyBody},
    store::Store,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is taken over from a client.
const REQUEST_ID_LIMIT: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Chat,
    Health,
    Livez,
    Metrics,
    Unknown,
}

impl Route {
    fn of(path: &str) -> Self {
        match path {
            "/chat" => Self::Chat,
            "/health" => Self::Health,
            "/livez" => Self::Livez,
            "/metrics" => Self::Metrics,
            _ => Self::Unknown,
        }
    }

    /// The label of the route; never the raw path, which clients choose.
    fn label(self) -> &'static str {
        match self {
            Self::Chat => "/chat",
            Self::Health => "/health",
            Self::Livez => "/livez",
            Self::Metrics => "/metrics",
            Self::Unknown => "other",
        }
    }

    /// The allowed methods, as in the header `Allow`.
    fn allow(self) -> &'static str {
        match self {
            Self::Chat => "POST",
            Self::Health | Self::Livez | Self::Metrics | Self::Unknown => "GET, HEAD",
        }
    }

    fn allows(self, method: &Method) -> bool {
        match self {
            Self::Chat => method == Method::POST,
            Self::Health | Self::Livez | Self::Metrics | Self::Unknown => {
                method == Method::GET || method == Method::HEAD
            }
        }
    }

    /// Whether it is open even when API keys are set: probes and scrapers carry none.
    fn is_open(self) -> bool {
        match self {
            Self::Health | Self::Livez | Self::Metrics => true,
            Self::Chat | Self::Unknown => false,
        }
    }
}

/// Answers one request.
///
/// Dropping the future means that the client left: the upstream call is given up at once, and nothing partial is
/// stored.
pub async fn handle<H, B>(host: &H, request: Request<B>) -> Response<ReplyBody>
where
    H: Host,
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    let (parts, body) = request.into_parts();
    let route = Route::of(parts.uri.path());
    let mut account = Account {
        request_id: request_id(host, &parts.headers),
        method: parts.method.clone(),
        route: route.label(),
        counted: route == Route::Chat,
        started: host.now(),
        model: None,
        cache: None,
        tokens: None,
        attempts: Vec::new(),
        host: None,
        store_errors: Vec::new(),
    };
    let id = HeaderValue::try_from(account.request_id.as_str());
    let result = dispatch(host, route, &parts, body, &mut account).await;
    let end = result.as_ref().map(Response::status);
    account.close(host, end).await;
    let mut response = result.unwrap_or_else(Error::into_response);
    if let Ok(id) = id {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    if parts.method == Method::HEAD { reply::without_body(response) } else { response }
}

async fn dispatch<H, B>(
    host: &H,
    route: Route,
    parts: &Parts,
    body: B,
    account: &mut Account,
) -> Result<Response<ReplyBody>, Error>
where
    H: Host,
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    if !route.is_open() {
        host.config().api_keys.check(&parts.headers)?;
    }
    if route == Route::Unknown {
        return Err(Error::NotFound);
    }
    if !route.allows(&parts.method) {
        return Err(Error::MethodNotAllowed { allow: route.allow() });
    }
    match route {
        Route::Chat => chat::chat(host, &parts.headers, body, account).await,
        Route::Health => Ok(health::health(host).await),
        Route::Livez => Ok(reply::complete(StatusCode::OK, "application/json", r#"{"status":"alive"}"#)),
        Route::Metrics => Ok(scrape(host).await),
        Route::Unknown => Err(Error::NotFound),
    }
}

/// The id of a request: the client's own where it is short and plain, so that it can be followed through several
/// services; else a random one.
fn request_id<H: Host>(host: &H, headers: &HeaderMap) -> String {
    let is_plain = |id: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        !id.is_empty() && id.len() <= REQUEST_ID_LIMIT && id.bytes().all(plain)
    };
    let sent = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_plain);
    sent.map_or_else(|| random_id(host), str::to_owned)
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_id<H: Host>(host: &H) -> String {
    format!("{:016x}{:016x}", host.random(), host.random())
}

/// Answers `GET /metrics`. A store that is down is a fact to show, not an error.
async fn scrape<H: Host>(host: &H) -> Response<ReplyBody> {
    let (snapshot, ping) = futures::join!(host.metrics().snapshot(), host.store().ping());
    note_outage(host, "ping", &ping);
    let gauges = Gauges { store_up: ping.is_ok(), form: host.form() };
    let text = metrics::encode(&snapshot.unwrap_or_default(), gauges);
    reply::complete(StatusCode::OK, metrics::CONTENT_TYPE, text)
}
