//! Which group of handlers answers a route. Spin deploys each group as a component of its own, so a group must never
//! name another: the component holds only the code of its group. A group answers the routes of the others with 404.

mod ask;
mod models;
mod ops;
mod sessions;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode, request::Parts};
use http_body::Body;

use crate::{
    api::{
        auth::CallerId,
        endpoint::Endpoint,
        error::Error,
        reply::{self, ReplyBody},
        route::{AskRoute, ModelsRoute, OpsRoute, Route, SessionsRoute},
    },
    host::{Platform, Service},
    platform::MaybeSend,
    request::{ReplyNotes, RequestInfo},
};

/// The body of Ollama's own `GET /`. Clients compare it to find out whether Ollama is running.
const BANNER: &str = "Ollama is running";

/// A request that was let in: its route exists, allows its method, and is open to its key.
pub(crate) struct IncomingRequest<'a, B> {
    pub(crate) route: Route,
    pub(crate) parts: &'a Parts,
    pub(crate) body: B,
    /// The caller id of the key that opened the service; `None` where no key is set, or the route is open and none came.
    pub(crate) opened_by: Option<CallerId>,
    pub(crate) info: &'a Arc<RequestInfo>,
}

/// The body of a request.
pub(crate) trait RequestBody: Body<Data = Bytes> + Unpin + MaybeSend {}
impl<B: Body<Data = Bytes> + Unpin + MaybeSend> RequestBody for B {}

/// A reply whose body is complete, or the error that becomes one.
pub(crate) type WholeReply = Result<Response<ReplyBody>, Error>;

/// The result of a handler. An error here has no notes: it was found before anything was done for the request.
pub(crate) type HandlerResult = Result<Handled, Error>;

/// What a handler made of a request.
pub(crate) enum Handled {
    /// The whole reply; the entry writes the log line.
    Complete(WholeReply, Box<ReplyNotes>),
    /// The reply streams; whoever writes the stream writes the log line at its end. The notes are those of the head.
    Streaming(Response<ReplyBody>, Box<ReplyNotes>),
}

impl From<Response<ReplyBody>> for Handled {
    fn from(response: Response<ReplyBody>) -> Self {
        Self::Complete(Ok(response), Box::default())
    }
}

/// Answers every route: the native service.
pub(crate) async fn whole<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: IncomingRequest<'_, B>,
) -> HandlerResult {
    match request.route {
        Route::Ask(_) => chat(service, request).await,
        Route::Models(_) => models(service, request).await,
        Route::Sessions(_) => sessions(service, request).await,
        Route::Ops(OpsRoute::Health | OpsRoute::Livez | OpsRoute::Fleet) => health(service, request).await,
        Route::Ops(OpsRoute::Metrics) => metrics(service, request).await,
        Route::Unknown(_) => Err(Error::NOT_FOUND),
    }
}

/// Answers the questions that one host answers.
pub(crate) async fn chat<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: IncomingRequest<'_, B>,
) -> HandlerResult {
    let IncomingRequest { route, parts, body, opened_by, info } = request;
    let Route::Ask(route) = route else { return Err(Error::NOT_FOUND) };
    let has_no_key = opened_by.is_none() && !service.config().access.api_keys.is_open();
    if has_no_key && route == AskRoute::Relay(Endpoint::OllamaVersion) {
        return ask::version::last_seen(service, &info.store).await.map(Handled::from);
    }
    let caller = caller_id(service, parts, opened_by)?;
    match route {
        AskRoute::Chat => ask::chat::chat(service, &parts.headers, body, &caller, info).await,
        AskRoute::Relay(endpoint) => ask::relay::relay(service, endpoint, parts, body, &caller, info).await,
    }
}

/// Answers what concerns the models of all hosts (lists, management, the banner), and describes this API.
pub(crate) async fn models<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: IncomingRequest<'_, B>,
) -> HandlerResult {
    let IncomingRequest { route, parts, body, info, .. } = request;
    let Route::Models(route) = route else { return Err(Error::NOT_FOUND) };
    let access = &service.config().access;
    let response = match route {
        ModelsRoute::OpenApi => {
            reply::complete(StatusCode::OK, "application/json", models::openapi::DOCUMENT)
        }
        ModelsRoute::Banner => reply::complete(StatusCode::OK, "text/plain; charset=utf-8", BANNER),
        ModelsRoute::List(list) => models::list::list(service, list, info).await?,
        ModelsRoute::Manage(operation) => {
            if !access.allow_model_management && !access.admin_token.is_held(&parts.headers) {
                return Err(Error::ManagementForbidden);
            }
            return models::manage::manage(service, operation, &parts.headers, body, info).await;
        }
        ModelsRoute::Upload(_) => return Err(Error::UploadForbidden),
    };
    Ok(response.into())
}

/// Answers what concerns the stored state: sessions, and the purge of the cache. It sends nothing to a host.
pub(crate) async fn sessions<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: IncomingRequest<'_, B>,
) -> HandlerResult {
    let IncomingRequest { route, parts, body, opened_by, info } = request;
    let store = &info.store;
    let Route::Sessions(route) = route else { return Err(Error::NOT_FOUND) };
    // An error in the caller's headers is reported after one in the query.
    let caller = || caller_id(service, parts, opened_by);
    let response = match route {
        SessionsRoute::Cache => sessions::purge::purge(service, parts, store).await,
        SessionsRoute::All => sessions::create(service, &parts.headers, body, caller(), store).await,
        SessionsRoute::One if parts.method == Method::DELETE => {
            sessions::delete(service, parts, caller(), store).await
        }
        SessionsRoute::One => sessions::show(service, parts, caller(), store).await,
        SessionsRoute::Export => sessions::export(service, parts, caller(), store).await,
    };
    response.map(Handled::from)
}

/// The caller of a request. It is made here only, and only for the groups that need it.
fn caller_id<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    opened_by: Option<CallerId>,
) -> Result<CallerId, Error> {
    CallerId::of(&parts.headers, service.config().access.caller_header.as_ref(), opened_by)
}

/// Answers whether the service is alive, whether its hosts are, and how the fleet is doing.
pub(crate) async fn health<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: IncomingRequest<'_, B>,
) -> HandlerResult {
    let Route::Ops(route) = request.route else { return Err(Error::NOT_FOUND) };
    let response = match route {
        OpsRoute::Health => ops::health::health(service, &request.parts.headers).await,
        OpsRoute::Fleet => ops::fleet::fleet(service, &request.parts.headers).await?,
        OpsRoute::Livez => reply::complete(StatusCode::OK, "application/json", r#"{"status":"alive"}"#),
        OpsRoute::Metrics => return Err(Error::NOT_FOUND),
    };
    Ok(response.into())
}

/// Answers the scrape of the metrics.
pub(crate) async fn metrics<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: IncomingRequest<'_, B>,
) -> HandlerResult {
    if request.route == Route::Ops(OpsRoute::Metrics) {
        Ok(ops::scrape::scrape(service).await.into())
    } else {
        Err(Error::NOT_FOUND)
    }
}
