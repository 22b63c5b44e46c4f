//! Where a request goes: it looks at the fleet, plans, and takes a place, or waits for one in the queue.
//!
//! Every decision is made by the pure functions of [`crate::fleet`]; this is what carries their inputs and outcomes to
//! and from the store. A store that fails is done without: then this process's own book holds what is known.

use std::{sync::Arc, time::Duration};

use futures::{
    future::{Either, OptionFuture, select},
    join,
};

use super::{
    Order, probe,
    slot::{Place, hold},
};
use crate::{
    api::{endpoint::Work, error::Error},
    fleet::{
        AttemptFailure, BackendHost, BreakerState, Failover, ModelName, Policy, Ticket, Verdict,
        book::Inventories,
        ledger::{Claim, FleetView, Lease, Ledger, Retries},
        nearest,
        plan::{Choice, Demand, Plan, plan},
        queue::{self, Entry},
    },
    host::Host,
    platform::random_id,
    request::{Account, TimeBudget},
    store::{FleetState, Store, StoreError, StoreResult},
};

/// The shortest and the longest pause between two looks at a queue that others move, too.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// The pause where whoever moves the queue wakes who waits.
const WOKEN: Duration = Duration::from_secs(1);
/// Where a request goes next.
pub(crate) enum Step {
    Go(Box<Place>),
    /// No host is left; what is to be said when that is because none has the model.
    None(Option<Error>),
    Refuse(Error),
}

/// The way of one request through the fleet.
pub(crate) struct Dispatch<'a, H> {
    host: &'a H,
    order: &'a Order,
    id: String,
    seed: u64,
    turn: Option<u64>,
    tried: Vec<String>,
    /// Whether all hosts were asked what they have, because none seemed to have the model.
    is_refreshed: bool,
    /// When it began to wait for a place, by the host's clock.
    waiting: Option<Duration>,
    renewed: Duration,
    /// What was found out about the fleet ahead, for the first look.
    foresight: Option<Foresight>,
    /// A place that was taken ahead.
    reserved: Option<Box<Place>>,
}

/// What is found out about the fleet together with everything else that the store is asked first.
#[derive(Debug)]
pub(crate) struct Foresight {
    ledger: StoreResult<Ledger>,
    turn: Option<StoreResult<u64>>,
    inventories: Arc<Inventories>,
}

/// Looks at the fleet ahead of a request for `model`.
pub(crate) async fn foresee<H: Host>(host: &H, budget: &TimeBudget, model: Option<&ModelName>) -> Foresight {
    let ledger = async { budget.ask(host).ledger().await };
    let turn =
        (host.config().policy == Policy::RoundRobin).then_some(async { budget.ask(host).next_turn().await });
    let (ledger, turn, inventories) =
        join!(ledger, OptionFuture::from(turn), probe::inventories(host, budget, model));
    Foresight { ledger, turn, inventories }
}

impl<'a, H: Host> Dispatch<'a, H> {
    pub(crate) fn new(host: &'a H, order: &'a Order, foresight: Option<Foresight>) -> Self {
        Self {
            host,
            order,
            id: random_id(host),
            seed: host.random(),
            turn: None,
            tried: Vec::new(),
            is_refreshed: false,
            waiting: None,
            renewed: Duration::ZERO,
            foresight,
            reserved: None,
        }
    }

    /// Takes a place ahead, if there is one at once.
    pub(crate) async fn reserve(&mut self, account: &mut Account) {
        let Some(lane) = self.order.destination.lane() else { return };
        if self.foresight.is_none() || self.reserved.is_some() {
            return;
        }
        let (view, _) = self.view(account).await;
        let plan = self.plan(&view, account).await;
        let Some(first) = plan.choices.first() else { return };
        let to = &self.order.destination;
        let ticket = Ticket::new(&view, &self.id, &lane, first.host.url(), (&*to.caller, &*to.session));
        if queue::has_turn(&view, &plan, &ticket)
            && let Some(lease) = self.claim(&plan, &lane, false, account).await
        {
            let choice = plan.choices.iter().find(|choice| choice.host.url() == &*lease.0.host);
            self.reserved = Some(self.place(&view, &plan, choice.unwrap_or(first), Some(lease), account));
        }
    }

    /// Gives a place back that was taken ahead and is not needed.
    pub(crate) fn release(&mut self) {
        if let Some(place) = self.reserved.take() {
            self.tried.clear();
            let host = self.host.clone();
            // Whoever answers needs not wait for that.
            self.host.spawn(async move { place.settle(&host, Verdict::Neutral).await });
        }
    }

