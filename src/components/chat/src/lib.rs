//! The chat component: answers `POST /chat` and what one host answers on `/api` and `/v1`. Everything it does is in the core; spin.toml gives it only what it needs.

#![cfg(target_family = "wasm")]

use spin_sdk::{
    http::{IntoResponse, Request},
    http_service,
};

#[http_service]
async fn chat(request: Request) -> impl IntoResponse {
    paddock_spin_host::chat(request).await
}
