//! The fleet state of one process: all of it without Redis, and the fallback while Redis is down.
//!
//! Every method is one step that never waits. The time is an argument, by the clock of this process. Leases do not
//! expire here, because they end with the process.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::poll_fn,
    sync::{Arc, MutexGuard},
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;

use super::{
    BackendHost, Context, HOSTS_LIMIT, HostStats, Inventory, ModelName,
    looks::{Look, LookDecision, Looks},
    snapshot::{BUDGET_WINDOW, Claim, FleetSnapshot, Flow, Lease, RetryBudget, TICKET, Ticket, is_tried},
};
use crate::{api::endpoint::Endpoint, platform::Locked};

/// How many decisions are kept.
pub const DECISIONS: usize = 32;
/// How many hosts may have stats, current and removed ones together, before those of removed hosts are dropped.
pub(crate) const FACTS_LIMIT: usize = 4 * HOSTS_LIMIT;
/// How long the time of a flow's last slot is remembered.
pub(crate) const SERVED: Duration = Duration::from_mins(2);
/// The longest list of a host that is kept as it was written, in bytes.
const LIST_LIMIT: usize = 1 << 20;
/// The least and the most flows that are remembered.
const SERVED_FEW: usize = 1024;
pub(crate) const SERVED_MOST: usize = 4096;

/// The inventories of the hosts, by base URL.
pub type Inventories = BTreeMap<String, Arc<Inventory>>;

/// The fleet state of one process.
#[derive(Debug, Default)]
pub struct LocalFleet(Locked<LocalState>);

/// A lane, a caller in it, and one session of that caller; `None` for all sessions together.
type ServedKey = (Arc<str>, Arc<str>, Option<Arc<str>>);

#[derive(Debug, Default)]
struct LocalState {
    hosts: Arc<[BackendHost]>,
    /// Whether the hosts are probed in the background.
    is_watched: bool,
    /// Whether the stored inventories have been read from the store.
    is_recalled: bool,
    /// The hosts that were probed, by base URL.
    examined: BTreeSet<String>,
    /// The looks at each host that requests asked for, by base URL.
    looks: BTreeMap<String, Looks>,
    /// The last lists of each host as it wrote them, by base URL and path.
    lists: BTreeMap<String, BTreeMap<&'static str, Bytes>>,
    stats: BTreeMap<String, Arc<HostStats>>,
    inventories: Arc<Inventories>,
    leases: Vec<Lease>,
    /// The tickets of the queue, each with the time at which it expires.
    tickets: Vec<(Ticket, Duration)>,
    /// When each flow last got a slot in its lane.
    served: BTreeMap<ServedKey, Duration>,
    /// When the last of the flows got a slot that are not remembered one by one any more; it stands for all that are unknown,
    /// so that flows that are made up for each request get no precedence.
    served_others: Duration,
    /// The claims of each of the latest seconds, the latest last.
    claims: VecDeque<(u64, RetryBudget)>,
    /// The number of flows at which old ones are dropped.
    served_limit: usize,
    decisions: VecDeque<String>,
    waiting: Vec<Waker>,
    /// How many steps so far may have freed a slot.
    changes: u64,
    /// How far the store's clock is ahead of the clock of this process.
    ahead: Duration,
    /// When the inventories were last read from the store, by the clock of this process.
    looked: Option<Duration>,
}

