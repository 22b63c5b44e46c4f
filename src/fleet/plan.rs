//! Which hosts a request tries, in which order, and why.
//!
//! Pure: the same view, demand and seed make the same plan. A host is in the plan when it has the model and a weight.
//! Hosts whose breaker is open come last, so that they are asked only when no other is left.
//!
//! # The policy `auto`
//!
//! Hosts are ordered by the expected wait, in milliseconds:
//!
//! ```text
//! wait = (busy + queue + load + prompt + own) / weight
//! busy   = sum over the requests in flight on the host of the service time observed in their lane
//! queue  = requests that must end before this one has a place: max(0, in flight in the demand's lane + waiting for
//!          this host in it + 1 - the limit) x the service time of that lane
//! load   = 0 when the model is loaded with the demand's runner options
//!        | what is left of a load that is under way, at least a tenth of the whole
//!        | else the time that loading took last, here or on the slowest other host; 20 s when it was never seen
//! prompt = 0 for an embedding, and when the model is loaded and one of the last 4 prompts it answered here had the
//!          demand's affinity
//!        | else the prompt's KiB x the time that one takes, here or on the slowest other host; 200 ms when never seen
//! own    = a fifth of the service time of the demand's lane: of two idle hosts the faster is free again sooner
//! ```
//!
//! The service time is the average time that one request keeps the host busy; before the first is seen it is that of
//! the host's other lanes of the kind, else 2 s for an answer and 200 ms for an embedding. Among hosts whose waits differ
//! by less than 250 ms the affinity decides: the same session, else the same beginning of a prompt, comes to the
//! same host, whose prompt cache has it.

mod wait;

use std::{fmt, sync::Arc, time::Duration};

use super::{
    BackendHost, ModelName,
    breaker::BreakerState,
    hash::{ranking, split_mix},
    snapshot::{FleetView, HostView, SlotRequest},
    stats::millis,
};
use crate::api::endpoint::Work;
use wait::{load, prompt, service};

/// Waits that differ by less are the same.
const TIE: u64 = 250;
/// The part of a request's own service time that counts as a wait: one of as many.
const OWN: u64 = 5;

/// How the hosts of a request are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// By the expected wait, with affinity as the tie-breaker.
    Auto,
    /// One after the other, by a counter that all replicas share.
    RoundRobin,
    /// By chance.
    Random,
    /// The host with the fewest requests in flight.
    LeastOutstanding,
    /// The better of two by chance, by latency and requests in flight.
    PowerOfTwoChoices,
    /// The same session or prompt to the same host, with bounded load.
    Affinity,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 6] = [
        Self::Auto,
        Self::RoundRobin,
        Self::Random,
        Self::LeastOutstanding,
        Self::PowerOfTwoChoices,
        Self::Affinity,
    ];

    /// The name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::LeastOutstanding => "least_outstanding",
            Self::PowerOfTwoChoices => "p2c",
            Self::Affinity => "affinity",
        }
    }

    /// The policy of that name.
    ///
    /// # Errors
    /// A sentence that names the policies.
    pub fn parse(name: &str) -> Result<Self, String> {
        let name = name.to_ascii_lowercase().replace('-', "_");
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str() == name)
            .ok_or_else(|| "must be auto, round_robin, random, least_outstanding, p2c or affinity".to_owned())
    }
}

/// What a request needs of a host.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The model; `None` when any host will do.
    pub model: Option<&'a ModelName>,
    /// What is done with it.
    pub work: Work,
    /// The runner options, in a canonical form; empty for none.
    pub options: &'a str,
    /// What the hosts' prompt caches may know of the request: a hash of its session, else of its prompt's beginning.
    pub affinity: u64,
    /// The length of the prompt, or of the request that is most of it, in bytes.
    pub prompt: u64,
    /// How many requests went before, for taking turns.
    pub turn: u64,
    /// Chance.
    pub seed: u64,
}

/// The hosts that a request tries, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The policy that made it.
    pub policy: Policy,
    /// The hosts.
    pub choices: Vec<Choice>,
    /// Hosts with the model that get no requests because their weight is 0.
    pub drained: usize,
}

