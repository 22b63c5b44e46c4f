//! The snapshot of one process: the whole of it without Redis, and what is gone by while Redis is away.
//!
//! Every method is one step that happens at once. It knows no clock: the time comes in, by the host's clock. Its leases
//! do not expire, for they end with the process.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use super::{
    BackendHost, Context, HOSTS_LIMIT, HostStats, Inventory, ModelName,
    snapshot::{BUDGET_WINDOW, Claim, FleetSnapshot, Lease, RetryBudget, TICKET, Ticket},
};

/// Decisions that are remembered.
pub const DECISIONS: usize = 32;
/// Hosts of which stats are kept although they vanished, together with those that are there.
const FACTS_LIMIT: usize = 4 * HOSTS_LIMIT;
/// How long it is remembered who was given a place.
pub(crate) const SERVED: Duration = Duration::from_mins(2);
/// As many flows are always remembered.
const SERVED_FEW: usize = 1024;

/// What the hosts said they have, by base URL.
pub type Inventories = BTreeMap<String, Arc<Inventory>>;

/// The snapshot of one process.
#[derive(Debug, Default)]
pub struct LocalFleet(Mutex<LocalState>);

/// A lane, a caller in it, and one of its sessions or all of them.
type Flow = (Arc<str>, Arc<str>, Option<Arc<str>>);

#[derive(Debug, Default)]
struct LocalState {
    hosts: Arc<[BackendHost]>,
    /// Whether the hosts are asked what they have in the background.
    is_watched: bool,
    /// Whether what they had before was looked up in the store.
    is_recalled: bool,
    /// Hosts that were asked, by base URL.
    examined: BTreeSet<String>,
    stats: BTreeMap<String, Arc<HostStats>>,
    inventories: Arc<Inventories>,
    leases: Vec<Lease>,
    /// With the time at which each ends.
    tickets: Vec<(Ticket, Duration)>,
    /// When a caller, or one session of it, was given a place in a lane last.
    served: BTreeMap<Flow, Duration>,
    /// Places that were given in each of the latest seconds, the latest last.
    claims: VecDeque<(u64, RetryBudget)>,
    /// How many flows are remembered until those of long ago are forgotten.
    served_limit: usize,
    decisions: VecDeque<String>,
    waiting: Vec<Waker>,
    /// Steps so far that may have made room.
    changes: u64,
    /// How far the clock of the shared store is ahead of the host's.
    ahead: Duration,
    /// When the inventories were looked at last, by the host's clock.
    looked: Option<Duration>,
}

impl LocalFleet {
    fn pages(&self) -> MutexGuard<'_, LocalState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pages as they are now, and the time by the store's clock.
    fn open(&self, now: Duration) -> (MutexGuard<'_, LocalState>, Duration) {
        let mut pages = self.pages();
        let now = now + pages.ahead;
        pages.tickets.retain(|(_, ends)| now < *ends);
        let oldest = now.saturating_sub(BUDGET_WINDOW).as_secs();
        while pages.claims.front().is_some_and(|(second, _)| now >= BUDGET_WINDOW && *second <= oldest) {
            pages.claims.pop_front();
        }
        (pages, now)
    }

    /// The hosts, in the order of the configuration.
    pub fn hosts(&self) -> Arc<[BackendHost]> {
        Arc::clone(&self.pages().hosts)
    }

    /// Replaces the hosts: at the start, and where names stand for addresses that change.
    pub fn set_hosts(&self, hosts: &[BackendHost]) {
        let mut pages = self.pages();
        pages.hosts = hosts.into();
        let is_known = |url: &String| hosts.iter().any(|host| host.url() == url);
        Arc::make_mut(&mut pages.inventories).retain(|url, _| is_known(url));
        pages.examined.retain(|url| is_known(url));
        // An address may come back; that many do not.
        if pages.stats.len() > FACTS_LIMIT {
            pages.stats.retain(|url, _| is_known(url));
        }
        pages.ring();
    }

    /// Whether the hosts are asked in the background what they have, and each was.
    pub(crate) fn knows_every_host(&self) -> bool {
        let pages = self.pages();
        pages.is_watched
            && pages.is_recalled
            && pages.hosts.iter().all(|host| pages.examined.contains(host.url()))
    }

