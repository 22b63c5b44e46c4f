//! Which hosts a request tries, in which order, and why.
//!
//! Pure: the same view, demand and seed give the same plan. A host is in the plan when it has the model and a weight
//! above 0. Hosts whose breaker is open come last, so they are tried only when no other host is left.
//!
//! # The policy `auto`
//!
//! `auto` orders the hosts by their expected wait. The formula and an example stand in `docs/routing.md`, "How `auto`
//! chooses", and only there: a change of `choice` here or of the estimates in `wait.rs` must be repeated there. Among
//! hosts whose waits differ by less than 250 ms the prompt caches decide: a conversation stays where it was, a new one goes
//! where it takes no other's place, then where most of its beginning is known.

mod wait;

use std::{cmp::Reverse, fmt, sync::Arc, time::Duration};

use super::{
    BackendHost, ModelName,
    breaker::{Breaker, BreakerState, Cause, Scope},
    hash::{ranking, split_mix},
    name::{is_cloud_lane, lane},
    prefix::Prefixes,
    snapshot::{FleetView, HostView, Lease, SlotRequest},
    stats::millis,
};
use crate::api::endpoint::Work;
use wait::{PromptCache, load, prompt, service};

/// Waits that differ by less count as equal.
const TIE: u64 = 250;
/// The divisor of a request's own service time in the expected wait.
const OWN: u64 = 5;

/// How the hosts of a request are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// By expected wait; affinity breaks ties.
    Auto,
    /// In turn, by a counter that all replicas share.
    RoundRobin,
    /// At random.
    Random,
    /// The host with the fewest requests in flight first.
    LeastOutstanding,
    /// The better of two random hosts, by latency and requests in flight.
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

    /// The name in the setting `LB_POLICY`.
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

    /// The policy with the given name.
    ///
    /// # Errors
    /// A sentence that lists the names.
    pub fn parse(name: &str) -> Result<Self, String> {
        let name = name.to_ascii_lowercase().replace('-', "_");
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str() == name)
            .ok_or_else(|| "must be auto, round_robin, random, least_outstanding, p2c or affinity".to_owned())
    }
}

/// What a request needs from a host.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The model; `None` when any host will do.
    pub model: Option<&'a ModelName>,
    /// The kind of work.
    pub work: Work,
    /// The runner options in a canonical form; empty for none.
    pub options: &'a str,
    /// What names the conversation: a hash of its session, else of its beginning up to the first question.
    pub affinity: u64,
    /// The length of the prompt in bytes, or of the request that consists mostly of it.
    pub prompt: u64,
    /// The beginnings of the prompt.
    pub prefixes: &'a Prefixes,
    /// How many requests were routed before this one, for `round_robin`.
    pub turn: u64,
    /// A random number.
    pub seed: u64,
}

/// The hosts that a request tries, the best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The policy that made it.
    pub policy: Policy,
    /// The hosts.
    pub choices: Vec<Choice>,
    /// How many hosts with the model get no requests because their weight is 0.
    pub drained: usize,
}

/// One host of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The host's index in the view.
    pub index: usize,
    /// The host.
    pub host: BackendHost,
    /// The state of the host's breaker with its cause, if it is not closed.
    pub of_host: Option<(BreakerState, Cause)>,
    /// The same of the breaker of the lane.
    pub of_lane: Option<(BreakerState, Cause)>,
    /// The expected wait.
    pub wait: Duration,
    /// Requests in flight in the lane.
    pub in_flight: u64,
    /// The limit of requests in flight in the lane.
    pub limit: u64,
    /// Whether the host must load the model first.
    pub cold: bool,
}

impl Choice {
    /// Whether the request may be sent there: the worse of both breakers.
    pub fn breaker(&self) -> BreakerState {
        let state = |of: &Option<(BreakerState, Cause)>| of.map_or(BreakerState::Closed, |(state, _)| state);
        state(&self.of_host).max(state(&self.of_lane))
    }

    /// What the request would be the trial of. The trial of a host tries its lane as well.
    fn trial(&self) -> Option<Scope> {
        let is_half_open =
            |of: &Option<(BreakerState, Cause)>| matches!(of, Some((BreakerState::HalfOpen, _)));
        let trials = [(&self.of_host, Scope::Host), (&self.of_lane, Scope::Lane)];
        trials.into_iter().find_map(|(of, scope)| is_half_open(of).then_some(scope))
    }
}

