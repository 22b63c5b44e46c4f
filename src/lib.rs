//! Paddock: the AI service that stands between clients and a herd of Ollama servers.
//!
//! This crate is the whole service as a library of handlers. [`handle()`] takes a request and answers it;
//! everything it needs from the outside comes through the small traits in [`host`], so the same code runs as
//! WebAssembly components on Spin and inside the native binary `host-shim`.
//!
//! The core never reads a clock, an environment variable or a random number, never names a runtime, and spawns
//! only through the port [`host::Background`]. A host moves bytes; every decision is made here.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mod@handle`] | the only entry: method and path to chat, health, metrics, 404 or 405 |
//! | [`host`] | the ports a host implements |
//! | [`settings`], [`config`] | the table of settings, and what they mean once checked |
//! | [`error`] | everything that can go wrong, as one enum with exhaustive tables |
//! | [`fleet`] | the backend hosts, the load balancer and the failover rules |
//! | [`cache`], [`session`] | keys and values of shared state, and the pure rules over them |
//! | [`store`] | shared state as semantic ports, over memory and over Redis |
//! | [`metrics`] | what is counted, and its Prometheus text |
//! | [`journal`] | what is logged, as typed events that cannot carry a message's content |

#![forbid(unsafe_code)]

mod account;
mod body;
mod budget;
pub mod cache;
pub mod caller;
mod chat;
pub mod config;
mod conversation;
pub mod error;
pub mod fleet;
mod flight;
pub mod handle;
pub mod health;
pub mod host;
mod inquiry;
pub mod journal;
mod listing;
mod management;
#[cfg(all(feature = "memory", not(target_family = "wasm")))]
pub mod memory_host;
pub mod metrics;
mod openapi;
mod origin;
mod part;
mod purge;
mod query;
mod relay;
mod reply;
mod route;
pub mod session;
mod sessions;
pub mod settings;
mod standing;
pub mod store;
mod surface;
pub mod survey;
mod window;
pub mod wire;

pub use config::Config;
pub use error::Error;
pub use fleet::{BackendHost, LoadBalancer, is_same_model};
pub use handle::{handle, misconfigured};
pub use host::Host;
pub use origin::Origins;
pub use reply::ReplyBody;
