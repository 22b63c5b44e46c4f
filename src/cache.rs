//! The response cache: keys, entries, and when an entry may answer. Pure rules; the store looks up and stores.
//!
//! It never serves an answer to another question or another caller, and keeps no partial, empty or failed answer.

mod answer;
mod entry;
mod form;
mod key;
mod policy;

use serde::Serialize;

pub(crate) use answer::CachedAnswer;
pub(crate) use entry::Repetition;
pub use entry::{Asked, Entry, Stored};
pub use form::Delivery;
pub use key::{AllEpochs, CacheKey, Chat, EPOCHS, Epochs, KeyContext};
pub(crate) use key::{digest_of, epoch_name};
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
    /// Answered by a flight that another request with the same question had begun.
    Coalesced,
    /// The cache was not read: it is off for this request, the client did not want it, or the store is down.
    Bypass,
}

impl CacheStatus {
    /// The value of the header.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Bypass => "bypass",
        }
    }
}
