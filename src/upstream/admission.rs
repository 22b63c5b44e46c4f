//! Where a request goes: it looks at the fleet, plans, and takes a slot, or waits for one in the queue.
//!
//! Every decision is made by the pure functions of [`crate::fleet`]; this is what carries their inputs and outcomes to
//! and from the store. A store that fails is done without: then this process's local fleet holds what is known.

use std::{sync::Arc, time::Duration};

use futures::{
    future::{Either, OptionFuture, select},
    join,
};

use super::{
    UpstreamRequest, probe,
    slot::{Slot, keep_alive},
};
use crate::{
    api::{endpoint::Work, error::Error},
    fleet::{
        AttemptFailure, BackendHost, BreakerState, Failover, HostEffect, ModelName, Policy, Ticket,
        local::Inventories,
        nearest,
        plan::{Choice, Demand, Plan, plan},
        queue::{self, QueueDecision},
        snapshot::{Claim, FleetSnapshot, FleetView, RetryBudget},
    },
    host::{Platform, Service},
    platform::{Background, Clock, Entropy, Timer, random_id},
    request::{Account, HeldBy, HeldLease, StoreAccess, StoreReply},
    store::{FleetState, InventoryStore, Store},
};

/// The shortest and the longest pause between two looks at a queue that others move, too.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// The pause where whoever moves the queue wakes who waits.
const WOKEN: Duration = Duration::from_secs(1);
/// Where a request goes next.
pub(crate) enum Admitted {
    Go(Box<Slot>),
    /// No host is left; what is to be said when that is because none has the model.
    None(Option<Error>),
    Refuse(Error),
}

/// The way of one request through the fleet.
pub(crate) struct Admission<'a, P: Platform> {
    service: &'a Service<P>,
    order: &'a UpstreamRequest,
    id: String,
    seed: u64,
    turn: Option<u64>,
    tried: Vec<String>,
    /// Whether all hosts were asked what they have, because none seemed to have the model.
    is_refreshed: bool,
    /// When it began to wait for a slot, by the host's clock.
    waiting: Option<Duration>,
    renewed: Duration,
    /// What was found out about the fleet ahead, for the first look.
    prefetched: Option<FleetPrefetch>,
    /// A slot that was taken ahead.
    reserved: Option<Box<Slot>>,
}

/// What is found out about the fleet together with everything else that the store is asked first.
#[derive(Debug)]
pub(crate) struct FleetPrefetch {
    snapshot: StoreReply<FleetSnapshot>,
    turn: Option<StoreReply<u64>>,
    inventories: Arc<Inventories>,
}

/// Looks at the fleet ahead of a request for `model`.
pub(crate) async fn prefetch_fleet<P: Platform>(
    service: &Service<P>,
    store: &StoreAccess,
    model: Option<&ModelName>,
) -> FleetPrefetch {
    let turn = (service.config().fleet.policy == Policy::RoundRobin).then_some(store.ask_sequence(service));
    let (snapshot, turn, inventories) = join!(
        store.ask_snapshot(service),
        OptionFuture::from(turn),
        probe::inventories(service, store, model)
    );
    FleetPrefetch { snapshot, turn, inventories }
}

impl<'a, P: Platform> Admission<'a, P> {
    pub(crate) fn new(
        service: &'a Service<P>,
        order: &'a UpstreamRequest,
        prefetched: Option<FleetPrefetch>,
    ) -> Self {
        Self {
            service,
            order,
            id: random_id(service),
            seed: service.random(),
            turn: None,
            tried: Vec::new(),
            is_refreshed: false,
            waiting: None,
            renewed: Duration::ZERO,
            prefetched,
            reserved: None,
        }
    }

