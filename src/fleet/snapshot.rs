//! What instances and replicas share about the fleet: stats of the hosts, leases of places, tickets of the queue, and
//! how many requests were tried again. And the view that decisions are made from.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{BackendHost, HostStats, Inventory};

/// How long a lease holds without being renewed: after a crash its place is free again.
pub const LEASE: Duration = Duration::from_secs(20);
/// How long a ticket holds without being renewed.
pub const TICKET: Duration = Duration::from_secs(5);
/// The time over which retries are budgeted.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// A request's place on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The host's base URL.
    pub host: Arc<str>,
    /// The lane.
    pub lane: Arc<str>,
    /// What tells it from others.
    pub id: Arc<str>,
    /// When it was taken, by the store's clock.
    pub began: Duration,
    /// Whether the model had to be loaded for it.
    pub cold: bool,
    /// Whether it tries a host whose breaker was open.
    pub trial: bool,
}

/// A request's place in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// What tells it from others.
    pub id: Arc<str>,
    /// The lane in which it waits.
    pub lane: Arc<str>,
    /// The host that it would take first, by its base URL.
    pub host: Arc<str>,
    /// Whose it is: a hash.
    pub caller: Arc<str>,
    /// The session it belongs to: a hash.
    pub session: Arc<str>,
    /// When it came, by the store's clock.
    pub since: Duration,
    /// When its caller was given a place in this lane last.
    pub caller_served: Duration,
    /// When its session was given a place in this lane last.
    pub session_served: Duration,
}

impl Ticket {
    /// The ticket `id` of a request that comes now. Whoever waits of its caller and session knows when those were
    /// served last.
    pub fn new(view: &FleetView, id: &str, lane: &str, host: &str, (caller, session): (&str, &str)) -> Self {
        let kin = |ticket: &&Self| &*ticket.lane == lane && &*ticket.caller == caller;
        let known = view.tickets.iter().find(kin);
        let same = view.tickets.iter().filter(kin).find(|ticket| &*ticket.session == session);
        Self {
            id: id.into(),
            lane: lane.into(),
            host: host.into(),
            caller: caller.into(),
            session: session.into(),
            since: view.now,
            caller_served: known.map(|known| known.caller_served).unwrap_or_default(),
            session_served: same.map(|same| same.session_served).unwrap_or_default(),
        }
    }
}

/// A place that a request would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRequest {
    /// The host's base URL.
    pub host: Arc<str>,
    /// The most requests in flight in the lane, this one included.
    pub limit: u64,
    /// Whether the model must be loaded for it.
    pub cold: bool,
    /// Whether it tries a host whose breaker was open, which one request at a time does.
    pub trial: bool,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The id of the lease.
    pub id: &'a str,
    /// The lane.
    pub lane: &'a str,
    /// The first of these that has room is taken.
    pub places: Vec<SlotRequest>,
    /// Whose request it is, and of which session: hashes.
    pub flow: (&'a str, &'a str),
    /// Whether it tries again what a host had accepted.
    pub is_retry: bool,
    /// Why the first of the places, for the list of recent decisions.
    pub reason: &'a str,
}

/// Requests and retries within [`BUDGET_WINDOW`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RetryBudget {
    /// Requests that were given a place.
    pub requests: u64,
    /// Those of them that a host had accepted before.
    pub retries: u64,
}

impl RetryBudget {
    /// Whether one more retry is within the budget: a fifth of the requests, and ten in any case.
    pub fn allow(self) -> bool {
        self.retries < (self.requests / 5).max(10)
    }
}

/// Everything that is shared, at one time.
#[derive(Debug, Clone, Default)]
pub struct FleetSnapshot {
    /// The time, by the store's clock.
    pub now: Duration,
    /// Stats by the host's base URL.
    pub stats: BTreeMap<String, Arc<HostStats>>,
    /// Places that are taken.
    pub leases: Vec<Lease>,
    /// Requests that wait.
    pub tickets: Vec<Ticket>,
    /// The budget's use.
    pub retries: RetryBudget,
}

/// The fleet as a decision sees it.
#[derive(Debug, Clone, Default)]
pub struct FleetView {
    /// The time, by the store's clock.
    pub now: Duration,
    /// The hosts, in the order of the configuration.
    pub hosts: Vec<HostView>,
    /// Requests that wait.
    pub tickets: Vec<Ticket>,
}

/// One host as a decision sees it.
#[derive(Debug, Clone)]
pub struct HostView {
    /// The host.
    pub host: BackendHost,
    /// What it has; `None` while it gave no answer.
    pub inventory: Option<Arc<Inventory>>,
    /// What was learnt of it.
    pub stats: Arc<HostStats>,
    /// Its places that are taken.
    pub leases: Vec<Lease>,
}

