//! The sessions component: answers what is kept for callers, `/sessions`. Everything it does is in the core; spin.toml gives it only what it needs.

#![cfg(target_family = "wasm")]

use spin_sdk::{
    http::{IntoResponse, Request},
    http_service,
};

#[http_service]
async fn sessions(request: Request) -> impl IntoResponse {
    paddock_spin_host::sessions(request).await
}
