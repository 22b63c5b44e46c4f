//! The only entry: a request comes in, a reply goes out.
//!
//! It judges where the request comes from, finds the route, checks the key, and closes the account of every request
//! whose reply does not stream. Nothing here fails: each error becomes a reply in the shape of its surface.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request::Parts};
use http_body::Body;

use crate::{
    account::{Account, note_outage},
    cache::CacheStatus,
    chat,
    error::{Error, Family},
    fleet::BackendHost,
    health,
    host::{Host, MaybeSend},
    listing, management,
    metrics::{self, Gauges, Metrics},
    origin::{self, Visitor},
    relay::relay,
    reply::{self, ReplyBody},
    route::Route,
    session::SessionStatus,
    store::Store,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What Anthropic's clients call it.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_SESSION: HeaderName = HeaderName::from_static("x-session");
const X_PADDOCK_HOST: HeaderName = HeaderName::from_static("x-paddock-host");
/// The longest request id that is taken over from a client.
const REQUEST_ID_LIMIT: usize = 128;
/// What Ollama says to whoever asks whether it is there.
const BANNER: &str = "Ollama is running";

/// Answers one request.
///
/// Dropping the future, and later the body of its reply, means that the client left: the upstream call is given up at
/// once, and nothing partial is stored.
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
        counted: route.is_counted(),
        started: host.now(),
        model: None,
        cache: None,
        tokens: None,
        attempts: Vec::new(),
        host: None,
        store_errors: Vec::new(),
        session: None,
        handed_over: false,
    };
    let visitor = host.config().origins.judge(&parts);
    let result = match &visitor {
        Visitor::Foreign => Err(Error::ForeignOrigin),
        Visitor::NoPage | Visitor::Welcome(_) => match origin::preflight(&parts) {
            Some(answer) => Ok(answer),
            None => dispatch(host, route, &parts, body, &mut account).await,
        },
    };
    let stamps = stamps(&account, route.family());
    let id = account.request_id.clone();
    if !account.handed_over {
        account.close(host, result.as_ref().map(Response::status)).await;
    }
    let mut response = result.unwrap_or_else(|error| error.into_response(route.family(), &id));
    response.headers_mut().extend(stamps);
    if let Visitor::Welcome(origin) = visitor {
        origin::welcome(response.headers_mut(), origin);
    }
    if parts.method == Method::HEAD { reply::without_body(response) } else { response }
}

/// The reply of a service whose settings do not hold: the same for every path.
pub fn misconfigured(problems: Vec<String>) -> Response<ReplyBody> {
    Error::Misconfigured { problems }.into_response(Family::Own, "")
}

/// The headers that tell what happened to the request.
fn stamps(account: &Account, family: Family) -> Vec<(HeaderName, HeaderValue)> {
    let id = HeaderValue::try_from(account.request_id.as_str()).ok();
    let backend = account.host.as_ref().map(BackendHost::name);
    let backend = backend.and_then(|name| HeaderValue::from_str(name).ok());
    let cache = account.cache.map(CacheStatus::as_str).map(HeaderValue::from_static);
    let session = account.session.map(SessionStatus::as_str).map(HeaderValue::from_static);
    [
        (REQUEST_ID, id.clone().filter(|_| family == Family::Anthropic)),
        (X_REQUEST_ID, id),
        (X_PADDOCK_HOST, backend),
        (X_CACHE, cache),
        (X_SESSION, session),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
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
    let config = host.config();
    let is_admin = config.admin_token.is_held(&parts.headers);
    if !route.is_open() && !is_admin {
        config.api_keys.check(&parts.headers)?;
    }
    if matches!(route, Route::Unknown(_)) {
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
        Route::Banner => Ok(reply::complete(StatusCode::OK, "text/plain; charset=utf-8", BANNER)),
        Route::List(list) => listing::list(host, list).await,
        Route::Relay(surface) => relay(host, surface, parts, body, account).await,
        Route::Manage(operation) => {
            if !is_admin && !config.allow_model_management {
                return Err(Error::ManagementForbidden);
            }
            management::manage(host, operation, &parts.headers, body, account).await
        }
        Route::Upload(_) => Err(Error::UploadForbidden),
        Route::Unknown(_) => Err(Error::NotFound),
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
