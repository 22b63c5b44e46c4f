//! The list of hosts where a host name stands for several addresses that change.
//!
//! Pure: a roster receives the result of each name lookup and returns the hosts that follow from it. A failed or empty
//! lookup changes nothing, because a resolver that is down must not remove the fleet.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use super::{BackendHost, HOSTS_LIMIT};

/// A host name that stands for all of its addresses: `dns+http://ollama:11434`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName {
    /// Its position in the configuration, from 1.
    pub position: usize,
    /// The name that is looked up.
    pub host: String,
    /// The port at each address.
    pub port: u16,
    /// The weight of each address.
    pub weight: u64,
    /// The limit of requests in flight for each model at each address.
    pub parallel: u64,
}

impl HostName {
    /// The hosts at these addresses, named by the position of the host name and of the address: `2.1`, `2.2`.
    fn at<'a>(&'a self, addresses: &'a BTreeSet<IpAddr>) -> impl Iterator<Item = BackendHost> + 'a {
        addresses.iter().enumerate().filter_map(|(index, address)| {
            let url = format!("http://{}", SocketAddr::new(*address, self.port));
            let host = BackendHost::new(self.position, &url).ok()?;
            let name = format!("{}.{}", self.position, index + 1);
            Some(host.with_name(&name).with_weight(self.weight).with_parallel(self.parallel))
        })
    }
}

/// A change that a lookup revealed, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The addresses changed.
    Changed {
        /// The new addresses.
        joined: Vec<IpAddr>,
        /// The addresses that are gone.
        left: Vec<IpAddr>,
    },
    /// The lookup failed; the known addresses stay.
    Lost {
        /// The resolver's error.
        detail: String,
        /// How many addresses are still known.
        known: usize,
    },
    /// The lookup succeeds again, with the same addresses.
    Found,
}

/// The hosts with an address of their own, and the host names with their known addresses.
#[derive(Debug, Clone)]
pub struct Roster {
    direct: Vec<BackendHost>,
    names: Vec<Known>,
}

#[derive(Debug, Clone)]
struct Known {
    name: HostName,
    addresses: BTreeSet<IpAddr>,
    is_lost: bool,
}

impl Roster {
    /// A roster of these hosts, and of host names without known addresses, both in the order of the configuration.
    pub fn new(direct: &[BackendHost], names: &[HostName]) -> Self {
        let unknown =
            |name: &HostName| Known { name: name.clone(), addresses: BTreeSet::new(), is_lost: false };
        Self { direct: direct.to_vec(), names: names.iter().map(unknown).collect() }
    }

    /// Records the result of looking up the host name at `position`, and returns what changed.
    pub fn record_lookup(&mut self, position: usize, found: Result<Vec<IpAddr>, String>) -> Option<News> {
        let known = self.names.iter_mut().find(|known| known.name.position == position)?;
        let found = found.and_then(|addresses| {
            // An IPv4 address mapped to IPv6 is the same host.
            let addresses: BTreeSet<_> = addresses.iter().map(IpAddr::to_canonical).collect();
            if addresses.is_empty() { Err("no address is behind it".to_owned()) } else { Ok(addresses) }
        });
        let was_lost = std::mem::replace(&mut known.is_lost, found.is_err());
        match found {
            Err(detail) => (!was_lost).then_some(News::Lost { detail, known: known.addresses.len() }),
            Ok(addresses) if addresses == known.addresses => was_lost.then_some(News::Found),
            Ok(addresses) => {
                let before = std::mem::replace(&mut known.addresses, addresses);
                let joined = known.addresses.difference(&before).copied().collect();
                Some(News::Changed { joined, left: before.difference(&known.addresses).copied().collect() })
            }
        }
    }