/// One host of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its place in the view.
    pub index: usize,
    /// The host.
    pub host: BackendHost,
    /// Its breaker.
    pub breaker: BreakerState,
    /// Why that is not closed; empty when it is.
    pub cause: &'static str,
    /// The expected wait.
    pub wait: Duration,
    /// Requests in flight in the lane.
    pub in_flight: u64,
    /// The most of them.
    pub limit: u64,
    /// Whether the model must be loaded.
    pub cold: bool,
}

impl Plan {
    /// The places that the request takes as soon as one has room. `auto` waits for its first choice where it expects to
    /// wait less for it than for another host; every other policy takes the first host with room.
    pub fn places(&self) -> Vec<SlotRequest> {
        let is_open = |choice: &&Choice| choice.breaker == BreakerState::Open;
        let ready = self.choices.iter().filter(|choice| !is_open(choice));
        let patience = match (self.policy, ready.clone().next()) {
            (Policy::Auto, Some(best)) => best.wait + Duration::from_millis(TIE),
            _ => Duration::MAX,
        };
        let place = |choice: &Choice| SlotRequest {
            host: Arc::clone(choice.host.shared_url()),
            limit: choice.limit,
            cold: choice.cold,
            trial: choice.breaker == BreakerState::HalfOpen,
        };
        let places: Vec<_> = ready.filter(|choice| choice.wait <= patience).map(place).collect();
        // With no host left that works, one that may work again is better than none.
        if places.is_empty() { self.choices.iter().map(place).collect() } else { places }
    }

    /// The hosts whose waiting requests compete with this one's for the places: also those that it would rather not take
    /// but could as well, for who waits for one of them may rather take one of the places.
    pub fn rivals(&self) -> Vec<&str> {
        let ready = self.choices.iter().filter(|choice| choice.breaker != BreakerState::Open);
        let is_cold = ready.clone().next().is_some_and(|choice| choice.cold);
        let alike = ready.filter(|choice| choice.cold == is_cold).map(|choice| choice.host.url());
        alike.collect()
    }
}

impl fmt::Display for Plan {
    /// What a caller may know of it: hosts by their names.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.policy.as_str())?;
        for choice in &self.choices {
            let Choice { index: _, host, breaker, cause, wait, in_flight, limit, cold } = choice;
            write!(formatter, "; host {}: ", host.name())?;
            if *breaker != BreakerState::Closed {
                write!(formatter, "breaker {} ({cause}), ", breaker.as_str())?;
            }
            let state = if *cold { "not loaded" } else { "loaded" };
            write!(formatter, "{state}, {in_flight} of {limit} in flight, wait {} ms", wait.as_millis())?;
        }
        if self.drained > 0 {
            write!(formatter, "; drained: {}", self.drained)?;
        }
        Ok(())
    }
}

