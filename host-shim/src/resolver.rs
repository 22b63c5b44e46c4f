//! Looks up the host names that stand for several addresses, and passes the results to the core.
//!
//! It uses the system's resolver: `hickory-resolver` knows how long an answer is valid, but bypasses `nsswitch`, which
//! operators rely on, and brings many more crates.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use paddock::fleet::{HostName, News, Roster};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::platform::NativeService;

/// The limit of one lookup; the next lookup of the name starts anew.
const LIMIT: Duration = Duration::from_secs(3);
/// The longest pause between two lookups, whatever `PROBE_INTERVAL` says.
const LONGEST_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the fleet's hosts in step with the addresses of its host names.
pub(crate) struct Resolver<L> {
    service: NativeService,
    roster: Mutex<Roster>,
    look_up: L,
}

/// The addresses from the system's resolver.
pub(crate) async fn look_up(name: String, port: u16) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((name, port)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

impl<L, F> Resolver<L>
where
    L: Fn(String, u16) -> F,
    F: Future<Output = io::Result<Vec<IpAddr>>>,
{
    pub(crate) fn new(service: NativeService, look_up: L) -> Self {
        let config = service.config();
        let roster = Mutex::new(Roster::new(&config.fleet.hosts, &config.fleet.names));
        Self { service, roster, look_up }
    }

    /// Looks up every host name once, all at the same time.
    pub(crate) async fn resolve(&self) {
        join_all(self.service.config().fleet.names.iter().map(|name| self.look(name))).await;
    }

    /// Looks up every host name periodically; a slow lookup does not delay the others.
    pub(crate) async fn keep(&self) {
        let period =
            self.service.config().fleet.probe_interval.clamp(Duration::from_millis(1), LONGEST_INTERVAL);
        let keep = async |name| -> Infallible {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.look(name).await;
            }
        };
        join_all(self.service.config().fleet.names.iter().map(keep)).await;
    }

    async fn look(&self, name: &HostName) {
        let found = match timeout(LIMIT, (self.look_up)(name.host.clone(), name.port)).await {
            Ok(found) => found.map_err(|error| error.to_string()),
            Err(_) => Err("the resolver did not answer in time".to_owned()),
        };
        let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(news) = roster.record_lookup(name.position, found) else { return };
        let (hosts, left_out) = roster.hosts();
        if let News::Changed { .. } = news {
            self.service.fleet().set_hosts(&hosts);
        }
        drop(roster);
        tell(&name.host, &news, left_out);
    }
}

fn tell(name: &str, news: &News, left_out: usize) {
    match news {
        News::Changed { joined, left } => {
            tracing::info!(name, ?joined, ?left, "other addresses are behind a name of hosts");
            if left_out > 0 {
                tracing::warn!(left_out, "there are more addresses than hosts that a fleet may have");
            }
        }
        News::Lost { detail, known } => {
            tracing::warn!(
                name,
                detail,
                known,
                "a name of hosts does not resolve: going on with the addresses that are known"
            );
        }
        News::Found => tracing::info!(name, "a name of hosts resolves again"),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::ready};

    use paddock::{Config, config::settings::Deployment};

    use super::*;

    fn service(hosts: &str) -> NativeService {
        let value = |name: &str| (name == "OLLAMA_HOSTS").then(|| hosts.to_owned());
        crate::platform::NativePlatform::service(Config::load(&value, Deployment::Native).unwrap().config)
            .unwrap()
    }

    fn urls(service: &NativeService) -> Vec<String> {
        service.fleet().hosts().iter().map(|host| host.url().to_owned()).collect()
    }

    #[tokio::test]
    async fn hosts_come_and_go_with_the_addresses_and_stay_when_the_resolver_fails() {
        let service = service("a:1,dns+http://ollama:80");
        let found =
            |addresses: &[u8]| Ok(addresses.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect());
        let script = Mutex::new(VecDeque::from([
            Err(io::Error::other("no such name")),
            found(&[2, 1]),
            Err(io::Error::other("no such name")),
            found(&[]),
            found(&[2, 3]),
        ]));
        let resolver = Resolver::new(service.clone(), |name, port| {
            assert_eq!((&*name, port), ("ollama", 80));
            ready(script.lock().unwrap().pop_front().unwrap())
        });
        let before = ["http://a:1"].as_slice();
        let first = ["http://a:1", "http://10.0.0.1:80", "http://10.0.0.2:80"].as_slice();
        let last = ["http://a:1", "http://10.0.0.2:80", "http://10.0.0.3:80"].as_slice();
        for expected in [before, first, first, first, last] {
            resolver.resolve().await;
            assert_eq!(urls(&service), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_is_given_up_and_delays_no_other_name() {
        let service = service("dns+http://slow:80,dns+http://quick:80");
        let looks = Mutex::new(Vec::new());
        let resolver = Resolver::new(service.clone(), async |name: String, _| {
            looks.lock().unwrap().push(name.clone());
            if name == "slow" {
                std::future::pending::<()>().await;
            }
            Ok(vec![IpAddr::from([10, 0, 0, 1])])
        });
        let begun = Instant::now();
        resolver.resolve().await;
        assert_eq!(begun.elapsed(), LIMIT);
        assert_eq!(urls(&service), ["http://10.0.0.1:80"]);
        let _ = timeout(Duration::from_secs(61), resolver.keep()).await;
        let count = |name| looks.lock().unwrap().iter().filter(|look| *look == name).count();
        assert_eq!((count("slow"), count("quick")), (21, 31));
    }

    #[tokio::test]
    async fn the_systems_resolver_knows_this_machine() {
        let found = look_up("127.0.0.1".to_owned(), 80).await.unwrap();
        assert_eq!(found, [IpAddr::from([127, 0, 0, 1])]);
    }
}