    /// The next place, as soon as there is one.
    pub(crate) async fn next(&mut self, failover: &Failover, account: &mut Account) -> Step {
        if let Some(place) = self.reserved.take() {
            return Step::Go(place);
        }
        let mut pause = POLL.0;
        let order = self.order;
        let to = &order.destination;
        loop {
            // What it looks at while it waits for its turn is no part of what the store may add.
            if self.waiting.is_some() {
                account.renew_budget();
            }
            let changed = self.host.fleet().changed();
            let (mut view, retries) = self.view(account).await;
            view.hosts.retain(|known| !self.is_tried(&known.host));
            // What it waits for itself is no work ahead of it.
            let own = view.tickets.iter().position(|ticket| *ticket.id == *self.id);
            let own = own.map(|place| view.tickets.swap_remove(place));
            if failover.is_retry() && !retries.allow() {
                return Step::None(None);
            }
            let plan = self.plan(&view, account).await;
            let Some(first) = plan.choices.first() else {
                match self.missing(failover).await {
                    Some(step) => {
                        // The host that it waited for may have vanished.
                        self.leave().await;
                        return step;
                    }
                    None => continue,
                }
            };
            let Some(lane) = to.lane() else {
                return Step::Go(self.place(&view, &plan, first, None, account));
            };
            let is_waiting = own.is_some();
            let flow = (&*to.caller, &*to.session);
            let ticket = own.unwrap_or_else(|| Ticket::new(&view, &self.id, &lane, first.host.url(), flow));
            let has_turn = queue::has_turn(&view, &plan, &ticket);
            if is_waiting {
                account.renew_budget();
            }
            if has_turn && let Some(lease) = self.claim(&plan, &lane, failover.is_retry(), account).await {
                self.waiting = None;
                let choice = plan.choices.iter().find(|choice| choice.host.url() == &*lease.0.host);
                return Step::Go(self.place(&view, &plan, choice.unwrap_or(first), Some(lease), account));
            }
            if let Err(error) = self.wait(&view, first, ticket, is_waiting, account).await {
                return Step::Refuse(error);
            }
            // The longer the queue, the longer until it is this one's turn, and the more there is to look at.
            let crowd = u32::try_from(view.tickets.len()).unwrap_or(u32::MAX);
            let crowded = (POLL.0 / 10).saturating_mul(crowd).min(POLL.1 * 2);
            let longest = if self.is_shared(account) { pause.max(crowded) } else { WOKEN };
            if let Either::Right(_) = select(Box::pin(changed), Box::pin(self.host.sleep(longest))).await {
                pause = (pause * 2).min(POLL.1);
            }
        }
    }

    /// Whether others can change the queue without this process knowing.
    fn is_shared(&self, account: &Account) -> bool {
        self.host.config().redis.is_some() && !account.store_failed()
    }

    /// The whole fleet as it is now, and how many requests were tried again.
    async fn view(&mut self, account: &mut Account) -> (FleetView, Retries) {
        match self.foresight.take() {
            Some(Foresight { ledger, turn, inventories }) => {
                let ledger = known(self.host, account, ledger);
                self.turn =
                    turn.and_then(|turn| account.tolerate(self.host, "next_turn", turn)).or(self.turn);
                let retries = ledger.retries;
                (FleetView::new(&self.host.fleet().hosts(), &inventories, ledger), retries)
            }
            None => self.look(account).await,
        }
    }

    async fn look(&self, account: &mut Account) -> (FleetView, Retries) {
        let host = self.host;
        let ledger = ledger(host, account).await;
        let retries = ledger.retries;
        let inventories =
            probe::inventories(host, &account.budget, self.order.destination.model.as_ref()).await;
        (FleetView::new(&host.fleet().hosts(), &inventories, ledger), retries)
    }

    async fn plan(&mut self, view: &FleetView, account: &mut Account) -> Plan {
        let host = self.host;
        let policy = host.config().policy;
        if policy == Policy::RoundRobin && self.turn.is_none() {
            let is_asked = !account.store_failed();
            let turn = if is_asked { Some(account.budget.ask(host).next_turn().await) } else { None };
            // Without the shared counter chance spreads as well.
            self.turn = turn.and_then(|turn| account.tolerate(host, "next_turn", turn)).or(Some(self.seed));
        }
        plan(view, policy, &self.demand())
    }

