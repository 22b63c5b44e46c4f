//! The only entry: takes a request, returns its reply.
//!
//! It checks the host and the origin, finds the route, checks the API key, calls the handler, and writes the log line of every
//! request whose reply does not stream. It must never return an error: each error becomes a reply in the format of the
//! request's endpoint.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header, request::Parts};
use http_body::Body;

use crate::{
    api::{
        auth::{CallerId, KeyUse},
        cors::{self, CorsVerdict},
        error::{Error, ErrorFormat},
        near_route,
        reply::{self, ReplyBody},
        route::Route,
        unread::TrackedBody,
    },
    cache::CacheStatus,
    config::settings::Deployment,
    fleet::BackendHost,
    handlers::{self, Handled, HandlerResult, IncomingRequest, WholeReply},
    host::{Platform, Service},
    platform::{Clock, MaybeSend, random_id},
    request::{ReplyNotes, RequestInfo, StoreAccess},
    session::SessionStatus,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The name of `X-Request-Id` in Anthropic's API.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_SESSION: HeaderName = HeaderName::from_static("x-session");
const X_SESSION_TURN: HeaderName = HeaderName::from_static("x-session-turn");
const X_SESSION_LEFT_OUT: HeaderName = HeaderName::from_static("x-session-left-out");
const X_PADDOCK_EXPLAIN: HeaderName = HeaderName::from_static("x-paddock-explain");
const X_PADDOCK_ROUTE: HeaderName = HeaderName::from_static("x-paddock-route");
const X_PADDOCK_HOST: HeaderName = HeaderName::from_static("x-paddock-host");
/// The maximum length of `X-Paddock-Route`, in bytes: clients and proxies refuse much longer heads.
const ROUTE_LIMIT: usize = 4096;
/// The maximum length of a client's own request id, in bytes.
const REQUEST_ID_LIMIT: usize = 128;

/// Makes an entry function for each group of handlers, with the steps that all requests have in common. It is a macro
/// because a generic function over `AsyncFnOnce` could not promise a future that is `Send`.
macro_rules! entries {
    ($($(#[$about:meta])* $name:ident => $part:path;)*) => {$(
        $(#[$about])*
        pub async fn $name<P, B>(service: &Service<P>, request: Request<B>) -> Response<ReplyBody>
        where
            P: Platform,
            B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
        {
            let (mut exchange, mut body) = Exchange::of(service, request);
            let result = match exchange.early_answer(service) {
                Some(answer) => answer.map(Handled::from),
                None => $part(service, exchange.incoming(&mut body)).await,
            };
            exchange.close(service, result, body).await
        }
    )*};
}

entries! {
    /// Answers one request.
    ///
    /// Dropping the future, or later the body of the reply, means that the client left: the upstream call is
    /// cancelled at once, and nothing partial is stored.
    handle => handlers::whole;

    /// As [`handle()`], for the questions that one host answers only: `/chat` and the relayed endpoints.
    chat => handlers::chat;

    /// As [`handle()`], for what concerns all hosts only: lists of models, their management, the banner; and the
    /// description of this API.
    models => handlers::models;

    /// As [`handle()`], for the stored state only: sessions, and the purge of the cache.
    sessions => handlers::sessions;

    /// As [`handle()`], for `/health`, `/livez` and `/fleet` only.
    health => handlers::health;

    /// As [`handle()`], for `/metrics` only.
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

/// A request from its arrival to its reply: the steps before and after its handler.
struct Exchange {
    parts: Parts,
    route: Route,
    is_host_allowed: bool,
    cors_verdict: CorsVerdict,
    info: Arc<RequestInfo>,
    /// The refusal of a request that has come back.
    looped: Option<Error>,
    /// The caller id of the key that opened the service; `None` where no key is set, or the route is open and none came.
    opened_by: Option<CallerId>,
}

impl Exchange {
    fn of<P: Platform, B>(service: &Service<P>, request: Request<B>) -> (Self, TrackedBody<B>)
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (parts, body) = request.into_parts();
        let route = Route::of(parts.uri.path());
        let access = &service.config().access;
        let is_host_allowed = access.allows_host(&parts);
        // A page that has its own name resolve to this machine must not read the refusal either.
        let cors_verdict = if is_host_allowed { access.origins.judge(&parts) } else { CorsVerdict::Denied };
        let hops = if route.asks_hosts() { service.hop_mark().after(&parts.headers) } else { Ok(None) };
        let (hops, looped) = hops.map_or_else(|looped| (None, Some(looped)), |hops| (hops, None));
        let is_of_other_page = matches!(cors_verdict, CorsVerdict::Allowed(_));
        let info = Arc::new(RequestInfo {
            request_id: request_id(service, &parts.headers),
            method: parts.method.clone(),
            route: route.label(),
            is_counted: route.is_counted(),
            started: service.now(),
            explains: !is_of_other_page && explains(service, &parts.headers),
            hops,
            store: StoreAccess::new(service),
        });
        let body = TrackedBody::new(&parts, body);
        (Self { parts, route, is_host_allowed, cors_verdict, info, looped, opened_by: None }, body)
    }

    /// The reply that needs no handler: a refusal, or the answer to a CORS preflight. The host comes first: under a name
    /// that is not ours, `Origin` shows nothing. What has come back is refused before it can cost more.
    fn early_answer<P: Platform>(&mut self, service: &Service<P>) -> Option<WholeReply> {
        if !self.is_host_allowed {
            return Some(Err(Error::HostNotAllowed));
        }
        if let Some(looped) = self.looped.take() {
            return Some(Err(looped));
        }
        match self.cors_verdict {
            CorsVerdict::Denied => Some(Err(Error::ForeignOrigin)),
            CorsVerdict::NotBrowser | CorsVerdict::Own(_) | CorsVerdict::Allowed(_) => {
                match cors::preflight(&self.parts) {
                    Some(answer) => Some(Ok(answer)),
                    None => match self.admit(service) {
                        Ok(opened_by) => {
                            self.opened_by = opened_by;
                            None
                        }
                        Err(refusal) => Some(Err(refusal)),
                    },
                }
            }
        }
    }

    /// Checks the API key, the route, the method and the page, in this order. Gives the caller id of the key, where keys are
    /// set.
    fn admit<P: Platform>(&self, service: &Service<P>) -> Result<Option<CallerId>, Error> {
        let Self { route, parts, cors_verdict, .. } = self;
        let access = &service.config().access;
        let opened_by = if access.api_keys.is_open() {
            None
        } else {
            let changes = parts.method == Method::DELETE || route.changes_models();
            let key_use = if changes { KeyUse::Change } else { KeyUse::Ask };
            let key = access.api_keys.opened_by(&parts.headers, key_use);
            let key = key.or_else(|| access.admin_token.opened_by(&parts.headers));
            if key.is_none() && !route.is_open(&parts.method) {
                return Err(Error::Unauthorized);
            }
            key
        };
        if matches!(route, Route::Unknown(_)) {
            return Err(near_route::refusal(parts));
        }
        if !route.allows(&parts.method) {
            return Err(Error::MethodNotAllowed { allow: route.allow() });
        }
        if route.is_administrative() && matches!(cors_verdict, CorsVerdict::Allowed(_)) {
            return Err(Error::ForeignAdministration);
        }
        Ok(opened_by)
    }

    fn incoming<B>(&self, body: B) -> IncomingRequest<'_, B> {
        let opened_by = self.opened_by.clone();
        IncomingRequest { route: self.route, parts: &self.parts, body, opened_by, info: &self.info }
    }

    /// Writes the log line, unless a stream does so at its end, and finishes the reply. What was not read of the body is
    /// discarded meanwhile.
    async fn close<P: Platform, B>(
        self,
        service: &Service<P>,
        result: HandlerResult,
        body: TrackedBody<B>,
    ) -> Response<ReplyBody>
    where
        B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
    {
        let Self { parts, route, cors_verdict, info, opened_by, .. } = self;
        let handled = result.unwrap_or_else(|error| Handled::Complete(Err(error), Box::default()));
        let (mut response, notes) = match handled {
            Handled::Streaming(response, notes) => (response, notes),
            Handled::Complete(answer, notes) => {
                let held = || service.account(&opened_by.unwrap_or_else(CallerId::public));
                let is_sent = parts.method != Method::HEAD;
                let answer = answer.and_then(|response| {
                    if is_sent { reply::held(response, held, service) } else { Ok(response) }
                });
                info.close(service, &notes, answer.as_ref().map(Response::status)).await;
                let failed = |error: Error| error.into_response(route.family(), &info.request_id);
                (answer.unwrap_or_else(failed), notes)
            }
        };
        response.headers_mut().extend(stamps(&info, &notes, route.family()));
        if let CorsVerdict::Own(origin) | CorsVerdict::Allowed(origin) = cors_verdict {
            cors::allow(response.headers_mut(), origin);
        }
        if body.is_unread() {
            // Spin forbids components this header.
            if P::DEPLOYMENT == Deployment::Native {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            body.discard(&parts.headers, service);
        }
        if parts.method == Method::HEAD { reply::without_body(response) } else { response }
    }
}

/// The reply of a service whose settings are invalid. It is the same for every path.
pub fn misconfigured(problems: Vec<String>) -> Response<ReplyBody> {
    Error::Misconfigured { problems }.into_response(ErrorFormat::Own, "")
}

/// The reply on a connection that an embedder has no room for. The connection ends with it.
pub fn too_many_connections(path: &str) -> Response<ReplyBody> {
    let mut response = Error::TooManyConnections.into_response(Route::of(path).family(), "");
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The reply headers that say what happened to the request.
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
    let turn = notes.turn.map(HeaderValue::from);
    let left_out = (notes.left_out > 0).then(|| HeaderValue::from(notes.left_out));
    [
        (REQUEST_ID, id.clone().filter(|_| family == ErrorFormat::Anthropic)),
        (X_REQUEST_ID, id),
        (X_PADDOCK_HOST, backend),
        (X_PADDOCK_ROUTE, route),
        (X_CACHE, cache),
        (header::AGE, age),
        (X_SESSION, session),
        (X_SESSION_TURN, turn),
        (X_SESSION_LEFT_OUT, left_out),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// Whether the reply explains the routing decision: the request asks for it and, if an admin token is configured,
/// carries it.
fn explains<P: Platform>(service: &Service<P>, headers: &HeaderMap) -> bool {
    let is_asked = headers.get(X_PADDOCK_EXPLAIN).is_some_and(|asked| asked == "1");
    is_asked && service.config().access.admin_token.check(headers).is_ok()
}

/// The id of a request: the client's own if it is short and plain, so that a request can be traced through several
/// services; else a random one.
fn request_id<P: Platform>(service: &Service<P>, headers: &HeaderMap) -> String {
    let is_plain = |id: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        !id.is_empty() && id.len() <= REQUEST_ID_LIMIT && id.bytes().all(plain)
    };
    let sent = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_plain);
    sent.map_or_else(|| random_id(service), str::to_owned)
}
