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
        error::Error,
        reply::{self, ReplyBody},
        route::Route,
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
        Route::Chat | Route::Relay(_) => chat(service, request).await,
        Route::OpenApi | Route::Banner | Route::List(_) | Route::Manage(_) | Route::Upload(_) => {
            models(service, request).await
        }
        Route::Health | Route::Livez | Route::Fleet => health(service, request).await,
        Route::Cache | Route::Sessions | Route::Session | Route::SessionExport => {
            sessions(service, request).await
        }
        Route::Metrics => metrics(service, request).await,
        Route::Unknown(_) => Err(Error::NotFound),
    }
}

/// Questions to one host.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other parts' routes")]
pub(crate) async fn chat<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    let Admitted { route, parts, body, account } = request;
    match route {
        Route::Chat => ask::chat::chat(service, &parts.headers, body, account).await,
        Route::Relay(surface) => ask::relay::relay(service, surface, parts, body, account).await,
        _ => Err(Error::NotFound),
    }
}

/// What concerns all hosts: lists of models, their management, the banner; and what this API is.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other parts' routes")]
pub(crate) async fn models<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    let Admitted { route, parts, body, account } = request;
    let config = service.config();
    match route {
        Route::OpenApi => Ok(reply::complete(StatusCode::OK, "application/json", models::openapi::DOCUMENT)),
        Route::Banner => Ok(reply::complete(StatusCode::OK, "text/plain; charset=utf-8", BANNER)),
        Route::List(list) => models::list::list(service, list).await,
        Route::Manage(operation) => {
            if !config.allow_model_management && !config.admin_token.is_held(&parts.headers) {
                return Err(Error::ManagementForbidden);
            }
            models::manage::manage(service, operation, &parts.headers, body, account).await
        }
        Route::Upload(_) => Err(Error::UploadForbidden),
        _ => Err(Error::NotFound),
    }
}

/// What is kept: sessions, and answers that are to be forgotten. It asks no host.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other parts' routes")]
pub(crate) async fn sessions<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    let Admitted { route, parts, body, account } = request;
    match route {
        Route::Cache => sessions::purge::purge(service, parts, account).await,
        Route::Sessions => sessions::create(service, &parts.headers, body, account).await,
        Route::Session if parts.method == Method::DELETE => sessions::delete(service, parts, account).await,
        Route::Session => sessions::show(service, parts, account).await,
        Route::SessionExport => sessions::export(service, parts, account).await,
        _ => Err(Error::NotFound),
    }
}

/// Whether the service and its hosts live, and how they stand.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other parts' routes")]
pub(crate) async fn health<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    match request.route {
        Route::Health => Ok(ops::health::health(service).await),
        Route::Fleet => ops::fleet::fleet(service, &request.parts.headers).await,
        Route::Livez => Ok(reply::complete(StatusCode::OK, "application/json", r#"{"status":"alive"}"#)),
        _ => Err(Error::NotFound),
    }
}

/// The counters.
pub(crate) async fn metrics<P: Platform, B: RequestBody>(
    service: &Service<P>,
    request: Admitted<'_, B>,
) -> HandlerResult {
    if request.route == Route::Metrics {
        Ok(ops::scrape::scrape(service).await)
    } else {
        Err(Error::NotFound)
    }
}
