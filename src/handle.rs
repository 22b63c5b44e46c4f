//! The only entry: a request comes in, a reply goes out.
//!
//! It judges where the request comes from, finds the route, checks the key, and writes the log line of every request
//! whose reply does not stream. Nothing here fails: each error becomes a reply in the shape of its surface.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header, request::Parts};
use http_body::Body;

use crate::{
    api::{
        auth::CallerId,
        cors::{self, CorsVerdict},
        error::{Error, ErrorFormat},
        reply::{self, ReplyBody},
        route::Route,
    },
    cache::CacheStatus,
    fleet::BackendHost,
    handlers::{self, Admitted, Handled, HandlerResult},
    host::{Platform, Service},
    platform::{Clock, MaybeSend, random_id},
    request::{ReplyNotes, RequestInfo, StoreAccess},
    session::SessionStatus,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What Anthropic's clients call it.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_SESSION: HeaderName = HeaderName::from_static("x-session");
const X_SESSION_LEFT_OUT: HeaderName = HeaderName::from_static("x-session-left-out");
const X_PADDOCK_EXPLAIN: HeaderName = HeaderName::from_static("x-paddock-explain");
const X_PADDOCK_ROUTE: HeaderName = HeaderName::from_static("x-paddock-route");
const X_PADDOCK_HOST: HeaderName = HeaderName::from_static("x-paddock-host");
/// The longest explanation of a route, in bytes: clients and proxies refuse heads that are much longer.
const ROUTE_LIMIT: usize = 4096;
/// The longest request id that is taken over from a client.
const REQUEST_ID_LIMIT: usize = 128;

/// Makes a way in for each part: what all requests have in common, around what answers them.
macro_rules! entries {
    ($($(#[$about:meta])* $name:ident => $part:path;)*) => {$(
        $(#[$about])*
        pub async fn $name<P, B>(service: &Service<P>, request: Request<B>) -> Response<ReplyBody>
        where
            P: Platform,
            B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
        {
            let (exchange, body) = Exchange::of(service, request);
            let handled = match exchange.early_answer(service) {
                Some(answer) => Handled::from(answer),
                None => $part(service, exchange.admitted(service, body)).await.into(),
            };
            exchange.close(service, handled).await
        }
    )*};
}

entries! {
    /// Answers one request.
    ///
    /// Dropping the future, and later the body of its reply, means that the client left: the upstream call is given up at
    /// once, and nothing partial is stored.
    handle => handlers::whole;

    /// As [`handle()`], alone what one host answers: `/chat` and all that goes upstream as it came.
    chat => handlers::chat;

    /// As [`handle()`], alone what concerns all hosts: lists of models, their management, the banner; and what this API
    /// is.
    models => handlers::models;

    /// As [`handle()`], alone what is kept: sessions, and answers that are to be forgotten.
    sessions => handlers::sessions;

    /// As [`handle()`], `/health`, `/livez` and `/fleet` alone.
    health => handlers::health;

    /// As [`handle()`], `/metrics` alone.
    metrics => handlers::metrics;
}

impl<P: Platform> Service<P> {
    /// Answers one request: as [`handle()`].
    pub async fn handle<B>(&self, request: Request<B>) -> Response<ReplyBody>
    where
        B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
    {
        handle(self, request).await
    }
}

/// A request between its arrival and its answer: what all have in common, whichever handler answers them.
struct Exchange {
    parts: Parts,
    route: Route,
    visitor: CorsVerdict,
    request: Arc<RequestInfo>,
}

impl Exchange {
    fn of<P: Platform, B>(service: &Service<P>, request: Request<B>) -> (Self, B) {
        let (parts, body) = request.into_parts();
        let route = Route::of(parts.uri.path());
        let request = Arc::new(RequestInfo {
            request_id: request_id(service, &parts.headers),
            method: parts.method.clone(),
            route: route.label(),
            is_counted: route.is_counted(),
            started: service.now(),
            explains: explains(service, &parts.headers),
            store: StoreAccess::new(service),
        });
        let visitor = service.config().origins.judge(&parts);
        (Self { parts, route, visitor, request }, body)
    }

    /// What is said before any part of the service is asked: a refusal, or what a browser wants to know ahead.
    fn early_answer<P: Platform>(&self, service: &Service<P>) -> Option<HandlerResult> {
        match self.visitor {
            CorsVerdict::Denied => Some(Err(Error::ForeignOrigin)),
            CorsVerdict::NotBrowser | CorsVerdict::Allowed(_) => match cors::preflight(&self.parts) {
                Some(answer) => Some(Ok(answer)),
                None => admit(service, self.route, &self.parts).err().map(Err),
            },
        }
    }

    fn admitted<P: Platform, B>(&self, service: &Service<P>, body: B) -> Admitted<'_, B> {
        let caller = CallerId::of(&self.parts.headers, service.config().caller_header.as_ref());
        Admitted { route: self.route, parts: &self.parts, body, caller, request: &self.request }
    }

    /// Writes the log line, unless a stream does so at its end, and finishes the reply.
    async fn close<P: Platform>(self, service: &Service<P>, handled: Handled) -> Response<ReplyBody> {
        let Self { parts, route, visitor, request } = self;
        let (mut response, notes) = match handled {
            Handled::Streaming(response, notes) => (response, notes),
            Handled::Complete(answer, notes) => {
                request.close(service, &notes, answer.as_ref().map(Response::status)).await;
                let failed = |error: Error| error.into_response(route.family(), &request.request_id);
                (answer.unwrap_or_else(failed), notes)
            }
        };
        response.headers_mut().extend(stamps(&request, &notes, route.family()));
        if let CorsVerdict::Allowed(origin) = visitor {
            cors::allow(response.headers_mut(), origin);
        }
        if parts.method == Method::HEAD { reply::without_body(response) } else { response }
    }
}

/// The reply of a service whose settings do not hold: the same for every path.
pub fn misconfigured(problems: Vec<String>) -> Response<ReplyBody> {
    Error::Misconfigured { problems }.into_response(ErrorFormat::Own, "")
}

/// The headers that tell what happened to the request.
fn stamps(request: &RequestInfo, notes: &ReplyNotes, family: ErrorFormat) -> Vec<(HeaderName, HeaderValue)> {
    let id = HeaderValue::try_from(request.request_id.as_str()).ok();
    let backend = notes.upstream.host.as_ref().map(BackendHost::name);
    let backend = backend.and_then(|name| HeaderValue::from_str(name).ok());
    let cache = notes.cache.map(CacheStatus::as_str).map(HeaderValue::from_static);
    let route = (!notes.upstream.routes.is_empty()).then(|| notes.upstream.routes.join(" | "));
    let route =
        route.and_then(|route| HeaderValue::from_str(route.get(..ROUTE_LIMIT).unwrap_or(&route)).ok());
    let age = notes.age.map(|age| HeaderValue::from(age.as_secs()));
    let session = notes.session.map(SessionStatus::as_str).map(HeaderValue::from_static);
    let left_out = (notes.left_out > 0).then(|| HeaderValue::from(notes.left_out));
    [
        (REQUEST_ID, id.clone().filter(|_| family == ErrorFormat::Anthropic)),
        (X_REQUEST_ID, id),
        (X_PADDOCK_HOST, backend),
        (X_PADDOCK_ROUTE, route),
        (X_CACHE, cache),
        (header::AGE, age),
        (X_SESSION, session),
        (X_SESSION_LEFT_OUT, left_out),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// Whether a request may be answered.
fn admit<P: Platform>(service: &Service<P>, route: Route, parts: &Parts) -> Result<(), Error> {
    let config = service.config();
    if !route.is_open()
        && let Err(refusal) = config.api_keys.check(&parts.headers)
        && !config.admin_token.is_held(&parts.headers)
    {
        return Err(refusal);
    }
    if matches!(route, Route::Unknown(_)) {
        return Err(Error::NotFound);
    }
    if !route.allows(&parts.method) {
        return Err(Error::MethodNotAllowed { allow: route.allow() });
    }
    Ok(())
}

/// Whether the caller is told why its host was chosen: it asks for that and, where there is an admin token, has it.
fn explains<P: Platform>(service: &Service<P>, headers: &HeaderMap) -> bool {
    let is_asked = headers.get(X_PADDOCK_EXPLAIN).is_some_and(|asked| asked == "1");
    is_asked && service.config().admin_token.check(headers).is_ok()
}

/// The id of a request: the client's own where it is short and plain, so that it can be followed through several
/// services; else a random one.
fn request_id<P: Platform>(service: &Service<P>, headers: &HeaderMap) -> String {
    let is_plain = |id: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        !id.is_empty() && id.len() <= REQUEST_ID_LIMIT && id.bytes().all(plain)
    };
    let sent = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_plain);
    sent.map_or_else(|| random_id(service), str::to_owned)
}