impl FleetView {
    /// The view of `hosts` that the snapshot and the inventories give.
    pub fn new(
        hosts: &[BackendHost],
        inventories: &BTreeMap<String, Arc<Inventory>>,
        snapshot: FleetSnapshot,
    ) -> Self {
        let FleetSnapshot { now, stats, leases, tickets, retries: _ } = snapshot;
        let view = |host: &BackendHost| HostView {
            host: host.clone(),
            inventory: inventories.get(host.url()).cloned(),
            stats: stats.get(host.url()).cloned().unwrap_or_default(),
            leases: leases.iter().filter(|lease| &*lease.host == host.url()).cloned().collect(),
        };
        Self { now, hosts: hosts.iter().map(view).collect(), tickets }
    }
}

impl HostView {
    /// Requests in flight in a lane.
    pub fn in_flight(&self, lane: &str) -> u64 {
        self.leases.iter().filter(|lease| &*lease.lane == lane).count() as u64
    }

    /// The most requests in flight in a lane: as configured, or less where the host said that it is busy.
    pub fn limit(&self, lane: &str) -> u64 {
        let lowered = self.stats.lane(lane).map(|stats| stats.limit).filter(|limit| *limit > 0);
        lowered.unwrap_or(u64::MAX).min(self.host.parallel())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn host(place: usize) -> BackendHost {
        BackendHost::new(place, &format!("http://h{place}:1")).unwrap()
    }

    fn lease(host: &str, lane: &str) -> Lease {
        Lease { host: host.into(), lane: lane.into(), id: "1".into(), began: NOW, cold: false, trial: false }
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retries_and_ten_in_any_case() {
        for (requests, retries, is_allowed) in [
            (0, 0, true),
            (10, 9, true),
            (10, 10, false),
            (54, 10, false),
            (55, 10, true),
            (60, 12, false),
            (1_000, 199, true),
            (1_000, 200, false),
        ] {
            assert_eq!(RetryBudget { requests, retries }.allow(), is_allowed, "{retries} of {requests}");
        }
    }

    #[test]
    fn a_view_gives_each_host_what_is_known_of_it() {
        let mut stats = HostStats::default();
        stats.prove(NOW, "m:1", "");
        let inventory = Arc::new(Inventory { version: "1".to_owned(), ..Inventory::default() });
        let snapshot = FleetSnapshot {
            now: NOW,
            stats: [("http://h2:1".to_owned(), Arc::new(stats.clone()))].into(),
            leases: vec![
                lease("http://h2:1", "m:1"),
                lease("http://h2:1", "n:1"),
                lease("http://gone:1", "m:1"),
            ],
            ..FleetSnapshot::default()
        };
        let inventories = [("http://h1:1".to_owned(), Arc::clone(&inventory))].into();
        let view = FleetView::new(&[host(1), host(2)], &inventories, snapshot);
        let [first, second] = &view.hosts[..] else { panic!("{view:?}") };
        assert_eq!((view.now, &first.inventory, &second.inventory), (NOW, &Some(inventory), &None));
        assert_eq!((&*first.stats, &*second.stats), (&HostStats::default(), &stats));
        assert_eq!((first.leases.len(), second.leases.len()), (0, 2));
        assert_eq!(["m:1", "n:1", "m"].map(|lane| second.in_flight(lane)), [1, 1, 0]);
    }

    #[test]
    fn a_lane_takes_what_is_configured_or_what_its_host_last_took() {
        for (parallel, lowered, limit) in [(4, 0, 4), (4, 2, 2), (4, 9, 4), (1, 1, 1)] {
            let mut stats = HostStats::default();
            stats.lane_mut("m:1").limit = lowered;
            let host = host(1).with_parallel(parallel);
            let view = HostView { host, inventory: None, stats: stats.into(), leases: vec![] };
            assert_eq!((view.limit("m:1"), view.limit("m:1#embed")), (limit, parallel), "{lowered}");
        }
    }

    #[test]
    fn a_new_ticket_knows_of_its_kin_when_they_were_served() {
        let seconds = Duration::from_secs;
        let mut view = FleetView { now: NOW, ..FleetView::default() };
        let fresh = Ticket::new(&view, "1", "m:1", "h", ("a", "s"));
        assert_eq!(
            (fresh.since, fresh.caller_served, fresh.session_served),
            (NOW, Duration::ZERO, Duration::ZERO)
        );
        let known = Ticket { caller_served: seconds(9), session_served: seconds(8), ..fresh };
        view.tickets.push(known);
        for (lane, caller, session, served) in [
            ("m:1", "a", "s", (9, 8)),
            ("m:1", "a", "other", (9, 0)),
            ("m:1", "other", "s", (0, 0)),
            ("other", "a", "s", (0, 0)),
        ] {
            let ticket = Ticket::new(&view, "2", lane, "h", (caller, session));
            let expected = (seconds(served.0), seconds(served.1));
            assert_eq!((ticket.caller_served, ticket.session_served), expected, "{lane} {caller} {session}");
        }
    }
}