    fn demand(&self) -> Demand<'_> {
        let to = &self.order.destination;
        Demand {
            model: to.model.as_ref(),
            work: to.work.unwrap_or(Work::Answer),
            options: &to.options,
            affinity: to.affinity,
            prompt: self.order.body.len() as u64,
            turn: self.turn.unwrap_or_default(),
            seed: self.seed,
        }
    }

    fn is_tried(&self, backend: &BackendHost) -> bool {
        self.tried.iter().any(|tried| tried == backend.url())
    }

    /// What follows when no host is left that has the model; `None` to look again.
    async fn missing(&mut self, failover: &Failover) -> Option<Step> {
        let host = self.host;
        let Some(model) = &self.order.destination.model else { return Some(Step::None(None)) };
        // Without any host nothing is known of the model.
        if self.is_refreshed || host.fleet().hosts().is_empty() {
            return Some(Step::None(None));
        }
        // A model that was pulled a second ago must be found.
        let failures =
            probe::refresh(host, |backend, found| !self.is_tried(backend) && found.has(model)).await;
        self.is_refreshed = true;
        let inventories = host.fleet().inventories();
        if host.fleet().hosts().iter().any(|backend| {
            !self.is_tried(backend)
                && backend.weight() > 0
                && inventories.get(backend.url()).is_some_and(|inventory| inventory.has(model))
        }) {
            return None;
        }
        let asked = self.order.model.clone().unwrap_or_default();
        let unknown = failures.len();
        Some(match failures.into_iter().next() {
            // Nobody answers: that is what is wrong, and not the model.
            Some(failure) if unknown == host.fleet().hosts().len() && failover.is_untried() => {
                Step::Refuse(AttemptFailure::from(failure).into_error())
            }
            Some(_) => Step::None(Some(Error::ModelUnavailable { model: asked, unknown })),
            None if inventories.values().any(|known| known.has(model)) && failover.is_untried() => {
                Step::None(Some(Error::ModelUnavailable { model: asked, unknown }))
            }
            None => {
                let hosts = host.fleet().hosts();
                // What drained hosts have is nothing to be asked for.
                let in_use = hosts.iter().filter(|backend| backend.weight() > 0);
                let known = in_use.filter_map(|backend| inventories.get(backend.url()));
                let names = known.flat_map(|inventory| &inventory.models).map(|model| &*model.name);
                let nearest = nearest(&asked, names);
                Step::None(Some(Error::ModelNotFound { model: asked, nearest }))
            }
        })
    }

    async fn claim(
        &mut self,
        plan: &Plan,
        lane: &str,
        is_retry: bool,
        account: &mut Account,
    ) -> Option<(Lease, bool)> {
        let (host, order, id) = (self.host, self.order, self.id.clone());
        let to = &order.destination;
        let claim = Claim {
            id: &id,
            lane,
            places: plan.places(),
            flow: (&to.caller, &to.session),
            is_retry,
            reason: &plan.to_string(),
        };
        if !account.store_failed() {
            let claimed = account.budget.ask(host).claim(&claim).await;
            let is_given_up = matches!(claimed, Err(StoreError::TimedOut | StoreError::OutOfTime));
            if let Some(claimed) = account.tolerate(host, "fleet_claim", claimed) {
                return claimed.map(|lease| (lease, false));
            }
            if is_given_up {
                self.take_back();
            }
        }
        let claim = Claim { id: &self.id, ..claim };
        host.fleet().claim(host.now(), &claim).map(|lease| (lease, true))
    }

    /// Gives a place back that may be taken although nobody waited for that: it would look taken until its lease ends.
    fn take_back(&mut self) {
        let (host, id) = (self.host.clone(), std::mem::replace(&mut self.id, random_id(self.host)));
        host.fleet().leave(&id);
        self.host.spawn(async move {
            // What cannot be given back ends by itself.
            let _ = host.store().leave(&id).await;
        });
    }

    /// Waits for a place: enters the queue, or keeps the ticket alive.
    async fn wait(
        &mut self,
        view: &FleetView,
        first: &Choice,
        mut ticket: Ticket,
        is_waiting: bool,
        account: &mut Account,
    ) -> Result<(), Error> {
        let (host, config) = (self.host, self.host.config());
        // A place that was given back took the former ticket along.
        let is_renamed = *ticket.id != *self.id;
        ticket.id = self.id.as_str().into();
        let now = host.now();
        let since = *self.waiting.get_or_insert(now);
        if now.saturating_sub(since) >= config.queue_timeout {
            self.leave().await;
            return Err(Error::Overloaded { is_full: false, retry_after: first.wait });
        }
        let mut displaced = None;
        if !is_waiting {
            match queue::entry(&view.tickets, &ticket.caller, config.queue_limit) {
                Entry::Enter => {}
                Entry::Displace(ticket) => displaced = Some(ticket),
                Entry::Full => return Err(Error::Overloaded { is_full: true, retry_after: first.wait }),
            }
        } else if !is_renamed && now.saturating_sub(self.renewed) < WOKEN {
            return Ok(());
        }
        self.renewed = now;
        // What it would take first may have changed while it waited.
        ticket.host = Arc::clone(first.host.shared_url());
        if !account.store_failed() {
            let entered = account.budget.ask(host).enter(&ticket, displaced.as_deref()).await;
            if account.tolerate(host, "fleet_queue", entered).is_some() {
                return Ok(());
            }
        }
        host.fleet().enter(now, &ticket, displaced.as_deref());
        Ok(())
    }

    /// Gives up waiting: the client left, or the wait was too long.
    pub(crate) async fn leave(&self) {
        if self.order.destination.lane().is_some() {
            // A ticket that cannot be taken out ends by itself, and so does a place that was taken meanwhile.
            let _ = self.host.store().leave(&self.id).await;
            self.host.fleet().leave(&self.id);
        }
    }

    fn place(
        &mut self,
        view: &FleetView,
        plan: &Plan,
        choice: &Choice,
        lease: Option<(Lease, bool)>,
        account: &mut Account,
    ) -> Box<Place> {
        if account.explains {
            account.routes.push(plan.to_string());
        }
        let known = view.hosts.get(choice.index);
        self.tried.push(choice.host.url().to_owned());
        let (lease, is_own) =
            lease.map_or_else(|| (None, account.store_failed()), |(lease, is_own)| (Some(lease), is_own));
        let held = lease.as_ref().filter(|_| !is_own).and_then(|lease| hold(self.host, lease));
        Box::new(Place {
            backend: choice.host.clone(),
            began: lease.as_ref().map_or(view.now, |lease| lease.began),
            since: self.host.now(),
            lease,
            is_own,
            facts: known.map(|known| Arc::clone(&known.facts)).unwrap_or_default(),
            in_flight: choice.in_flight + 1,
            cold: choice.cold,
            options: self.order.destination.options.clone(),
            affinity: self.order.destination.affinity,
            prompt: self.order.body.len() as u64,
            streams: self.order.streams,
            first_byte: None,
            _held: held,
        })
    }

    /// Takes note that a host does not have the model after all.
    pub(crate) fn forget(&self, backend: &BackendHost) {
        let (book, Some(model)) = (self.host.fleet(), &self.order.destination.model) else { return };
        book.forget_model(backend.url(), model);
        // Where hosts are asked on demand, all go by what lies in the store.
        if !book.is_watched()
            && let Some(known) = book.inventories().get(backend.url()).cloned()
        {
            let (host, url) = (self.host.clone(), backend.url().to_owned());
            self.host.spawn(async move {
                // What is lost is found out again at the next request.
                let _ = host.store().put_inventory(&url, &known).await;
            });
        }
    }

    /// Resolves once the host of `place` counts as hung and another could be asked instead.
    pub(crate) async fn hung(&self, place: &Place, account: &Account) {
        let host = self.host;
        let lane = self.order.destination.lane().filter(|_| !place.cold);
        let facts = lane.as_deref().and_then(|lane| place.facts.lane(lane));
        let patience =
            facts.and_then(|facts| facts.patience(&place.options, place.streams, host.config().hung_after));
        let Some(patience) = patience else { return std::future::pending().await };
        let mut since = place.began;
        let mut wait = patience;
        loop {
            host.sleep(wait).await;
            // Nothing waits for this.
            let mut own = Account { budget: TimeBudget::unhurried(host), ..account.clone() };
            let (mut view, _) = self.look(&mut own).await;
            let known = view.hosts.iter().find(|known| known.host == place.backend);
            let completed = known.map(|known| known.facts.completed()).unwrap_or_default();
            if completed > since {
                // It works, only slowly: as long again from there.
                wait = (completed + patience).saturating_sub(view.now).max(POLL.1);
                since = completed;
                continue;
            }
            view.hosts.retain(|known| !self.is_tried(&known.host));
            let others = plan(&view, Policy::Auto, &self.demand()).choices;
            if others.iter().any(|choice| choice.breaker != BreakerState::Open) {
                return;
            }
            wait = patience;
        }
    }
}

/// Everything that is shared about the fleet, or what this process knows of it while the store is away.
async fn ledger<H: Host>(host: &H, account: &mut Account) -> Ledger {
    if account.store_failed() {
        return host.fleet().ledger(host.now());
    }
    let ledger = account.budget.ask(host).ledger().await;
    known(host, account, ledger)
}

/// What the store gave, or what this process knows.
fn known<H: Host>(host: &H, account: &mut Account, ledger: StoreResult<Ledger>) -> Ledger {
    // Of a store that is down, one failure tells enough.
    if account.store_failed() {
        return host.fleet().ledger(host.now());
    }
    let Some(ledger) = account.tolerate(host, "fleet_ledger", ledger) else {
        return host.fleet().ledger(host.now());
    };
    if host.config().redis.is_some() {
        host.fleet().learn(host.now(), &ledger);
    }
    ledger
}
