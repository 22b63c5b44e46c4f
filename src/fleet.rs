//! The fleet: the backend hosts, what is known of each, and the order in which a request tries them.
//!
//! Pure decisions over values: the time, the shared counter and the random seed are arguments.
//!
//! | module | what it decides or holds |
//! |---|---|
//! | [`plan`](mod@plan) | which hosts a request tries, in which order, and why |
//! | `breaker` | whether a host is sent requests, after its earlier failures |
//! | `stats` | a host's speed with a model, the proof that it has the model loaded, its lowered limits |
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
mod name;
pub mod plan;
pub mod queue;
mod roster;
pub mod snapshot;
mod stats;

use std::sync::Arc;

use http::Uri;

pub use crate::api::endpoint::Work;
pub use breaker::{Breaker, BreakerState, Cause};
pub use context::Context;
pub(crate) use failover::{AttemptFailure, Failover, NO_EVENT, UNFINISHED, broken, no_host};
use hash::{SPLIT_MIX_GAMMA, split_mix};
pub use inventory::{Inventory, LoadedModel, Model};
pub(crate) use name::nearest;
pub use name::{ModelName, is_same_model};
pub use plan::Policy;
pub use roster::{HostName, News, Roster};
pub use snapshot::Ticket;
pub use stats::{AttemptContext, AttemptReport, HostEffect, HostStats, LaneStats};

/// The most hosts that a fleet may have.
pub const HOSTS_LIMIT: usize = 64;
/// The default limit of requests in flight for each model on a host.
pub const PARALLEL: u64 = 4;

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
    pub fn new(place: usize, url: &str) -> Result<Self, String> {
        let host = Self { name: place.to_string().into(), url: url.into(), weight: 1, parallel: PARALLEL };
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
    pub fn endpoint(&self, path: &str) -> Result<Uri, String> {
        Uri::try_from([&*self.url, path].concat()).map_err(|_| "must be a host, host:port or URL".to_owned())
    }
}

/// A list of hosts, and simple choices among them. It holds no state: the caller brings the counter and the seed. The
/// policies of the service are in [`plan`](mod@plan).
///
/// ```
/// use paddock::{BackendHost, LoadBalancer};
///
/// let hosts = ["http://a:11434", "http://b:11434"];
/// let hosts = hosts.iter().enumerate().map(|(index, url)| BackendHost::new(index + 1, url));
/// let balancer = LoadBalancer::new(hosts.collect::<Result<_, _>>()?);
/// let turn = |counter| balancer.next_host(counter).map(BackendHost::url);
/// assert_eq!(turn(0), Some("http://a:11434"));
/// assert_eq!(turn(1), Some("http://b:11434"));
/// assert_eq!(turn(2), Some("http://a:11434"));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadBalancer {
    hosts: Vec<BackendHost>,
}

impl LoadBalancer {
    /// A balancer over these hosts.
    pub fn new(hosts: Vec<BackendHost>) -> Self {
        Self { hosts }
    }

    /// The hosts, in the order in which they were given.
    pub fn hosts(&self) -> &[BackendHost] {
        &self.hosts
    }

    /// The next host in turn after `counter` requests; `None` without hosts.
    pub fn next_host(&self, counter: u64) -> Option<&BackendHost> {
        self.hosts.get(remainder(counter, self.hosts.len())?)
    }

    /// A random host, always the same for the same seed; `None` without hosts.
    pub fn random_host(&self, seed: u64) -> Option<&BackendHost> {
        self.hosts.get(remainder(split_mix(seed), self.hosts.len())?)
    }

    /// All hosts in the order in which a request tries them: the next in turn, then those after it.
    pub fn rotation(&self, counter: u64) -> Vec<&BackendHost> {
        let first = remainder(counter, self.hosts.len()).unwrap_or_default();
        self.hosts.iter().cycle().skip(first).take(self.hosts.len()).collect()
    }

    /// All hosts in a random order, which begins with [`LoadBalancer::random_host`] of the seed.
    pub fn shuffle(&self, seed: u64) -> Vec<&BackendHost> {
        let mut rest: Vec<_> = self.hosts.iter().collect();
        let mut order = Vec::with_capacity(rest.len());
        let mut random = seed;
        while let Some(chosen) = remainder(split_mix(random), rest.len()) {
            order.push(rest.remove(chosen));
            random = random.wrapping_add(SPLIT_MIX_GAMMA);
        }
        order
    }
}

fn remainder(number: u64, length: usize) -> Option<usize> {
    let length = u64::try_from(length).ok().filter(|length| *length > 0)?;
    usize::try_from(number % length).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn balancer(count: usize) -> LoadBalancer {
        let host = |place| BackendHost::new(place, &format!("http://h{place}:1")).unwrap();
        LoadBalancer::new((1..=count).map(host).collect())
    }

    fn names(hosts: &[&BackendHost]) -> Vec<String> {
        hosts.iter().map(|host| host.name().to_owned()).collect()
    }

    #[test]
    fn turns_go_round_and_the_others_follow_in_order() {
        let balancer = balancer(3);
        assert_eq!(names(&balancer.rotation(0)), ["1", "2", "3"]);
        assert_eq!(names(&balancer.rotation(4)), ["2", "3", "1"]);
        assert_eq!(names(&balancer.rotation(u64::MAX)), ["1", "2", "3"]);
    }

    #[test]
    fn without_hosts_there_is_no_choice() {
        let none = balancer(0);
        assert_eq!((none.next_host(1), none.random_host(1)), (None, None));
        assert!(none.rotation(5).is_empty() && none.shuffle(5).is_empty());
    }

    #[test]
    fn chance_spreads_evenly_even_over_a_counter() {
        let balancer = balancer(4);
        let mut counts = [0; 4];
        for seed in 0..4000 {
            let place: usize = balancer.random_host(seed).unwrap().name().parse().unwrap();
            counts[place - 1] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn every_order_holds_each_host_once_and_begins_with_the_choice(count in 1usize..9, number in any::<u64>()) {
            let balancer = balancer(count);
            let turn = balancer.rotation(number);
            prop_assert_eq!(turn.first().copied(), balancer.next_host(number));
            let chance = balancer.shuffle(number);
            prop_assert_eq!(chance.first().copied(), balancer.random_host(number));
            for order in [turn, chance] {
                let mut names = names(&order);
                names.sort();
                names.dedup();
                prop_assert_eq!(names.len(), count);
            }
        }
    }
}