/// The hosts that have the model, in the order in which the policy tries them.
pub fn plan(view: &FleetView, policy: Policy, demand: &Demand<'_>) -> Plan {
    let has = |host: &HostView| match demand.model {
        None => true,
        // A cloud model is asked of any host.
        Some(model) if model.is_cloud() => true,
        Some(model) => host.inventory.as_ref().is_some_and(|inventory| inventory.has(model)),
    };
    let (able, drained): (Vec<_>, Vec<_>) = view
        .hosts
        .iter()
        .enumerate()
        .filter(|(_, host)| has(host))
        .partition(|(_, host)| host.host.weight() > 0);
    let key = if matches!(policy, Policy::Auto | Policy::Affinity) { demand.affinity } else { demand.seed };
    let mut order: Vec<_> = able.iter().map(|(index, _)| *index).collect();
    if policy == Policy::RoundRobin {
        order.rotate_left(turn(&able, demand.turn));
    } else {
        order = ranking(able.iter().map(|(index, host)| (*index, host.host.url(), host.host.weight())), key);
    }
    let hosts = order.into_iter().filter_map(|index| Some((index, view.hosts.get(index)?)));
    let mut choices: Vec<_> = hosts.map(|(index, host)| choice(view, index, host, demand)).collect();
    let total = |choice: &Choice| view.hosts.get(choice.index).map_or(0, |host| host.leases.len() as u64);
    let best = choices.iter().map(|choice| millis(choice.wait)).min().unwrap_or_default();
    let weights: u64 = choices.iter().map(|choice| choice.host.weight()).sum();
    let requests = choices.iter().map(total).sum::<u64>() + 1;
    let rate = |choice: &Choice| match policy {
        Policy::Auto => Some(millis(choice.wait)).filter(|wait| *wait >= best + TIE).unwrap_or(best),
        Policy::LeastOutstanding => total(choice) * 1000 / choice.host.weight(),
        // A host takes a quarter more than its share at most (Mirrokni, Thorup and Zadimoghaddam 2016).
        Policy::Affinity => {
            let share = (requests * 5 * choice.host.weight()).div_ceil(4 * weights.max(1));
            u64::from(total(choice) >= share)
        }
        Policy::RoundRobin | Policy::Random | Policy::PowerOfTwoChoices => 0,
    };
    // The sort is stable: what is rated alike stays in the order of the turns, of chance or of affinity.
    choices.sort_by_key(|choice| (choice.breaker == BreakerState::Open, rate(choice)));
    let latency = |choice: &Choice| latency(view.hosts.get(choice.index), demand);
    let cost = |choice: &Choice| latency(choice) * (total(choice) + 1) / choice.host.weight();
    if let (Policy::PowerOfTwoChoices, [first, second, ..]) = (policy, &mut *choices)
        && second.breaker != BreakerState::Open
        && cost(second) < cost(first)
    {
        std::mem::swap(first, second);
    }
    Plan { policy, choices, drained: drained.len() }
}

/// The place among `hosts` whose turn it is when `turn` requests went before: of each round every host has as many turns
/// as its weight says.
fn turn(hosts: &[(usize, &HostView)], turn: u64) -> usize {
    let weights = hosts.iter().map(|(_, host)| host.host.weight());
    let mut left = turn % weights.clone().sum::<u64>().max(1);
    for (place, weight) in weights.enumerate() {
        match left.checked_sub(weight) {
            None => return place,
            Some(rest) => left = rest,
        }
    }
    0
}

fn choice(view: &FleetView, index: usize, host: &HostView, demand: &Demand<'_>) -> Choice {
    let lane = demand.model.map(|model| model.lane(demand.work)).unwrap_or_default();
    // A trial that is under way is enough.
    let state = host.stats.breaker.state(view.now);
    let is_tried = state == BreakerState::HalfOpen && host.leases.iter().any(|lease| lease.trial);
    let breaker = if is_tried { BreakerState::Open } else { state };
    let load = demand.model.map_or(0, |model| load(view, host, model, &lane, demand));
    let busy: u64 = host.leases.iter().map(|lease| service(host, &lease.lane)).sum();
    let own = service(host, &lane) / OWN;
    let waiting =
        view.tickets.iter().filter(|ticket| *ticket.lane == *lane && &*ticket.host == host.host.url());
    let ends = (host.in_flight(&lane) + waiting.count() as u64 + 1).saturating_sub(host.limit(&lane));
    let queue = ends * service(host, &lane);
    let prompt = prompt(view, host, &lane, load > 0, demand);
    Choice {
        index,
        host: host.host.clone(),
        breaker,
        cause: host.stats.breaker.cause().map_or("", super::breaker::Cause::as_str),
        wait: Duration::from_millis((busy + queue + load + prompt + own) / host.host.weight().max(1)),
        in_flight: host.in_flight(&lane),
        limit: host.limit(&lane),
        cold: load > 0,
    }
}

fn latency(host: Option<&HostView>, demand: &Demand<'_>) -> u64 {
    let lane = demand.model.map(|model| model.lane(demand.work)).unwrap_or_default();
    let stats = host.and_then(|host| host.stats.lane(&lane));
    stats.map(|stats| stats.latency).filter(|latency| *latency > 0).unwrap_or(wait::SERVICE.0)
}

/// A hash of what may be known to a prompt cache.
pub fn affinity(bytes: &[u8]) -> u64 {
    split_mix(super::hash::fnv(bytes))
}

#[cfg(test)]
mod tests;
