//! What a broadcast begins with: the kind of answer, and where it comes from.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;

use crate::{
    api::error::{Error, Original},
    cache::{CacheStatus, CachedAnswer},
    fleet::BackendHost,
};

/// What a flight brings first.
#[derive(Debug, Clone)]
pub(crate) enum Head {
    /// Events, from now on.
    Stream { content_type: HeaderValue },
    /// The whole answer, added up.
    Spoken(Arc<CachedAnswer>),
    /// Upstream's whole reply as it came.
    Whole(Original),
    /// An answer that was stored so long ago.
    Found(Replay, Duration),
    /// Nothing.
    Failed(Error),
}

/// Where an answer comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Provenance {
    /// What the cache did for whoever leads.
    pub(crate) cache: Option<CacheStatus>,
    pub(crate) backend: Option<BackendHost>,
    pub(crate) routes: Vec<String>,
}

/// A stored answer as it is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Replay {
    /// Upstream's events.
    Events(HeaderValue, Vec<Bytes>),
    /// The answer, added up.
    Spoken(CachedAnswer),
    /// Upstream's whole reply.
    Whole(Original),
}
