//! The head of a broadcast: the kind of answer, and where it comes from.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::{
    api::error::{Error, Original},
    cache::{CacheStatus, CachedAnswer},
    fleet::BackendHost,
};

/// What a flight brings first.
#[derive(Debug, Clone)]
pub(crate) enum Head {
    /// A stream of events.
    Stream { content_type: HeaderValue },
    /// The whole answer of `/chat`, added up, and whether Ollama ended it because it repeats itself.
    Spoken { answer: Arc<CachedAnswer>, is_stopped: bool },
    /// Upstream's whole reply as it came.
    Whole(Original),
    /// A whole reply of upstream's that passes as it comes, because it is too long to wait for.
    Passing(WholeHead),
    /// A stored answer, and its age.
    Found(Replay, Duration),
    /// No answer: the flight failed.
    Failed(Error),
}

/// The head of a whole reply that passes as it comes.
#[derive(Debug, Clone)]
pub(crate) struct WholeHead {
    pub(crate) status: StatusCode,
    pub(crate) content_type: Option<HeaderValue>,
    /// The length that upstream told.
    pub(crate) length: Option<u64>,
}

/// Where an answer comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Provenance {
    /// What the cache did for the leader.
    pub(crate) cache: Option<CacheStatus>,
    pub(crate) backend: Option<BackendHost>,
    pub(crate) routes: Vec<String>,
}

/// A stored answer, converted for the request.
#[derive(Debug, Clone)]
pub(crate) enum Replay {
    /// Events as upstream sent them.
    Events(HeaderValue, Vec<Bytes>),
    /// The answer of `/chat`, added up.
    Spoken(CachedAnswer),
    /// Upstream's whole reply as it came.
    Whole(Original),
}
