//! The fleet state that replicas share: host stats, leases of slots, tickets of the queue, and the retry budget. And
//! the view of it that decisions are made from.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;

use super::{BackendHost, BreakerState, HostStats, Inventory, Scope};

/// How long a lease holds without being renewed. After a crash its slot is free again then.
pub const LEASE: Duration = Duration::from_secs(20);
/// How long a ticket holds without being renewed.
pub const TICKET: Duration = Duration::from_secs(5);
/// The period of the retry budget.
pub const BUDGET_WINDOW: Duration = Duration::from_secs(10);

/// Precedes the hash of a caller whom nobody verified: whoever makes up callers must not get a share of the queue for each.
pub const UNVERIFIED: &str = "?";

/// A slot on a host that a request holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The host's base URL.
    pub host: Arc<str>,
    /// The lane.
    pub lane: Arc<str>,
    /// The id, which a request uses for its lease and its ticket.
    pub id: Arc<str>,
    /// When the slot was taken, by the store's clock.
    pub began: Duration,
    /// Whether the host must load the model for this request.
    pub cold: bool,
    /// What it is the trial of, where a breaker was open.
    pub trial: Option<Scope>,
}

/// A request that waits in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The id, which a request uses for its lease and its ticket.
    pub id: Arc<str>,
    /// The lane in which it waits.
    pub lane: Arc<str>,
    /// The host that it prefers, by its base URL.
    pub host: Arc<str>,
    /// A hash of the caller id, behind [`UNVERIFIED`] where nobody verified the caller.
    pub caller: Arc<str>,
    /// A hash of the session.
    pub session: Arc<str>,
    /// When the ticket was written first, by the store's clock.
    pub since: Duration,
    /// When its caller last got a slot in this lane.
    pub caller_served: Duration,
    /// When its session last got a slot in this lane.
    pub session_served: Duration,
}

/// The requests of one session of one caller, which the queue serves in turn with others. Both are hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow<'a> {
    /// The hash of the caller id, behind [`UNVERIFIED`] where nobody verified the caller.
    pub caller: &'a str,
    /// The hash of the session; empty for a request without one.
    pub session: &'a str,
}

impl Ticket {
    /// The ticket `id` of a request that arrives now. The times of the last slots are copied from a waiting ticket of
    /// the same caller and session, if there is one.
    pub fn new(view: &FleetView, id: &str, lane: &str, host: &str, flow: Flow<'_>) -> Self {
        let Flow { caller, session } = flow;
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

/// A slot that a request would take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRequest {
    /// The host's base URL.
    pub host: Arc<str>,
    /// The most requests in flight in the lane, this request included.
    pub limit: u64,
    /// Whether the host must load the model for it.
    pub cold: bool,
    /// What it would be the trial of, where a breaker was open. One request at a time may be that of a host, and one that of
    /// a lane.
    pub trial: Option<Scope>,
}

/// Whether a request that would be the trial of this scope finds one under way, given what the leases of its host are
/// trials of, and whether each is in its lane.
pub(crate) fn is_tried(wanted: Scope, mut leases: impl Iterator<Item = (Option<Scope>, bool)>) -> bool {
    leases.any(|(trial, is_in_lane)| match (trial, wanted) {
        (None, _) => false,
        (Some(Scope::Host), Scope::Host) => true,
        (Some(Scope::Host), Scope::Lane) | (Some(Scope::Lane), _) => is_in_lane,
    })
}

/// What a request asks of [`FleetState::claim`](crate::store::FleetState::claim).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    /// The id of the lease.
    pub id: &'a str,
    /// The lane.
    pub lane: &'a str,
    /// The slots in order of preference; the first free one is taken.
    pub slots: Vec<SlotRequest>,
    /// The flow of the request.
    pub flow: Flow<'a>,
    /// Whether the request repeats work that a host had accepted.
    pub is_retry: bool,
    /// The plan that prefers the first slot, as text for the list of recent decisions.
    pub reason: &'a str,
}

/// Requests and retries within [`BUDGET_WINDOW`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RetryBudget {
    /// Requests that got a slot.
    pub requests: u64,
    /// How many of them repeated work that a host had accepted.
    pub retries: u64,
}

impl RetryBudget {
    /// Whether one more retry is allowed: a fifth of the requests may be retries, and ten in any case.
    pub fn allow(self) -> bool {
        self.retries < (self.requests / 5).max(10)
    }
}

/// The shared state of the fleet at one time.
#[derive(Debug, Clone, Default)]
pub struct FleetSnapshot {
    /// The time, by the store's clock.
    pub now: Duration,
    /// Host stats by base URL.
    pub stats: BTreeMap<String, Arc<HostStats>>,
    /// The leases of the slots that are taken.
    pub leases: Vec<Lease>,
    /// The tickets of the requests that wait.
    pub tickets: Vec<Ticket>,
    /// The use of the retry budget.
    pub retries: RetryBudget,
}

/// The fleet as the planner sees it.
#[derive(Debug, Clone, Default)]
pub struct FleetView {
    /// The time, by the store's clock.
    pub now: Duration,
    /// The hosts, in the order of the configuration.
    pub hosts: Vec<HostView>,
    /// The tickets of the requests that wait.
    pub tickets: Vec<Ticket>,
}

/// One host as the planner sees it.
#[derive(Debug, Clone)]
pub struct HostView {
    /// The host.
    pub host: BackendHost,
    /// Its inventory; `None` until it has answered once.
    pub inventory: Option<Arc<Inventory>>,
    /// Its stats.
    pub stats: Arc<HostStats>,
    /// The leases of its slots.
    pub leases: Vec<Lease>,
}

impl FleetView {
    /// The view of `hosts` from the snapshot and the inventories.
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
    /// The state of the breaker of the host, or of one of its lanes, for one request more: while a trial is under way, the
    /// others treat it as open.
    pub(crate) fn breaker_state(&self, now: Duration, scope: Scope, lane: &str) -> BreakerState {
        let breaker = match scope {
            Scope::Host => Some(&self.stats.breaker),
            Scope::Lane => self.stats.lane(lane).map(|stats| &stats.breaker),
        };
        let state = breaker.map_or(BreakerState::Closed, |breaker| breaker.state(now));
        let mut leases = self.leases.iter().map(|lease| (lease.trial, &*lease.lane == lane));
        if state == BreakerState::HalfOpen && is_tried(scope, &mut leases) {
            BreakerState::Open
        } else {
            state
        }
    }

    /// How many requests are in flight in a lane.
    pub fn in_flight(&self, lane: &str) -> u64 {
        self.leases.iter().filter(|lease| &*lease.lane == lane).count() as u64
    }

    /// The limit of requests in flight in a lane: the configured one, or a lower one after the host answered that it is
    /// busy.
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
        Lease { host: host.into(), lane: lane.into(), id: "1".into(), began: NOW, cold: false, trial: None }
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
        let fresh = Ticket::new(&view, "1", "m:1", "h", Flow { caller: "a", session: "s" });
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
            let ticket = Ticket::new(&view, "2", lane, "h", Flow { caller, session });
            let expected = (seconds(served.0), seconds(served.1));
            assert_eq!((ticket.caller_served, ticket.session_served), expected, "{lane} {caller} {session}");
        }
    }
}
