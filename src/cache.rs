//! The response cache: keys, values, and when it may answer. Pure rules; looking up and storing are the store's.
//!
//! It never answers another question or another caller, and nothing partial, empty or failed is ever kept.

mod answer;
mod entry;
mod form;
mod key;
mod policy;

use serde::Serialize;

pub use answer::CachedAnswer;
pub use entry::{Entry, Stored};
pub use form::Delivery;
pub(crate) use key::epoch_name;
pub use key::{AllEpochs, CacheKey, Chat, Epochs, KeyContext, digest_of};
pub(crate) use policy::{CacheControl, CachePolicy};
pub use policy::{CacheMode, CacheModes, CacheSharing};

/// What the cache did for a request; the header `X-Cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheStatus {
    /// Answered from the cache.
    Hit,
    /// Looked up, not found, asked upstream.
    Miss,
    /// Answered together with the same question, which had been asked and was not answered yet.
    Coalesced,
    /// Not looked up: switched off for it, not wanted, or the store is down.
    Bypass,
}

impl CacheStatus {
    /// The value of the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Bypass => "bypass",
        }
    }
}
