//! The models component: answers what concerns the models of all hosts, lists and management. Everything it does is in the core; spin.toml gives it only what it needs.

#![cfg(target_family = "wasm")]

use spin_sdk::{
    http::{IntoResponse, Request},
    http_service,
};

#[http_service]
async fn models(request: Request) -> impl IntoResponse {
    paddock_spin_host::models(request).await
}