    /// Takes a slot ahead, if there is one at once.
    pub(crate) async fn reserve(&mut self, account: &mut Account) {
        let Some(lane) = self.order.routing_key.lane() else { return };
        if self.prefetched.is_none() || self.reserved.is_some() {
            return;
        }
        let (view, _) = self.view(account).await;
        let plan = self.plan(&view, account).await;
        let Some(first) = plan.choices.first() else { return };
        let to = &self.order.routing_key;
        let ticket = Ticket::new(&view, &self.id, &lane, first.host.url(), (&*to.caller, &*to.session));
        if queue::is_next(&view, &plan, &ticket)
            && let Some(held) = self.claim(&plan, &lane, false, account).await
        {
            let choice = plan.choices.iter().find(|choice| choice.host.url() == &*held.lease.host);
            self.reserved = Some(self.slot(&view, &plan, choice.unwrap_or(first), Some(held), account));
        }
    }

    /// Gives a slot back that was taken ahead and is not needed.
    pub(crate) fn release(&mut self) {
        if let Some(slot) = self.reserved.take() {
            self.tried.clear();
            let service = self.service.clone();
            // Whoever answers needs not wait for that.
            self.service.spawn(async move { slot.release(&service, HostEffect::Neutral).await });
        }
    }

    /// The next slot, as soon as there is one.
    pub(crate) async fn next(&mut self, failover: &Failover, account: &mut Account) -> Admitted {
        if let Some(slot) = self.reserved.take() {
            return Admitted::Go(slot);
        }
        let mut pause = POLL.0;
        let order = self.order;
        let to = &order.routing_key;
        loop {
            // What it looks at while it waits for its turn is no part of what the store may add.
            if self.waiting.is_some() {
                account.store.renew();
            }
            let changed = self.service.fleet().changed(P::WAKES_OTHER_REQUESTS);
            let (mut view, retries) = self.view(account).await;
            view.hosts.retain(|known| !self.is_tried(&known.host));
            // What it waits for itself is no work ahead of it.
            let own = view.tickets.iter().position(|ticket| *ticket.id == *self.id);
            let own = own.map(|slot| view.tickets.swap_remove(slot));
            if failover.is_retry() && !retries.allow() {
                return Admitted::None(None);
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
                return Admitted::Go(self.slot(&view, &plan, first, None, account));
            };
            let is_waiting = own.is_some();
            let flow = (&*to.caller, &*to.session);
            let ticket = own.unwrap_or_else(|| Ticket::new(&view, &self.id, &lane, first.host.url(), flow));
            let is_next = queue::is_next(&view, &plan, &ticket);
            if is_waiting {
                account.store.renew();
            }
            if is_next && let Some(held) = self.claim(&plan, &lane, failover.is_retry(), account).await {
                self.waiting = None;
                let choice = plan.choices.iter().find(|choice| choice.host.url() == &*held.lease.host);
                return Admitted::Go(self.slot(&view, &plan, choice.unwrap_or(first), Some(held), account));
            }
            if let Err(error) = self.wait(&view, first, ticket, is_waiting, account).await {
                return Admitted::Refuse(error);
            }
            // The longer the queue, the longer until it is this one's turn, and the more there is to look at.
            let crowd = u32::try_from(view.tickets.len()).unwrap_or(u32::MAX);
            let crowded = (POLL.0 / 10).saturating_mul(crowd).min(POLL.1 * 2);
            let longest = if self.is_shared(account) { pause.max(crowded) } else { WOKEN };
            if let Either::Right(_) = select(Box::pin(changed), Box::pin(self.service.sleep(longest))).await {
                pause = (pause * 2).min(POLL.1);
            }
        }
    }

    /// Whether others can change the queue without this process knowing.
    fn is_shared(&self, account: &Account) -> bool {
        self.service.store().is_shared() && !account.store.has_failed()
    }

    /// The whole fleet as it is now, and how many requests were tried again.
    async fn view(&mut self, account: &mut Account) -> (FleetView, RetryBudget) {
        match self.prefetched.take() {
            Some(FleetPrefetch { snapshot, turn, inventories }) => {
                let snapshot = account.store.settle_snapshot(self.service, snapshot);
                self.turn = turn.and_then(|turn| account.store.settle(self.service, turn)).or(self.turn);
                let retries = snapshot.retries;
                (FleetView::new(&self.service.fleet().hosts(), &inventories, snapshot), retries)
            }
            None => self.look(&account.store).await,
        }
    }

