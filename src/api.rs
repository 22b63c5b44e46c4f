//! Our own HTTP: what comes in and goes out, whoever answers it.
//!
//! It knows no host, no store and no setting.

pub mod auth;
pub(crate) mod body;
pub(crate) mod cors;
pub(crate) mod endpoint;
pub mod error;
pub(crate) mod query;
pub(crate) mod reply;
pub(crate) mod route;
