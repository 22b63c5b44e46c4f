//! One request and what it asks of the fleet: as `flight::dispatch::Destination` and `Dispatch`.

use std::time::Duration;

use paddock::{
    fleet::Work,
    fleet::{
        ModelName, Policy, Ticket,
        plan::{Demand, Plan, plan},
        prefix::Prefixes,
        snapshot::FleetView,
    },
};

use super::attempt::Attempt;

/// A request on its way to an answer.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) id: String,
    pub(super) model: ModelName,
    pub(super) lane: String,
    pub(super) options: String,
    pub(super) affinity: u64,
    /// In bytes.
    pub(super) prompt: u64,
    pub(super) caller: String,
    pub(super) session: String,
    pub(super) turn: u64,
    pub(super) seed: u64,
    /// The hosts that it was sent to, by their base URLs.
    pub(super) tried: Vec<String>,
    /// Whether the last host had accepted it.
    pub(super) is_retry: bool,
    /// Since when it waits for a place.
    pub(super) waiting: Option<Duration>,
    pub(super) renewed: Duration,
    pub(super) is_displaced: bool,
    pub(super) attempt: Option<Attempt>,
}

impl Course {
    /// The fleet without the hosts that were tried, and without its own ticket, which it does not wait for.
    pub(super) fn seen<'a>(&self, view: &'a FleetView, own: &'a mut Option<FleetView>) -> &'a FleetView {
        let is_own = |ticket: &Ticket| *ticket.id == *self.id;
        if self.tried.is_empty() && !view.tickets.iter().any(is_own) {
            return view;
        }
        let own = own.insert(view.clone());
        own.tickets.retain(|ticket| !is_own(ticket));
        own.hosts.retain(|known| !self.tried.iter().any(|tried| tried == known.host.url()));
        own
    }

    pub(super) fn plan(&self, view: &FleetView, policy: Policy) -> Plan {
        let demand = Demand {
            model: Some(&self.model),
            work: Work::Answer,
            options: &self.options,
            affinity: self.affinity,
            prompt: self.prompt,
            prefixes: Prefixes::none(),
            turn: self.turn,
            seed: self.seed,
        };
        plan(view, policy, &demand)
    }
}
