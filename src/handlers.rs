//! The parts of the service, for a form that answers each by a program of its own: a program holds nothing of the
//! parts that it leaves to others. To a part the routes of the others are unknown.

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
        error::Error,
        reply::{self, ReplyBody},
        route::{AskRoute, ModelsRoute, OpsRoute, Route, SessionsRoute},
    },
    host::{Platform, Service},
    platform::MaybeSend,
    request::{ReplyNotes, RequestInfo},
};

/// What Ollama says to whoever asks whether it is there.
const BANNER: &str = "Ollama is running";

/// A request that was admitted, and who asks.
pub(crate) struct Admitted<'a, B> {
    pub(crate) route: Route,
    pub(crate) parts: &'a Parts,
    pub(crate) body: B,
    /// Whoever asks; the error is told where it matters who that is.
    pub(crate) caller: Result<CallerId, Error>,
    pub(crate) request: &'a Arc<RequestInfo>,
}

/// The body of a request.
pub(crate) trait RequestBody: Body<Data = Bytes> + Unpin + MaybeSend + 'static {}
impl<B: Body<Data = Bytes> + Unpin + MaybeSend + 'static> RequestBody for B {}

/// A whole reply, or why there is none.
pub(crate) type HandlerResult = Result<Response<ReplyBody>, Error>;

/// What a handler made of a request.
pub(crate) enum Handled {
    /// The whole reply; the entry writes the log line.
    Complete(HandlerResult, Box<ReplyNotes>),
    /// The reply streams; whoever writes the stream writes the log line at its end. The notes are those of the head.
    Streaming(Response<ReplyBody>, Box<ReplyNotes>),
}

impl From<HandlerResult> for Handled {
    fn from(result: HandlerResult) -> Self {
        Self::Complete(result, Box::default())
    }
}

/// The whole service.
pub(crate) async fn whole<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> Handled {
    match request.route {
        Route::Ask(_) => chat(service, request).await,
        Route::Models(_) => models(service, request).await,
        Route::Sessions(_) => sessions(service, request).await.into(),
        Route::Ops(OpsRoute::Health | OpsRoute::Livez | OpsRoute::Fleet) => {
            health(service, request).await.into()
        }
        Route::Ops(OpsRoute::Metrics) => metrics(service, request).await.into(),
        Route::Unknown(_) => Err(Error::NotFound).into(),
    }
}

/// Questions to one host.
pub(crate) async fn chat<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> Handled {
    let Admitted { route, parts, body, caller, request } = request;
    let Route::Ask(route) = route else { return Err(Error::NotFound).into() };
    let caller = match caller {
        Ok(caller) => caller,
        Err(error) => return Err(error).into(),
    };
    match route {
        AskRoute::Chat => ask::chat::chat(service, &parts.headers, body, &caller, request).await,
        AskRoute::Relay(endpoint) => {
            ask::relay::relay(service, endpoint, parts, body, &caller, request).await
        }
    }
}

/// What concerns the models of all hosts: lists, their management, the banner; and what this API is.
pub(crate) async fn models<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> Handled {
    let Admitted { route, parts, body, request, .. } = request;
    let Route::Models(route) = route else { return Err(Error::NotFound).into() };
    let config = service.config();
    match route {
        ModelsRoute::OpenApi => {
            Ok(reply::complete(StatusCode::OK, "application/json", models::openapi::DOCUMENT)).into()
        }
        ModelsRoute::Banner => {
            Ok(reply::complete(StatusCode::OK, "text/plain; charset=utf-8", BANNER)).into()
        }
        ModelsRoute::List(list) => models::list::list(service, list).await.into(),
        ModelsRoute::Manage(operation) => {
            if !config.allow_model_management && !config.admin_token.is_held(&parts.headers) {
                return Err(Error::ManagementForbidden).into();
            }
            models::manage::manage(service, operation, &parts.headers, body, request).await
        }
        ModelsRoute::Upload(_) => Err(Error::UploadForbidden).into(),
    }
}

/// What is kept: sessions, and answers that are to be forgotten. It asks no host.
pub(crate) async fn sessions<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    let Admitted { route, parts, body, caller, request } = request;
    let store = &request.store;
    let Route::Sessions(route) = route else { return Err(Error::NotFound) };
    match route {
        SessionsRoute::Cache => sessions::purge::purge(service, parts, store).await,
        SessionsRoute::All => sessions::create(service, &parts.headers, body, caller, store).await,
        SessionsRoute::One if parts.method == Method::DELETE => {
            sessions::delete(service, parts, caller, store).await
        }
        SessionsRoute::One => sessions::show(service, parts, caller, store).await,
        SessionsRoute::Export => sessions::export(service, parts, caller, store).await,
    }
}

/// Whether the service and its hosts live, and how they stand.
pub(crate) async fn health<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    let Route::Ops(route) = request.route else { return Err(Error::NotFound) };
    match route {
        OpsRoute::Health => Ok(ops::health::health(service).await),
        OpsRoute::Fleet => ops::fleet::fleet(service, &request.parts.headers).await,
        OpsRoute::Livez => Ok(reply::complete(StatusCode::OK, "application/json", r#"{"status":"alive"}"#)),
        OpsRoute::Metrics => Err(Error::NotFound),
    }
}

/// The counters.
pub(crate) async fn metrics<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    if request.route == Route::Ops(OpsRoute::Metrics) {
        Ok(ops::scrape::scrape(service).await)
    } else {
        Err(Error::NotFound)
    }
}