    /// Takes note that a host was asked, whatever it said.
    pub(crate) fn note_examined(&self, host: &str) {
        let mut pages = self.pages();
        if !pages.examined.contains(host) {
            pages.examined.insert(host.to_owned());
        }
    }

    /// Takes note that what they had before is known as far as the store knows it.
    pub(crate) fn note_recalled(&self) {
        self.pages().is_recalled = true;
    }

    /// Whether the hosts are asked in the background, though perhaps not each was yet.
    pub(crate) fn has_watch(&self) -> bool {
        self.pages().is_watched
    }

    /// Takes note that the hosts are asked in the background.
    pub(crate) fn begin_watch(&self) {
        self.pages().is_watched = true;
    }

    /// The time by the store's clock.
    pub fn time(&self, now: Duration) -> Duration {
        now + self.pages().ahead
    }

    /// Everything as it stands.
    pub fn snapshot(&self, now: Duration) -> FleetSnapshot {
        let (pages, now) = self.open(now);
        let tickets = pages.tickets.iter().map(|(ticket, _)| {
            let served = |session: Option<&Arc<str>>| {
                let key = (ticket.lane.clone(), ticket.caller.clone(), session.cloned());
                let served = pages.served.get(&key).copied().unwrap_or_default();
                if now.saturating_sub(served) < SERVED { served } else { Duration::ZERO }
            };
            let (caller_served, session_served) = (served(None), served(Some(&ticket.session)));
            Ticket { caller_served, session_served, ..ticket.clone() }
        });
        let retries = pages.claims.iter().fold(RetryBudget::default(), |sum, (_, claims)| RetryBudget {
            requests: sum.requests + claims.requests,
            retries: sum.retries + claims.retries,
        });
        FleetSnapshot {
            now,
            stats: pages.stats.clone(),
            leases: pages.leases.clone(),
            tickets: tickets.collect(),
            retries,
        }
    }

    /// What was learnt of a host.
    pub(crate) fn stats(&self, host: &str) -> Arc<HostStats> {
        self.pages().stats.get(host).cloned().unwrap_or_default()
    }

    /// Takes the first of the places that has room.
    pub fn claim(&self, now: Duration, claim: &Claim<'_>) -> Option<Lease> {
        let (mut pages, now) = self.open(now);
        let place = claim.places.iter().find(|place| {
            let mut taken = pages.leases.iter().filter(|lease| lease.host == place.host);
            let in_lane = taken.clone().filter(|lease| &*lease.lane == claim.lane).count() as u64;
            in_lane < place.limit && !(place.trial && taken.any(|lease| lease.trial))
        })?;
        let lease = Lease {
            host: place.host.clone(),
            lane: claim.lane.into(),
            id: claim.id.into(),
            began: now,
            cold: place.cold,
            trial: place.trial,
        };
        pages.leases.push(lease.clone());
        pages.tickets.retain(|(ticket, _)| &*ticket.id != claim.id);
        pages.count(now, claim.is_retry);
        let (caller, session) = claim.flow;
        if pages.served.len() >= pages.served_limit {
            pages.served.retain(|_, at| now.saturating_sub(*at) < SERVED);
            pages.served_limit = (pages.served.len() * 2).max(SERVED_FEW);
        }
        let caller: Arc<str> = caller.into();
        for session in [None, Some(session.into())] {
            pages.served.insert((Arc::clone(&lease.lane), Arc::clone(&caller), session), now);
        }
        if pages.decisions.len() >= DECISIONS {
            pages.decisions.pop_front();
        }
        pages.decisions.push_back(format!("{} at {}: {}", claim.lane, lease.host, claim.reason));
        Some(lease)
    }

    /// Puts a ticket into the queue, in the place of another if that is named, or renews it.
    pub fn enter(&self, now: Duration, ticket: &Ticket, displaced: Option<&str>) {
        let (mut pages, now) = self.open(now);
        if let Some(displaced) = displaced {
            pages.tickets.retain(|(known, _)| &*known.id != displaced);
            pages.ring();
        }
        pages.tickets.retain(|(known, _)| known.id != ticket.id);
        pages.tickets.push((ticket.clone(), now + TICKET));
    }

    /// Takes a ticket out of the queue, and gives a place back that was taken under the same id.
    pub fn leave(&self, id: &str) {
        let mut pages = self.pages();
        pages.tickets.retain(|(ticket, _)| &*ticket.id != id);
        pages.leases.retain(|lease| &*lease.id != id);
        pages.ring();
    }

