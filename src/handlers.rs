//! Which group of handlers answers a route. Spin deploys each group as a component of its own, so a group must never
//! name another: the component holds only the code of its group. A group answers the routes of the others with 404.

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

/// The body of Ollama's own `GET /`. Clients compare it to find out whether Ollama is running.
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

/// Answers every route: the native service.
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

/// Answers the questions that one host answers.
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

/// Answers what concerns the models of all hosts (lists, management, the banner), and describes this API.
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

/// Answers what concerns the stored state: sessions, and the purge of the cache. It sends nothing to a host.
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

/// Answers whether the service is alive, whether its hosts are, and how the fleet is doing.
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

/// Answers the scrape of the metrics.
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
