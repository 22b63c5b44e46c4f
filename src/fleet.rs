//! The herd: the backend hosts, the load balancer and the order in which a request tries them.
//!
//! Pure decisions over values: the shared counter and the seed come in as arguments.

mod failover;

use http::Uri;

pub(crate) use failover::{AttemptFailure, Failover};

/// One Ollama server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendHost {
    name: String,
    url: String,
}

impl BackendHost {
    /// A host by its place in the configuration, from 1, and its base URL without a trailing slash.
    ///
    /// # Errors
    /// A sentence when the URL is none.
    pub fn new(place: usize, url: &str) -> Result<Self, String> {
        let host = Self { name: place.to_string(), url: url.to_owned() };
        host.endpoint("/")?;
        Ok(host)
    }

    /// What clients see of it: its place in the configuration, from 1.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What operators see of it: its base URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where `path`, which begins with a slash, is on this host.
    ///
    /// # Errors
    /// A sentence when the two make no URL.
    pub fn endpoint(&self, path: &str) -> Result<Uri, String> {
        Uri::try_from([&self.url, path].concat()).map_err(|_| "must be a host, host:port or URL".to_owned())
    }
}

/// Whether a stored name is what a request's name means: Ollama matches names without case, and no tag means `latest`.
///
/// ```
/// assert!(paddock::is_same_model("llama3.2:latest", "Llama3.2"));
/// assert!(!paddock::is_same_model("llama3.2:1b", "llama3.2"));
/// ```
pub fn is_same_model(stored: &str, asked: &str) -> bool {
    let same = |name: &str| name.eq_ignore_ascii_case(stored);
    same(asked) || stored.strip_suffix(":latest").is_some_and(|name| name.eq_ignore_ascii_case(asked))
}

/// How the first host of a request is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// One after the other, by a counter that all replicas share.
    RoundRobin,
    /// By chance.
    Random,
}

impl Policy {
    /// The policy of that name.
    ///
    /// # Errors
    /// A sentence that names the policies.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().replace('-', "_").as_str() {
            "round_robin" => Ok(Self::RoundRobin),
            "random" => Ok(Self::Random),
            _ => Err("must be round_robin or random".to_owned()),
        }
    }
}

/// Chooses hosts. It holds no state: the counter and the seed are the caller's.
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

    /// The hosts, in the order they were named.
    pub fn hosts(&self) -> &[BackendHost] {
        &self.hosts
    }

    /// The host whose turn it is when `counter` requests went before; `None` without hosts.
    pub fn next_host(&self, counter: u64) -> Option<&BackendHost> {
        self.hosts.get(remainder(counter, self.hosts.len())?)
    }

    /// A host by chance: the same for the same seed; `None` without hosts.
    pub fn random_host(&self, seed: u64) -> Option<&BackendHost> {
        self.hosts.get(remainder(split_mix(seed), self.hosts.len())?)
    }

    /// All hosts in the order in which a request tries them: the one whose turn it is, then those after it.
    pub fn rotation(&self, counter: u64) -> Vec<&BackendHost> {
        let first = remainder(counter, self.hosts.len()).unwrap_or_default();
        self.hosts.iter().cycle().skip(first).take(self.hosts.len()).collect()
    }

    /// All hosts in an order by chance, which begins with [`LoadBalancer::random_host`] of the seed.
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

const SPLIT_MIX_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// `SplitMix64` (Steele, Lea and Flood 2014): spreads a seed whose bits are not, such as a counter.
fn split_mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(SPLIT_MIX_GAMMA);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
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
