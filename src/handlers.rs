//! The parts of the service, for a form that answers each by a program of its own: a program holds nothing of the
//! parts that it leaves to others. To a part the routes of the others are unknown.

mod ask;
mod models;
mod ops;
mod sessions;

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
    request::Account,
};

/// What Ollama says to whoever asks whether it is there.
const BANNER: &str = "Ollama is running";

/// A request that was admitted, and its account.
pub(crate) struct Admitted<'a, B> {
    pub(crate) route: Route,
    pub(crate) parts: &'a Parts,
    pub(crate) body: B,
    pub(crate) account: &'a mut Account,
}

/// The body of a request.
pub(crate) trait RequestBody: Body<Data = Bytes> + Unpin + MaybeSend + 'static {}
impl<B: Body<Data = Bytes> + Unpin + MaybeSend + 'static> RequestBody for B {}

pub(crate) type HandlerResult = Result<Response<ReplyBody>, Error>;

/// The whole service.
pub(crate) async fn whole<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    match request.route {
        Route::Ask(_) => chat(service, request).await,
        Route::Models(_) => models(service, request).await,
        Route::Sessions(_) => sessions(service, request).await,
        Route::Ops(OpsRoute::Health | OpsRoute::Livez | OpsRoute::Fleet) => health(service, request).await,
        Route::Ops(OpsRoute::Metrics) => metrics(service, request).await,
        Route::Unknown(_) => Err(Error::NotFound),
    }
}

/// Questions to one host.
pub(crate) async fn chat<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    let Admitted { route, parts, body, account } = request;
    let Route::Ask(route) = route else { return Err(Error::NotFound) };
    let caller = caller_id(service, parts)?;
    match route {
        AskRoute::Chat => ask::chat::chat(service, &parts.headers, body, &caller, account).await,
        AskRoute::Relay(endpoint) => {
            ask::relay::relay(service, endpoint, parts, body, &caller, account).await
        }
    }
}

/// What concerns the models of all hosts: lists, their management, the banner; and what this API is.
pub(crate) async fn models<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    let Admitted { route, parts, body, account } = request;
    let Route::Models(route) = route else { return Err(Error::NotFound) };
    let config = service.config();
    match route {
        ModelsRoute::OpenApi => {
            Ok(reply::complete(StatusCode::OK, "application/json", models::openapi::DOCUMENT))
        }
        ModelsRoute::Banner => Ok(reply::complete(StatusCode::OK, "text/plain; charset=utf-8", BANNER)),
        ModelsRoute::List(list) => models::list::list(service, list).await,
        ModelsRoute::Manage(operation) => {
            if !config.access.allow_model_management && !config.access.admin_token.is_held(&parts.headers) {
                return Err(Error::ManagementForbidden);
            }
            models::manage::manage(service, operation, &parts.headers, body, account).await
        }
        ModelsRoute::Upload(_) => Err(Error::UploadForbidden),
    }
}

/// What is kept: sessions, and answers that are to be forgotten. It asks no host.
pub(crate) async fn sessions<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    let Admitted { route, parts, body, account } = request;
    let Route::Sessions(route) = route else { return Err(Error::NotFound) };
    // A mistake of the caller's headers is told only after those of the query.
    let caller = || caller_id(service, parts);
    match route {
        SessionsRoute::Cache => sessions::purge::purge(service, parts, account).await,
        SessionsRoute::All => sessions::create(service, &parts.headers, body, caller(), account).await,
        SessionsRoute::One if parts.method == Method::DELETE => {
            sessions::delete(service, parts, caller(), account).await
        }
        SessionsRoute::One => sessions::show(service, parts, caller(), account).await,
        SessionsRoute::Export => sessions::export(service, parts, caller(), account).await,
    }
}

/// Who asks. It is found out here alone, and only for the groups to which it matters.
fn caller_id<P: Platform>(service: &Service<P>, parts: &Parts) -> Result<CallerId, Error> {
    CallerId::of(&parts.headers, service.config().access.caller_header.as_ref())
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