impl Plan {
    /// The slots that the request takes as soon as one is free. `auto` leaves out a host that is expected to take
    /// longer than waiting for the first choice; every other policy takes any host with a free slot.
    pub fn slots(&self) -> Vec<SlotRequest> {
        let is_open = |choice: &&Choice| choice.breaker() == BreakerState::Open;
        let ready = self.choices.iter().filter(|choice| !is_open(choice));
        let patience = match (self.policy, ready.clone().next()) {
            (Policy::Auto, Some(best)) => best.wait + Duration::from_millis(TIE),
            _ => Duration::MAX,
        };
        let slot = |choice: &Choice| SlotRequest {
            host: Arc::clone(choice.host.shared_url()),
            limit: choice.limit,
            cold: choice.cold,
            trial: choice.trial(),
        };
        let slots: Vec<_> = ready.filter(|choice| choice.wait <= patience).map(slot).collect();
        // When every breaker is open, the request tries those hosts rather than none.
        if slots.is_empty() { self.choices.iter().map(slot).collect() } else { slots }
    }

    /// The hosts whose waiting requests compete for the slots of this plan. They include hosts that the request does
    /// not want but could use, because a request that waits for one of those may take a slot of this plan instead.
    pub(crate) fn rivals(&self) -> Vec<&str> {
        let ready = self.choices.iter().filter(|choice| choice.breaker() != BreakerState::Open);
        let is_cold = ready.clone().next().is_some_and(|choice| choice.cold);
        let alike = ready.filter(|choice| choice.cold == is_cold).map(|choice| choice.host.url());
        alike.collect()
    }
}

