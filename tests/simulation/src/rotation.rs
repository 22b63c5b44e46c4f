//! The gateway as it is without any knowledge of the herd: each request goes to the next host, or to any, at once.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Error, Result};
use paddock::{BackendHost, LoadBalancer, fleet::Policy};

use crate::{
    gateway::{Actions, Failure, Gateway, HostId, Probe, Refusal, Request, RequestId, Timings},
    scenario::Scenario,
};

/// Sends every request to its hosts in the order of a [`LoadBalancer`] until one answers.
#[derive(Debug)]
pub struct Rotation {
    balancer: LoadBalancer,
    policy: Policy,
    /// Requests that went before; by chance it begins with the seed.
    counter: u64,
    /// The hosts that a request has yet to try.
    untried: BTreeMap<RequestId, std::vec::IntoIter<HostId>>,
    actions: Actions,
}

impl Rotation {
    /// A gateway before the hosts of a scenario.
    ///
    /// # Errors
    /// When the hosts have no names.
    pub fn new(scenario: &Scenario, policy: Policy, seed: u64) -> Result<Self> {
        let host = |place| BackendHost::new(place, &format!("http://ollama-{place}:11434"));
        let hosts = (1..=scenario.hosts.len()).map(host).collect::<Result<_, _>>().map_err(Error::msg)?;
        // Seeds follow one another; counters must not be the next seed's.
        let counter = if policy == Policy::Random { seed << 32 } else { 0 };
        let (untried, actions) = (BTreeMap::new(), Actions::default());
        Ok(Self { balancer: LoadBalancer::new(hosts), policy, counter, untried, actions })
    }

    fn try_next(&mut self, request: RequestId) {
        match self.untried.get_mut(&request).and_then(Iterator::next) {
            Some(host) => self.actions.dispatches.push((request, host)),
            None => self.actions.refusals.push((request, Refusal::Failed)),
        }
    }
}

impl Gateway for Rotation {
    fn arrive(&mut self, _: Duration, request: &Request) {
        let order = match self.policy {
            Policy::RoundRobin => self.balancer.rotation(self.counter),
            _ => self.balancer.shuffle(self.counter),
        };
        self.counter += 1;
        // A host's name is its place, from 1.
        let places = order.into_iter().filter_map(|host| host.name().parse::<HostId>().ok()?.checked_sub(1));
        self.untried.insert(request.id, places.collect::<Vec<_>>().into_iter());
        self.try_next(request.id);
    }

    fn poll(&mut self, _: Duration) -> Actions {
        std::mem::take(&mut self.actions)
    }

    fn first_byte(&mut self, _: Duration, request: RequestId, _: HostId) {
        self.untried.remove(&request);
    }

    fn finished(&mut self, _: Duration, _: RequestId, _: HostId, _: &Timings) {}

    fn failed(&mut self, _: Duration, request: RequestId, _: HostId, failure: Failure) {
        if failure != Failure::BrokenOff {
            self.try_next(request);
        }
    }

    fn probed(&mut self, _: Duration, _: HostId, _: Option<&Probe>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios;

    #[test]
    fn a_request_goes_on_to_the_next_host_until_none_is_left() {
        let mut rotation = Rotation::new(&scenarios::MIXED, Policy::RoundRobin, 1).unwrap();
        let request =
            |id| Request { id, caller: 0, session: None, model: 0, context: 4096, prompt_tokens: 1.0 };
        for id in [0, 1] {
            rotation.arrive(Duration::ZERO, &request(id));
        }
        assert_eq!(rotation.poll(Duration::ZERO).dispatches, [(0, 0), (1, 1)]);
        for host in [2, 3, 0] {
            rotation.failed(Duration::ZERO, 1, host, Failure::Refused);
            assert_eq!(rotation.poll(Duration::ZERO).dispatches, [(1, host)]);
        }
        rotation.failed(Duration::ZERO, 1, 0, Failure::Refused);
        assert_eq!(rotation.poll(Duration::ZERO).refusals, [(1, Refusal::Failed)]);
    }
}