impl LocalFleet {
    fn state(&self) -> MutexGuard<'_, LocalState> {
        self.0.lock()
    }

    /// The state without expired tickets and claims, and the time by the store's clock.
    fn open(&self, now: Duration) -> (MutexGuard<'_, LocalState>, Duration) {
        let mut state = self.state();
        let now = now + state.ahead;
        state.tickets.retain(|(_, ends)| now < *ends);
        let oldest = now.saturating_sub(BUDGET_WINDOW).as_secs();
        while state.claims.front().is_some_and(|(second, _)| now >= BUDGET_WINDOW && *second <= oldest) {
            state.claims.pop_front();
        }
        (state, now)
    }

    /// The hosts, in the order of the configuration.
    pub fn hosts(&self) -> Arc<[BackendHost]> {
        Arc::clone(&self.state().hosts)
    }

    /// Replaces the hosts: at the start, and when the addresses behind a host name change.
    pub fn set_hosts(&self, hosts: &[BackendHost]) {
        let mut state = self.state();
        state.hosts = hosts.into();
        let is_known = |url: &String| hosts.iter().any(|host| host.url() == url);
        Arc::make_mut(&mut state.inventories).retain(|url, _| is_known(url));
        state.examined.retain(|url| is_known(url));
        state.looks.retain(|url, _| is_known(url));
        state.lists.retain(|url, _| is_known(url));
        // The stats of a removed host are kept, because its address may come back, but only up to the limit.
        if state.stats.len() > FACTS_LIMIT {
            state.stats.retain(|url, _| is_known(url));
        }
        state.ring();
    }

    /// Whether every host was probed in the background and the stored inventories were read.
    pub(crate) fn knows_every_host(&self) -> bool {
        let state = self.state();
        state.is_watched
            && state.is_recalled
            && state.hosts.iter().all(|host| state.examined.contains(host.url()))
    }

    /// Records that a host was probed, whatever it answered.
    pub(crate) fn note_examined(&self, host: &str) {
        let mut state = self.state();
        if !state.examined.contains(host) {
            state.examined.insert(host.to_owned());
        }
    }

    /// What a request does at `now` that wants to know what a host says; see [`Looks::decide`].
    pub(crate) fn decide_look(&self, host: &str, now: Duration, waited: Option<u64>) -> LookDecision {
        self.state().looks.entry(host.to_owned()).or_default().decide(now, waited)
    }

    /// Records what a look at a host found, whoever looked.
    pub(crate) fn note_look(&self, host: &str, found: Look) {
        self.state().looks.entry(host.to_owned()).or_default().note(found);
    }

    /// Records that the request that looked at a host has ended, and wakes those who wait for it.
    pub(crate) fn end_look(&self, host: &str) {
        let mut state = self.state();
        if let Some(looks) = state.looks.get_mut(host) {
            looks.end();
        }
        state.ring();
    }

    /// Keeps a list as a host wrote it, unless it is too long.
    pub(crate) fn note_list(&self, host: &str, path: &'static str, list: &Bytes) {
        let mut state = self.state();
        let is_host = state.hosts.iter().any(|known| known.url() == host);
        if is_host && list.len() <= LIST_LIMIT {
            state.lists.entry(host.to_owned()).or_default().insert(path, list.clone());
        }
    }

    /// The last list of a host at a path.
    pub(crate) fn known_list(&self, host: &str, path: &str) -> Option<Bytes> {
        self.state().lists.get(host)?.get(path).cloned()
    }

    /// Records that the stored inventories were read.
    pub(crate) fn note_recalled(&self) {
        self.state().is_recalled = true;
    }

    /// Whether the hosts are probed in the background, even if some were not probed yet.
    pub(crate) fn has_watch(&self) -> bool {
        self.state().is_watched
    }

    /// Records that the hosts are probed in the background from now on.
    pub(crate) fn begin_watch(&self) {
        self.state().is_watched = true;
    }

    /// The time by the store's clock.
    pub(crate) fn time(&self, now: Duration) -> Duration {
        now + self.state().ahead
    }

    /// The whole state at `now`.
    pub fn snapshot(&self, now: Duration) -> FleetSnapshot {
        let (state, now) = self.open(now);
        let tickets = state.tickets.iter().map(|(ticket, _)| {
            let served = |session: Option<&Arc<str>>| {
                let key = (ticket.lane.clone(), ticket.caller.clone(), session.cloned());
                let served = state.served.get(&key).copied().unwrap_or(state.served_others);
                if now.saturating_sub(served) < SERVED { served } else { Duration::ZERO }
            };
            let (caller_served, session_served) = (served(None), served(Some(&ticket.session)));
            Ticket { caller_served, session_served, ..ticket.clone() }
        });
        let retries = state.claims.iter().fold(RetryBudget::default(), |sum, (_, claims)| RetryBudget {
            requests: sum.requests + claims.requests,
            retries: sum.retries + claims.retries,
        });
        FleetSnapshot {
            now,
            stats: state.stats.clone(),
            leases: state.leases.clone(),
            tickets: tickets.collect(),
            retries,
        }
    }

    /// The stats of a host.
    pub(crate) fn stats(&self, host: &str) -> Arc<HostStats> {
        self.state().stats.get(host).cloned().unwrap_or_default()
    }

    /// Takes the first requested slot whose host has room.
    pub fn claim(&self, now: Duration, claim: &Claim<'_>) -> Option<Lease> {
        let (mut state, now) = self.open(now);
        let slot = claim.slots.iter().find(|slot| {
            let taken = state.leases.iter().filter(|lease| lease.host == slot.host);
            let mut taken = taken.map(|lease| (lease.trial, &*lease.lane == claim.lane));
            let in_lane = taken.clone().filter(|(_, is_in_lane)| *is_in_lane).count() as u64;
            in_lane < slot.limit && !slot.trial.is_some_and(|trial| is_tried(trial, &mut taken))
        })?;
        let lease = Lease {
            host: slot.host.clone(),
            lane: claim.lane.into(),
            id: claim.id.into(),
            began: now,
            cold: slot.cold,
            trial: slot.trial,
        };
        state.leases.push(lease.clone());
        state.tickets.retain(|(ticket, _)| &*ticket.id != claim.id);
        state.count(now, claim.is_retry);
        let Flow { caller, session } = claim.flow;
        if state.served.len() >= state.served_limit {
            state.served.retain(|_, at| now.saturating_sub(*at) < SERVED);
            if state.served.len() > SERVED_MOST / 2 {
                state.fold_served();
            }
            state.served_limit = (state.served.len() * 2).clamp(SERVED_FEW, SERVED_MOST);
        }
        let caller: Arc<str> = caller.into();
        for session in [None, Some(session.into())] {
            state.served.insert((Arc::clone(&lease.lane), Arc::clone(&caller), session), now);
        }
        if state.decisions.len() >= DECISIONS {
            state.decisions.pop_front();
        }
        state.decisions.push_back(format!("{} at {}: {}", claim.lane, lease.host, claim.reason));
        Some(lease)
    }

    /// Puts a ticket into the queue or renews it; `displaced` is removed for it.
    pub fn enter(&self, now: Duration, ticket: &Ticket, displaced: Option<&str>) {
        let (mut state, now) = self.open(now);
        if let Some(displaced) = displaced {
            state.tickets.retain(|(known, _)| &*known.id != displaced);
            state.ring();
        }
        state.tickets.retain(|(known, _)| known.id != ticket.id);
        state.tickets.push((ticket.clone(), now + TICKET));
    }

    /// Removes a ticket from the queue, and releases a slot that was claimed under the same id.
    pub fn leave(&self, id: &str) {
        let mut state = self.state();
        state.tickets.retain(|(ticket, _)| &*ticket.id != id);
        state.leases.retain(|lease| &*lease.id != id);
        state.ring();
    }

    /// Changes the stats of a host and releases the slot of the id `released` on it. Only on this host: after a
    /// failover the request holds a slot on another host under the same id.
    pub fn update(
        &self,
        now: Duration,
        host: &str,
        released: Option<&str>,
        change: impl FnOnce(&mut HostStats, Duration),
    ) {
        let (mut state, now) = self.open(now);
        if let Some(released) = released {
            state.leases.retain(|lease| &*lease.id != released || &*lease.host != host);
        }
        change(Arc::make_mut(state.stats.entry(host.to_owned()).or_default()), now);
        state.ring();
    }

    /// Copies the shared stats at `now` (by the clock of this process), for the time when the store cannot be asked.
    pub(crate) fn learn(&self, now: Duration, snapshot: &FleetSnapshot) {
        let mut state = self.state();
        state.ahead = snapshot.now.saturating_sub(now);
        state.stats.clone_from(&snapshot.stats);
    }

    /// The latest decisions with their reasons, oldest first.
    pub fn decisions(&self) -> Vec<String> {
        self.state().decisions.iter().cloned().collect()
    }

    /// The inventories of the hosts.
    pub fn inventories(&self) -> Arc<Inventories> {
        Arc::clone(&self.state().inventories)
    }

    /// Records a host's inventory, unless a newer one is known or the host was removed meanwhile. Returns it with the
    /// context lengths that were known before.
    pub fn note_inventory(&self, host: &str, mut inventory: Arc<Inventory>) -> Arc<Inventory> {
        let mut state = self.state();
        let known = state.inventories.get(host);
        if let Some(known) = known.filter(|known| !known.contexts.is_empty() || !known.lacks.is_empty()) {
            Arc::make_mut(&mut inventory).inherit(known);
        }
        let is_host = state.hosts.iter().any(|known| known.url() == host);
        if is_host && known.is_none_or(|known| known.seen <= inventory.seen) {
            Arc::make_mut(&mut state.inventories).insert(host.to_owned(), Arc::clone(&inventory));
        }
        state.ring();
        inventory
    }

    /// Records the context length of a model by its digest; returns the host's inventory as it is now.
    pub(crate) fn note_context(&self, host: &str, digest: &str, context: Context) -> Option<Arc<Inventory>> {
        let mut state = self.state();
        let inventory = Arc::make_mut(&mut state.inventories).get_mut(host)?;
        Arc::make_mut(inventory).contexts.insert(digest.to_owned(), context);
        Some(Arc::clone(inventory))
    }

    /// Records that a host, which is of this version, does not have an endpoint; returns its inventory as it is now.
    pub(crate) fn note_lack(
        &self,
        host: &str,
        endpoint: Endpoint,
        version: String,
    ) -> Option<Arc<Inventory>> {
        let mut state = self.state();
        let inventory = Arc::make_mut(&mut state.inventories).get_mut(host)?;
        Arc::make_mut(inventory).lack(endpoint, version);
        Some(Arc::clone(inventory))
    }

    /// Whether the last look at a host failed.
    pub(crate) fn has_failed_look(&self, host: &str) -> bool {
        self.state().looks.get(host).is_some_and(Looks::has_failed)
    }

    /// Records that a host does not have a model that it had listed.
    pub fn forget_model(&self, host: &str, model: &ModelName) {
        let mut state = self.state();
        if let Some(looks) = state.looks.get_mut(host) {
            looks.forget();
        }
        if let Some(inventory) = Arc::make_mut(&mut state.inventories).get_mut(host) {
            let is_other = |name: &str| ModelName::parse(name).as_ref() != Some(model);
            Arc::make_mut(inventory).models.retain(|known| is_other(&known.name));
        }
    }

    /// Whether the inventories were last read longer than `fresh` ago. A caller that gets `true` must read them: the
    /// time is reset.
    pub(crate) fn is_due(&self, now: Duration, fresh: Duration) -> bool {
        let mut state = self.state();
        let is_due = state.looked.is_none_or(|looked| now.saturating_sub(looked) >= fresh);
        if is_due {
            state.looked = Some(now);
        }
        is_due
    }

    /// Wakes the waiting requests because a slot may be free.
    pub(crate) fn ring(&self) {
        self.state().ring();
    }

    /// Resolves at the next step that may have freed a slot. Without `is_woken` that step does not wake this future: it
    /// notices the step only when it is polled for another reason.
    pub(crate) fn changed(&self, is_woken: bool) -> impl Future<Output = ()> + Send + '_ {
        let seen = self.state().changes;
        poll_fn(move |context| {
            let mut state = self.state();
            if state.changes != seen {
                return Poll::Ready(());
            }
            let waker = context.waker();
            // A task that is polled several times before a change is woken once.
            if is_woken && !state.waiting.iter().any(|known| known.will_wake(waker)) {
                state.waiting.push(waker.clone());
            }
            Poll::Pending
        })
    }
}

impl LocalState {
    fn count(&mut self, now: Duration, is_retry: bool) {
        let second = now.as_secs();
        if self.claims.back().is_none_or(|(latest, _)| *latest < second) {
            self.claims.push_back((second, RetryBudget::default()));
        }
        if let Some((_, claims)) = self.claims.back_mut() {
            claims.requests += 1;
            claims.retries += u64::from(is_retry);
        }
    }

    /// Forgets the older half of the flows one by one, and remembers them as one.
    fn fold_served(&mut self) {
        let mut times: Vec<_> = self.served.values().copied().collect();
        times.sort_unstable();
        let Some(middle) = times.get(times.len() / 2).copied() else { return };
        self.served.retain(|_, at| *at > middle);
        self.served_others = middle;
    }

    /// Wakes the waiting requests.
    fn ring(&mut self) {
        self.changes += 1;
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