    /// All hosts in the order of the configuration, each once, at most 64; and how many addresses were
    /// left out for that limit. A host with an address of its own is never left out.
    pub fn hosts(&self) -> (Vec<BackendHost>, usize) {
        let mut taken: BTreeSet<String> = self.direct.iter().map(|host| host.url().to_owned()).collect();
        let mut direct = self.direct.iter().cloned();
        let mut hosts = Vec::new();
        let (mut positions, mut left_out) = (0, 0);
        for known in &self.names {
            hosts.extend(direct.by_ref().take(known.name.position.saturating_sub(positions + 1)));
            positions = known.name.position;
            for host in known.name.at(&known.addresses) {
                let is_full = taken.len() >= HOSTS_LIMIT;
                if taken.contains(host.url()) {
                    continue;
                }
                if is_full {
                    left_out += 1;
                    continue;
                }
                taken.insert(host.url().to_owned());
                hosts.push(host);
            }
        }
        hosts.extend(direct);
        (hosts, left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(position: usize, host: &str, port: u16) -> HostName {
        HostName { position, host: host.to_owned(), port, weight: 3, parallel: 8 }
    }

    fn direct(position: usize, url: &str) -> BackendHost {
        BackendHost::new(position, url).unwrap()
    }

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn told(roster: &Roster) -> Vec<(String, String)> {
        let (hosts, _) = roster.hosts();
        hosts.iter().map(|host| (host.name().to_owned(), host.url().to_owned())).collect()
    }

    #[track_caller]
    fn check(roster: &Roster, expected: &[(&str, &str)]) {
        let told = told(roster);
        let told: Vec<_> = told.iter().map(|(name, url)| (&**name, &**url)).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn each_address_is_a_host_in_the_place_of_its_name() {
        let plain = [direct(1, "http://a:1"), direct(3, "http://b:1")];
        let mut roster = Roster::new(&plain, &[name(2, "x", 11434), name(4, "y", 80)]);
        check(&roster, &[("1", "http://a:1"), ("3", "http://b:1")]);
        roster.record_lookup(2, Ok(addresses(&["fd00::1", "10.0.0.10", "10.0.0.9", "10.0.0.9"])));
        roster.record_lookup(4, Ok(addresses(&["::ffff:10.0.0.9"])));
        check(
            &roster,
            &[
                ("1", "http://a:1"),
                ("2.1", "http://10.0.0.9:11434"),
                ("2.2", "http://10.0.0.10:11434"),
                ("2.3", "http://[fd00::1]:11434"),
                ("3", "http://b:1"),
                ("4.1", "http://10.0.0.9:80"),
            ],
        );
        let (hosts, _) = roster.hosts();
        assert_eq!((hosts[1].weight(), hosts[1].parallel(), hosts[0].weight()), (3, 8, 1));
    }

    #[test]
    fn an_address_that_is_also_named_otherwise_counts_once() {
        let plain = [direct(3, "http://10.0.0.2:80")];
        let mut roster = Roster::new(&plain, &[name(1, "x", 80), name(2, "y", 80)]);
        roster.record_lookup(1, Ok(addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"])));
        roster.record_lookup(2, Ok(addresses(&["10.0.0.3", "10.0.0.4"])));
        check(
            &roster,
            &[
                ("1.1", "http://10.0.0.1:80"),
                ("1.3", "http://10.0.0.3:80"),
                ("2.2", "http://10.0.0.4:80"),
                ("3", "http://10.0.0.2:80"),
            ],
        );
    }

    #[test]
    fn a_look_that_fails_keeps_what_was_known_and_is_news_once() {
        let mut roster = Roster::new(&[], &[name(1, "x", 80)]);
        let fault = || Err("no such name".to_owned());
        let lost = |known| Some(News::Lost { detail: "no such name".to_owned(), known });
        let changed = |joined: &[&str], left: &[&str]| {
            Some(News::Changed { joined: addresses(joined), left: addresses(left) })
        };
        for (found, news, hosts) in [
            (fault(), lost(0), 0),
            (fault(), None, 0),
            (Ok(addresses(&["10.0.0.1", "10.0.0.2"])), changed(&["10.0.0.1", "10.0.0.2"], &[]), 2),
            (Ok(addresses(&["10.0.0.2", "10.0.0.1"])), None, 2),
            (fault(), lost(2), 2),
            (Ok(Vec::new()), None, 2),
            (Ok(addresses(&["10.0.0.1", "10.0.0.2"])), Some(News::Found), 2),
            (Ok(addresses(&["10.0.0.3", "10.0.0.2"])), changed(&["10.0.0.3"], &["10.0.0.1"]), 2),
        ] {
            assert_eq!(
                (roster.record_lookup(1, found.clone()), told(&roster).len()),
                (news, hosts),
                "{found:?}"
            );
        }
        assert_eq!(roster.record_lookup(2, fault()), None);
    }

    #[test]
    fn there_are_at_most_64_hosts_and_those_named_directly_are_among_them() {
        let mut roster = Roster::new(&[direct(2, "http://last:1")], &[name(1, "x", 80)]);
        let many = (0..100).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        roster.record_lookup(1, Ok(many));
        let (hosts, left_out) = roster.hosts();
        assert_eq!((hosts.len(), left_out), (HOSTS_LIMIT, 37));
        assert_eq!(hosts.last().map(BackendHost::url), Some("http://last:1"));
    }
}