impl fmt::Display for Plan {
    /// Writes the plan for a caller, with the hosts' names instead of their URLs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.policy.as_str())?;
        for choice in &self.choices {
            let Choice { index: _, host, of_host, of_lane, wait, in_flight, limit, cold } = choice;
            write!(formatter, "; host {}: ", host.name())?;
            for (whose, breaker) in [("breaker", of_host), ("breaker of the model", of_lane)] {
                if let Some((state, cause)) = breaker {
                    write!(formatter, "{whose} {} ({}), ", state.as_str(), cause.as_str())?;
                }
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
///
/// ```
/// use paddock::fleet::{
///     BackendHost, Policy, Work,
///     plan::{Demand, plan},
///     prefix::Prefixes,
///     snapshot::{FleetSnapshot, FleetView},
/// };
///
/// let hosts = [BackendHost::new(1, "http://a:11434")?, BackendHost::new(2, "http://b:11434")?];
/// let view = FleetView::new(&hosts, &[].into(), FleetSnapshot::default());
/// let prefixes = Prefixes::none();
/// let demand =
///     Demand { model: None, work: Work::Answer, options: "", affinity: 0, prompt: 0, prefixes, turn: 1, seed: 0 };
/// let plan = plan(&view, Policy::RoundRobin, &demand);
/// let names: Vec<_> = plan.choices.iter().map(|choice| choice.host.name()).collect();
/// assert_eq!(names, ["2", "1"]);
/// # Ok::<(), String>(())
/// ```
pub fn plan(view: &FleetView, policy: Policy, demand: &Demand<'_>) -> Plan {
    let has = |host: &HostView| match demand.model {
        None => true,
        // Any host can relay to Ollama's cloud.
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
    let wait = |(choice, cache): &(Choice, PromptCache)| {
        // What a place that another conversation loses is worth: else everybody who begins alike would go to one host.
        let displaced = if cache.displaces { cache.saved / choice.host.weight().max(1) } else { 0 };
        millis(choice.wait).saturating_add(displaced)
    };
    let total = |choice: &Choice| view.hosts.get(choice.index).map_or(0, |host| host.leases.len() as u64);
    let best = choices.iter().map(wait).min().unwrap_or_default();
    let weights: u64 = choices.iter().map(|(choice, _)| choice.host.weight()).sum();
    let requests = choices.iter().map(|(choice, _)| total(choice)).sum::<u64>() + 1;
    let rate = |known @ (choice, _): &(Choice, PromptCache)| match policy {
        Policy::Auto => Some(wait(known)).filter(|wait| *wait >= best.saturating_add(TIE)).unwrap_or(best),
        Policy::LeastOutstanding => total(choice) * 1000 / choice.host.weight(),
        // A host takes at most a quarter more than its share (Mirrokni, Thorup and Zadimoghaddam 2016).
        Policy::Affinity => {
            let share = (requests * 5 * choice.host.weight()).div_ceil(4 * weights.max(1));
            u64::from(total(choice) >= share)
        }
        Policy::RoundRobin | Policy::Random | Policy::PowerOfTwoChoices => 0,
    };
    // `affinity` keeps to its order, which no host's memory changes.
    let preference = |PromptCache { known, displaces, .. }: &PromptCache| match policy {
        Policy::Auto => (Reverse(known.continues), *displaces, Reverse(known.bytes)),
        Policy::Affinity
        | Policy::RoundRobin
        | Policy::Random
        | Policy::LeastOutstanding
        | Policy::PowerOfTwoChoices => (Reverse(false), false, Reverse(0)),
    };
    // The sort is stable: hosts that are equal keep the order of the counter, the seed or the affinity.
    choices.sort_by_cached_key(|known @ (choice, cache)| {
        (choice.breaker() == BreakerState::Open, rate(known), preference(cache))
    });
    let mut choices: Vec<_> = choices.into_iter().map(|(choice, _)| choice).collect();
    let latency = |choice: &Choice| latency(view.hosts.get(choice.index), demand);
    let cost = |choice: &Choice| latency(choice) * (total(choice) + 1) / choice.host.weight();
    if let (Policy::PowerOfTwoChoices, [first, second, ..]) = (policy, &mut *choices)
        && second.breaker() != BreakerState::Open
        && cost(second) < cost(first)
    {
        std::mem::swap(first, second);
    }
    Plan { policy, choices, drained: drained.len() }
}

/// The index of the host that is next in turn after `turn` requests. In each round every host gets as many turns as its
/// weight.
fn turn(hosts: &[(usize, &HostView)], turn: u64) -> usize {
    let weights = hosts.iter().map(|(_, host)| host.host.weight());
    let mut left = turn % weights.clone().sum::<u64>().max(1);
    for (index, weight) in weights.enumerate() {
        match left.checked_sub(weight) {
            None => return index,
            Some(rest) => left = rest,
        }
    }
    0
}

/// One host of a plan, with what its prompt cache is to the request.
fn choice(view: &FleetView, index: usize, host: &HostView, demand: &Demand<'_>) -> (Choice, PromptCache) {
    let lane = lane(demand.model, demand.work);
    let breaker = |scope, breaker: &Breaker| {
        breaker.cause().map(|cause| (host.breaker_state(view.now, scope, &lane), cause))
    };
    // What runs in the cloud is loaded there, and keeps the host from nothing else.
    let is_cloud = is_cloud_lane(&lane);
    let local_model = demand.model.filter(|_| !is_cloud);
    let load = local_model.map_or(0, |model| load(view, host, model, &lane, demand));
    let competes = |lease: &&Lease| if is_cloud { *lease.lane == *lane } else { !is_cloud_lane(&lease.lane) };
    let busy: u64 = host.leases.iter().filter(competes).map(|lease| service(host, &lease.lane)).sum();
    let own = service(host, &lane) / OWN;
    let waiting =
        view.tickets.iter().filter(|ticket| *ticket.lane == *lane && &*ticket.host == host.host.url());
    let ends = (host.in_flight(&lane) + waiting.count() as u64 + 1).saturating_sub(host.limit(&lane));
    let queue = ends * service(host, &lane);
    let cache = prompt(view, host, &lane, load > 0, demand);
    let choice = Choice {
        index,
        host: host.host.clone(),
        of_host: breaker(Scope::Host, &host.stats.breaker),
        of_lane: host.stats.lane(&lane).and_then(|stats| breaker(Scope::Lane, &stats.breaker)),
        wait: Duration::from_millis((busy + queue + load + cache.unknown + own) / host.host.weight().max(1)),
        in_flight: host.in_flight(&lane),
        limit: host.limit(&lane),
        cold: load > 0,
    };
    (choice, cache)
}

fn latency(host: Option<&HostView>, demand: &Demand<'_>) -> u64 {
    let lane = lane(demand.model, demand.work);
    let stats = host.and_then(|host| host.stats.lane(&lane));
    stats.map(|stats| stats.latency).filter(|latency| *latency > 0).unwrap_or(wait::ANSWER_SERVICE)
}

/// The affinity of a session or of the beginning of a prompt.
pub fn affinity(bytes: &[u8]) -> u64 {
    split_mix(super::hash::fnv(bytes))
}

#[cfg(test)]
mod tests;