    async fn look(&self, store: &StoreAccess) -> (FleetView, RetryBudget) {
        let service = self.service;
        let snapshot = store.snapshot(service).await;
        let retries = snapshot.retries;
        let inventories = probe::inventories(service, store, self.order.routing_key.model.as_ref()).await;
        (FleetView::new(&service.fleet().hosts(), &inventories, snapshot), retries)
    }

    async fn plan(&mut self, view: &FleetView, account: &mut Account) -> Plan {
        let service = self.service;
        let policy = service.config().fleet.policy;
        if policy == Policy::RoundRobin && self.turn.is_none() {
            // Without the shared counter chance spreads as well.
            self.turn = account.store.sequence(service).await.or(Some(self.seed));
        }
        plan(view, policy, &self.demand())
    }

    fn demand(&self) -> Demand<'_> {
        let to = &self.order.routing_key;
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
    async fn missing(&mut self, failover: &Failover) -> Option<Admitted> {
        let service = self.service;
        let Some(model) = &self.order.routing_key.model else { return Some(Admitted::None(None)) };
        // Without any host nothing is known of the model.
        if self.is_refreshed || service.fleet().hosts().is_empty() {
            return Some(Admitted::None(None));
        }
        // A model that was pulled a second ago must be found.
        let failures =
            probe::refresh(service, |backend, found| !self.is_tried(backend) && found.has(model)).await;
        self.is_refreshed = true;
        let inventories = service.fleet().inventories();
        if service.fleet().hosts().iter().any(|backend| {
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
            Some(failure) if unknown == service.fleet().hosts().len() && failover.is_untried() => {
                Admitted::Refuse(AttemptFailure::from(failure).into_error())
            }
            Some(_) => Admitted::None(Some(Error::ModelUnavailable { model: asked, unknown })),
            None if inventories.values().any(|known| known.has(model)) && failover.is_untried() => {
                Admitted::None(Some(Error::ModelUnavailable { model: asked, unknown }))
            }
            None => {
                let hosts = service.fleet().hosts();
                // What drained hosts have is nothing to be asked for.
                let in_use = hosts.iter().filter(|backend| backend.weight() > 0);
                let known = in_use.filter_map(|backend| inventories.get(backend.url()));
                let names = known.flat_map(|inventory| &inventory.models).map(|model| &*model.name);
                let nearest = nearest(&asked, names);
                Admitted::None(Some(Error::ModelNotFound { model: asked, nearest }))
            }
        })
    }

    async fn claim(
        &mut self,
        plan: &Plan,
        lane: &str,
        is_retry: bool,
        account: &Account,
    ) -> Option<HeldLease> {
        let (id, to) = (self.id.clone(), &self.order.routing_key);
        let claim = Claim {
            id: &id,
            lane,
            places: plan.places(),
            flow: (&to.caller, &to.session),
            is_retry,
            reason: &plan.to_string(),
        };
        account.store.claim(self.service, claim, &mut self.id).await
    }

    /// Waits for a slot: enters the queue, or keeps the ticket alive.
    async fn wait(
        &mut self,
        view: &FleetView,
        first: &Choice,
        mut ticket: Ticket,
        is_waiting: bool,
        account: &mut Account,
    ) -> Result<(), Error> {
        let (service, config) = (self.service, self.service.config());
        // A slot that was given back took the former ticket along.
        let is_renamed = *ticket.id != *self.id;
        ticket.id = self.id.as_str().into();
        let now = service.now();
        let since = *self.waiting.get_or_insert(now);
        if now.saturating_sub(since) >= config.fleet.queue_timeout {
            self.leave().await;
            return Err(Error::Overloaded { is_full: false, retry_after: first.wait });
        }
        let mut displaced = None;
        if !is_waiting {
            match queue::entry(&view.tickets, &ticket.caller, config.fleet.queue_limit) {
                QueueDecision::Enter => {}
                QueueDecision::Displace(ticket) => displaced = Some(ticket),
                QueueDecision::Full => {
                    return Err(Error::Overloaded { is_full: true, retry_after: first.wait });
                }
            }
        } else if !is_renamed && now.saturating_sub(self.renewed) < WOKEN {
            return Ok(());
        }
        self.renewed = now;
        // What it would take first may have changed while it waited.
        ticket.host = Arc::clone(first.host.shared_url());
        account.store.enter_queue(service, &ticket, displaced.as_deref()).await;
        Ok(())
    }

