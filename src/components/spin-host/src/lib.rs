//! Paddock's ports over the Spin SDK: what the components have in common.
//!
//! A leaf: it moves bytes and never decides. One instance serves many requests, several at once, and dies after a
//! second of idleness: what requests share here is plain data (settings, a connection), never a lock, a channel or
//! a future in progress, for waking one request's task from another's traps the instance. (wit-bindgen 0.57 has a
//! feature against that, `inter-task-wakeup`, but it breaks a rule of the component model that wasmtime enforces
//! from 48 on, and would trap every request.) It must not panic: that would end every request of the instance.

#![cfg(target_family = "wasm")]

mod background;
mod body;
mod platform;
mod redis;
mod settings;
mod upstream;
mod within;

use std::cell::RefCell;

use paddock::ReplyBody;
use spin_sdk::{
    http::{IntoResponse, Request},
    wasip3::http::types::Request as Incoming,
};

use crate::{
    background::Spawning,
    body::SpinBody,
    platform::{SpinPlatform, SpinService},
};

thread_local! {
    /// The service of this instance, once its settings were read.
    static SERVICE: RefCell<Option<SpinService>> = const { RefCell::new(None) };
}

/// Answers one request to the component `chat`.
pub async fn chat(request: Request) -> impl IntoResponse {
    serve(request, paddock::handle::chat).await
}

/// Answers one request to the component `models`.
pub async fn models(request: Request) -> impl IntoResponse {
    serve(request, paddock::handle::models).await
}

/// Answers one request to the component `sessions`.
pub async fn sessions(request: Request) -> impl IntoResponse {
    serve(request, paddock::handle::sessions).await
}

/// Answers one request to the component `health`.
pub async fn health(request: Request) -> impl IntoResponse {
    serve(request, paddock::handle::health).await
}

/// Answers one request to the component `metrics`.
pub async fn metrics(request: Request) -> impl IntoResponse {
    serve(request, paddock::handle::metrics).await
}

/// Answers one request by `handle`.
async fn serve(
    request: Request,
    handle: impl AsyncFnOnce(&SpinService, http::Request<SpinBody<Incoming>>) -> http::Response<ReplyBody>,
) -> impl IntoResponse {
    match instance_service().await {
        Ok(service) => {
            let request = request.map(|body| SpinBody::new(body, None));
            Spawning(Box::pin(handle(&service, request))).await
        }
        Err(problems) => paddock::misconfigured(problems),
    }
}

/// The service of this instance. Requests that find none at the same time each make one; the last stays.
async fn instance_service() -> Result<SpinService, Vec<String>> {
    if let Some(service) = SERVICE.with_borrow(Clone::clone) {
        return Ok(service);
    }
    let service = SpinPlatform::service().await?;
    SERVICE.set(Some(service.clone()));
    Ok(service)
}
