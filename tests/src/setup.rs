//! What a form is started with: the hosts, the settings and the Redis, in words that every form understands.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;

use crate::{ollama::FakeOllama, redis_server::RedisServer};

/// What a form is started with. Clones share everything, the keys in Redis too.
#[derive(Debug, Clone)]
pub struct Setup {
    pub(crate) hosts: Vec<FakeOllama>,
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) redis: RedisChoice,
    pub(crate) single_instance: bool,
    pub(crate) requests_at_once: Option<usize>,
    pub(crate) rarely_probes: bool,
    weights: Vec<u64>,
    prefix: String,
}

/// Which Redis a form that has one is given.
#[derive(Debug, Clone)]
pub(crate) enum RedisChoice {
    /// The one that all tests of a process share.
    Shared,
    /// A test's own, to be stopped and paused.
    Own(Arc<RedisServer>),
    /// An address where nobody answers.
    Nowhere(Arc<RedisServer>),
}

impl Setup {
    /// The usual settings over these hosts: limits are generous, for a loaded machine must not fail a test.
    pub fn new<'a>(hosts: impl IntoIterator<Item = &'a FakeOllama>) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("paddock-test-{}-{number}", std::process::id());
        let setup = Self {
            hosts: hosts.into_iter().cloned().collect(),
            settings: BTreeMap::new(),
            redis: RedisChoice::Shared,
            single_instance: false,
            requests_at_once: None,
            rarely_probes: false,
            weights: Vec::new(),
            prefix,
        };
        setup
            .set("REDIS_TIMEOUT", "5")
            .set("REDIS_WRITE_TIMEOUT", "5")
            .set("CONNECT_TIMEOUT", "10")
            .set("HEALTH_TIMEOUT", "10")
            .set("PROBE_CONNECT_TIMEOUT", "10")
    }

    /// Gives a setting a value, by its name in the table of settings.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// Gives the hosts these weights, in their order.
    #[must_use]
    pub fn weights(self, weights: &[u64]) -> Self {
        Self { weights: weights.to_vec(), ..self }
    }

    /// Uses this Redis.
    #[must_use]
    pub fn redis(self, server: &Arc<RedisServer>) -> Self {
        Self { redis: RedisChoice::Own(Arc::clone(server)), ..self }
    }

    /// Configures a Redis that is not there.
    pub fn redis_nowhere(self) -> Result<Self> {
        Ok(Self { redis: RedisChoice::Nowhere(Arc::new(RedisServer::stopped()?)), ..self })
    }

    /// On Spin, serves every request in one instance.
    #[must_use]
    pub fn in_one_instance(self) -> Self {
        Self { single_instance: true, ..self }
    }

    /// Where hosts are asked in the background what they have, does so once.
    #[must_use]
    pub fn rarely_probes(self) -> Self {
        Self { rarely_probes: true, ..self }
    }

    /// On Spin, serves at most so many requests in one instance at once.
    #[must_use]
    pub fn at_once_in_an_instance(self, requests: usize) -> Self {
        Self { requests_at_once: Some(requests), ..self }
    }

    /// What every key of this set-up begins with in Redis.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The hosts as one list, as the native form takes them.
    pub(crate) fn host_list(&self) -> String {
        let weights = self.weights.iter().map(|weight| format!(";weight={weight}"));
        let weights = weights.chain(std::iter::repeat(String::new()));
        let hosts: Vec<_> =
            self.hosts.iter().zip(weights).map(|(host, weight)| host.url() + &weight).collect();
        hosts.join(",")
    }

    /// The weights as one list, as the Spin form takes them; empty for none.
    pub(crate) fn weight_list(&self) -> String {
        let weights: Vec<_> = self.weights.iter().map(u64::to_string).collect();
        weights.join(",")
    }

    /// The Redis to use; whoever runs on it keeps it.
    pub(crate) fn server(&self) -> Result<Arc<RedisServer>> {
        match &self.redis {
            RedisChoice::Shared => RedisServer::shared(),
            RedisChoice::Own(server) | RedisChoice::Nowhere(server) => Ok(Arc::clone(server)),
        }
    }
}