    /// Changes the stats of a host and gives the place on it back that has this id: a request that went on to another
    /// host has a place there under the same id.
    pub fn update(
        &self,
        now: Duration,
        host: &str,
        released: Option<&str>,
        change: impl FnOnce(&mut HostStats, Duration),
    ) {
        let (mut pages, now) = self.open(now);
        if let Some(released) = released {
            pages.leases.retain(|lease| &*lease.id != released || &*lease.host != host);
        }
        change(Arc::make_mut(pages.stats.entry(host.to_owned()).or_default()), now);
        pages.ring();
    }

    /// Takes over what others know at `now` by the host's clock, to go on with when they cannot be asked.
    pub fn learn(&self, now: Duration, snapshot: &FleetSnapshot) {
        let mut pages = self.pages();
        pages.ahead = snapshot.now.saturating_sub(now);
        pages.stats.clone_from(&snapshot.stats);
    }

    /// The reasons of the latest decisions, oldest first.
    pub fn decisions(&self) -> Vec<String> {
        self.pages().decisions.iter().cloned().collect()
    }

    /// What the hosts said they have.
    pub fn inventories(&self) -> Arc<Inventories> {
        Arc::clone(&self.pages().inventories)
    }

    /// Takes note of what a host said, unless something newer is known, or the host vanished meanwhile. Gives it back with
    /// what was known before of its models' contexts.
    pub fn note_inventory(&self, host: &str, mut inventory: Arc<Inventory>) -> Arc<Inventory> {
        let mut pages = self.pages();
        let known = pages.inventories.get(host);
        if let Some(known) = known.filter(|known| !known.contexts.is_empty()) {
            Arc::make_mut(&mut inventory).inherit(known);
        }
        let is_host = pages.hosts.iter().any(|known| known.url() == host);
        if is_host && known.is_none_or(|known| known.seen <= inventory.seen) {
            Arc::make_mut(&mut pages.inventories).insert(host.to_owned(), Arc::clone(&inventory));
        }
        pages.ring();
        inventory
    }

    /// Takes note of the context of a model by its digest; gives what is known of the host now.
    pub(crate) fn note_context(&self, host: &str, digest: &str, context: Context) -> Option<Arc<Inventory>> {
        let mut pages = self.pages();
        let inventory = Arc::make_mut(&mut pages.inventories).get_mut(host)?;
        Arc::make_mut(inventory).contexts.insert(digest.to_owned(), context);
        Some(Arc::clone(inventory))
    }

    /// Takes note that a host does not have a model after all.
    pub fn forget_model(&self, host: &str, model: &ModelName) {
        let mut pages = self.pages();
        if let Some(inventory) = Arc::make_mut(&mut pages.inventories).get_mut(host) {
            let is_other = |name: &str| ModelName::parse(name).as_ref() != Some(model);
            Arc::make_mut(inventory).models.retain(|known| is_other(&known.name));
        }
    }

    /// Whether the inventories should be looked at, because that was done longer than `fresh` ago; whoever is told so
    /// does it.
    pub(crate) fn is_due(&self, now: Duration, fresh: Duration) -> bool {
        let mut pages = self.pages();
        let is_due = pages.looked.is_none_or(|looked| now.saturating_sub(looked) >= fresh);
        if is_due {
            pages.looked = Some(now);
        }
        is_due
    }

    /// Tells whoever waits that there may be room.
    pub fn ring(&self) {
        self.pages().ring();
    }

    /// Resolves at the next step that may have made room. `is_woken`: whether whoever takes that step may wake the one
    /// that waits; else it finds out when it is polled for another reason.
    pub fn changed(&self, is_woken: bool) -> impl Future<Output = ()> + Send + '_ {
        let seen = self.pages().changes;
        poll_fn(move |context| {
            let mut pages = self.pages();
            if pages.changes != seen {
                return Poll::Ready(());
            }
            let waker = context.waker();
            // Whoever looks again and again before anything changes is woken once.
            if is_woken && !pages.waiting.iter().any(|known| known.will_wake(waker)) {
                pages.waiting.push(waker.clone());
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

    /// Wakes whoever waits.
    fn ring(&mut self) {
        self.changes += 1;
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
