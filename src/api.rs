//! Paddock's own HTTP: routes, callers, errors, request bodies and replies.
//!
//! It knows no backend host, no store and no settings.

pub mod allowed_hosts;
pub mod auth;
pub(crate) mod body;
pub(crate) mod content_coding;
pub(crate) mod cors;
pub(crate) mod endpoint;
pub mod error;
pub(crate) mod hops;
pub(crate) mod memory_budget;
pub(crate) mod near_route;
pub(crate) mod query;
pub(crate) mod reply;
pub(crate) mod route;
pub(crate) mod unread;
