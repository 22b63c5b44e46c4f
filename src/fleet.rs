//! The fleet: the backend hosts, what is known of each, and the order in which a request tries them.
//!
//! Pure decisions over values: the time, the shared counter and the random seed are arguments.
//!
//! | module | what it decides or holds |
//! |---|---|
//! | [`plan`](mod@plan) | which hosts a request tries, in which order, and why |
//! | `breaker` | whether a host is sent requests, after its earlier failures |
//! | `stats` | a host's speed with a model, the proof that it has the model loaded, its lowered limits |
//! | [`prefix`] | how much of a prompt a host's prompt cache holds |
//! | `inventory`, `context`, `name` | the models that a host lists, and which spellings mean the same model |
//! | [`queue`] | which waiting request is next when all slots are taken |
//! | `roster` | which hosts there are where a host name stands for several addresses |
//! | [`snapshot`], [`local`] | the state that replicas share, and one process's own copy of it |

mod breaker;
mod context;
mod failover;
mod hash;
mod inventory;
pub mod local;
pub(crate) mod looks;
mod name;
pub mod plan;
pub mod prefix;
pub mod queue;
mod roster;
pub mod snapshot;
mod stats;

use std::sync::Arc;

use http::Uri;

pub use crate::api::endpoint::Work;
pub use breaker::{Breaker, BreakerState, Cause, Scope};
pub use context::Context;
pub(crate) use failover::{
    AskedHost, AttemptFailure, Failover, NO_EVENT, broken, foreign, is_no_route, media_type, no_host,
    no_route,
};
pub(crate) use inventory::read_version;
pub use inventory::{Inventory, LoadedModel, Model};
pub use name::{ModelName, is_same_model};
pub(crate) use name::{lane, nearest};
pub use plan::Policy;
pub use roster::{HostName, News, Roster};
pub use snapshot::Ticket;
pub use stats::{AttemptContext, AttemptReport, HostEffect, HostStats, LaneStats};

/// The most hosts that a fleet may have.
pub(crate) const HOSTS_LIMIT: usize = 64;
/// The default limit of requests in flight for each model on a host.
pub(crate) const PARALLEL: u64 = 4;

/// One Ollama server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendHost {
    name: Arc<str>,
    url: Arc<str>,
    weight: u64,
    parallel: u64,
}

impl BackendHost {
    /// A host, named by its position in the configuration (from 1), with its base URL without a trailing slash.
    ///
    /// # Errors
    /// A sentence when the URL is invalid.
    pub fn new(position: usize, url: &str) -> Result<Self, String> {
        let host = Self { name: position.to_string().into(), url: url.into(), weight: 1, parallel: PARALLEL };
        host.endpoint("/")?;
        Ok(host)
    }

    /// The host with another weight; 0 drains it.
    #[must_use]
    pub fn with_weight(self, weight: u64) -> Self {
        Self { weight, ..self }
    }

    /// The host with another limit of requests in flight for each model, at least 1.
    #[must_use]
    pub fn with_parallel(self, parallel: u64) -> Self {
        Self { parallel: parallel.max(1), ..self }
    }

    /// The host with another name.
    #[must_use]
    pub fn with_name(self, name: &str) -> Self {
        Self { name: name.into(), ..self }
    }

    /// The host's weight: its share of the requests in relation to the weights of the others.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// The most requests in flight for each model.
    pub fn parallel(&self) -> u64 {
        self.parallel
    }

    /// The name that clients see: the position in the configuration, from 1; `2.1` for the first address behind the
    /// host name at position 2.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The base URL, which only operators see.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The base URL as a shared string.
    pub(crate) fn shared_url(&self) -> &Arc<str> {
        &self.url
    }

    /// The URL of `path`, which begins with a slash, on this host.
    ///
    /// # Errors
    /// A sentence when the base URL and the path form no valid URL.
    pub(crate) fn endpoint(&self, path: &str) -> Result<Uri, String> {
        Uri::try_from([&*self.url, path].concat()).map_err(|_| "must be a host, host:port or URL".to_owned())
    }
}