    /// Gives up waiting: the client left, or the wait was too long.
    pub(crate) async fn leave(&self) {
        if self.order.routing_key.lane().is_some() {
            // A ticket that cannot be taken out ends by itself, and so does a slot that was taken meanwhile.
            let _ = self.service.store().fleet().leave(&self.id).await;
            self.service.fleet().leave(&self.id);
        }
    }

    fn slot(
        &mut self,
        view: &FleetView,
        plan: &Plan,
        choice: &Choice,
        lease: Option<HeldLease>,
        account: &mut Account,
    ) -> Box<Slot> {
        if account.explains {
            account.routes.push(plan.to_string());
        }
        let known = view.hosts.get(choice.index);
        self.tried.push(choice.host.url().to_owned());
        let (lease, held_by) = match lease {
            Some(HeldLease { lease, held_by }) => (Some(lease), held_by),
            None if account.store.has_failed() => (None, HeldBy::Local),
            None => (None, HeldBy::Shared),
        };
        let renewed = lease.as_ref().filter(|_| held_by == HeldBy::Shared);
        let renewal = renewed.and_then(|lease| keep_alive(self.service, lease));
        Box::new(Slot {
            backend: choice.host.clone(),
            began: lease.as_ref().map_or(view.now, |lease| lease.began),
            since: self.service.now(),
            lease,
            held_by,
            stats: known.map(|known| Arc::clone(&known.stats)).unwrap_or_default(),
            in_flight: choice.in_flight + 1,
            cold: choice.cold,
            options: self.order.routing_key.options.clone(),
            affinity: self.order.routing_key.affinity,
            prompt: self.order.body.len() as u64,
            streams: self.order.streams,
            first_byte: None,
            _renewal: renewal,
        })
    }

    /// Takes note that a host does not have the model after all.
    pub(crate) fn forget(&self, backend: &BackendHost) {
        let (local, Some(model)) = (self.service.fleet(), &self.order.routing_key.model) else { return };
        local.forget_model(backend.url(), model);
        // Where hosts are asked on demand, all go by what lies in the store.
        if !local.knows_every_host()
            && let Some(known) = local.inventories().get(backend.url()).cloned()
        {
            let (service, url) = (self.service.clone(), backend.url().to_owned());
            self.service.spawn(async move {
                // What is lost is found out again at the next request.
                let _ = service.store().inventories().put_inventory(&url, &known).await;
            });
        }
    }

    /// Resolves once the host of `slot` counts as hung and another could be asked instead.
    pub(crate) async fn hung(&self, slot: &Slot, account: &Account) {
        let service = self.service;
        let lane = self.order.routing_key.lane().filter(|_| !slot.cold);
        let stats = lane.as_deref().and_then(|lane| slot.stats.lane(lane));
        let patience = stats
            .and_then(|stats| stats.patience(&slot.options, slot.streams, service.config().fleet.hung_after));
        let Some(patience) = patience else { return std::future::pending().await };
        let mut since = slot.began;
        let mut wait = patience;
        loop {
            service.sleep(wait).await;
            // Nothing waits for this.
            let (mut view, _) = self.look(&account.store.beside(service)).await;
            let known = view.hosts.iter().find(|known| known.host == slot.backend);
            let completed = known.map(|known| known.stats.completed()).unwrap_or_default();
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
