//! The admission of a request to a host: it looks at the fleet, plans, and takes a slot or waits for one in the queue.
//!
//! The pure functions of [`crate::fleet`] decide. The admission carries their inputs and outcomes from and to the store, or
//! from and to this process's local fleet while the store fails.

mod hung;
mod missing;

use std::{future::Future, sync::Arc, time::Duration};

use futures::{future::OptionFuture, join};
use http::HeaderValue;

use super::{
    UpstreamRequest, probe,
    prompt::Prompt,
    slot::{Slot, keep_alive},
};
use crate::{
    api::{
        endpoint::Work,
        error::{Error, Overload},
    },
    fleet::{
        BackendHost, Failover, HostEffect, Inventory, ModelName, Policy, Ticket,
        local::Inventories,
        plan::{Choice, Demand, Plan, plan},
        queue::{self, QueueDecision},
        snapshot::{Claim, FleetSnapshot, FleetView, RetryBudget},
    },
    host::{Platform, Service},
    platform::{Background, Clock, Entropy, Timer, race, random_id},
    request::{HeldBy, HeldLease, RequestInfo, StoreAccess, StoreReply, UpstreamReport},
    store::{FleetState, Store},
    wire::pace::Pace,
};

/// The shortest pause between two looks at a queue that other processes change, too.
const SHORTEST_POLL: Duration = Duration::from_millis(20);
/// The longest such pause.
const LONGEST_POLL: Duration = Duration::from_millis(200);
/// The pause where every change of the queue wakes the requests that wait.
const WOKEN: Duration = Duration::from_secs(1);

/// Where a request goes next.
pub(crate) enum Admitted {
    Go(Box<Slot>),
    /// No host is left. The error says so where no host has the model.
    None(Option<Error>),
    Refuse(Error),
}

/// The way of one request through the fleet.
pub(crate) struct Admission<'a, P: Platform> {
    service: &'a Service<P>,
    upstream_request: &'a UpstreamRequest,
    request: &'a RequestInfo,
    id: String,
    seed: u64,
    turn: Option<u64>,
    /// What prompt caches may know of the request; it is read when hosts are chosen first.
    prompt: Option<Arc<Prompt>>,
    tried: Vec<String>,
    /// Whether all hosts were asked what they have, because none seemed to have the model.
    is_refreshed: bool,
    /// When the request began to wait for a slot, by the platform's clock.
    waiting: Option<Duration>,
    /// When its ticket was last written.
    renewed: Duration,
    /// The fleet as the first wave to the store found it; the first look takes it.
    prefetched: Option<FleetPrefetch>,
    /// A slot that was taken before it was certain that upstream must be asked.
    reserved: Option<Box<Slot>>,
}

/// The fleet as the first wave to the store finds it.
#[derive(Debug)]
pub(crate) struct FleetPrefetch {
    snapshot: StoreReply<FleetSnapshot>,
    turn: Option<StoreReply<u64>>,
    inventories: Arc<Inventories>,
}

/// Looks at the fleet, as part of the first wave of a request for `model`.
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
    /// The chain of marks of what a host is asked.
    pub(super) fn hops(&self) -> HeaderValue {
        self.request.hops(self.service)
    }

    pub(crate) fn new(
        service: &'a Service<P>,
        upstream_request: &'a UpstreamRequest,
        request: &'a RequestInfo,
        prefetched: Option<FleetPrefetch>,
    ) -> Self {
        Self {
            service,
            upstream_request,
            request,
            id: random_id(service),
            seed: service.random(),
            turn: None,
            prompt: None,
            tried: Vec::new(),
            is_refreshed: false,
            waiting: None,
            renewed: Duration::ZERO,
            prefetched,
            reserved: None,
        }
    }

    /// Takes a slot, if one is free now, before it is certain that upstream must be asked.
    pub(crate) async fn reserve(&mut self, report: &mut UpstreamReport) {
        let Some(lane) = self.upstream_request.routing_key.lane() else { return };
        if self.prefetched.is_none() || self.reserved.is_some() {
            return;
        }
        let (view, _) = self.view().await;
        let plan = self.plan(&view).await;
        let Some(first) = plan.choices.first() else { return };
        let to = &self.upstream_request.routing_key;
        let ticket = Ticket::new(&view, &self.id, &lane, first.host.url(), to.flow());
        if queue::is_next(&view, &plan, &ticket)
            && let Some(held) = self.claim(&plan, &lane, false).await
        {
            let choice = plan.choices.iter().find(|choice| choice.host.url() == &*held.lease.host);
            self.reserved = Some(self.slot(&view, &plan, choice.unwrap_or(first), Some(held), report));
        }
    }

    /// Gives the reserved slot back, because upstream need not be asked.
    pub(crate) fn release(&mut self) {
        if let Some(slot) = self.reserved.take() {
            self.tried.clear();
            let service = self.service.clone();
            // The reply does not wait for the store here.
            self.service.spawn(async move { slot.release(&service, HostEffect::Neutral).await });
        }
    }

    /// The next slot, as soon as there is one.
    pub(crate) async fn next(&mut self, failover: &Failover, report: &mut UpstreamReport) -> Admitted {
        if let Some(slot) = self.reserved.take() {
            return Admitted::Go(slot);
        }
        let mut pause = SHORTEST_POLL;
        let upstream_request = self.upstream_request;
        let to = &upstream_request.routing_key;
        loop {
            // Look at the fleet. A request in the queue waits for its slot, so its time for the store begins anew.
            if self.waiting.is_some() {
                self.request.store.renew();
            }
            let changed = self.service.fleet().changed(P::WAKES_OTHER_REQUESTS);
            let (mut view, retries) = self.view().await;
            view.hosts.retain(|known| !self.is_tried(&known.host));
            // Our own ticket must not count as queue ahead of us.
            let own = view.tickets.iter().position(|ticket| *ticket.id == *self.id);
            let own = own.map(|slot| view.tickets.swap_remove(slot));
            if failover.is_retry() && !retries.allow() {
                return Admitted::None(None);
            }

            // Plan.
            let plan = self.plan(&view).await;
            let Some(first) = plan.choices.first() else {
                if let Some(step) = self.missing(failover).await {
                    // The host of our ticket may have vanished, so the ticket is taken out.
                    self.leave().await;
                    return step;
                }
                continue;
            };
            let Some(lane) = to.lane() else {
                return Admitted::Go(self.slot(&view, &plan, first, None, report));
            };

            // Take a slot, if it is our turn.
            let is_waiting = own.is_some();
            let flow = to.flow();
            let ticket = own.unwrap_or_else(|| Ticket::new(&view, &self.id, &lane, first.host.url(), flow));
            let is_next = queue::is_next(&view, &plan, &ticket);
            if is_waiting {
                self.request.store.renew();
            }
            if is_next && let Some(held) = self.claim(&plan, &lane, failover.is_retry()).await {
                self.waiting = None;
                let choice = plan.choices.iter().find(|choice| choice.host.url() == &*held.lease.host);
                return Admitted::Go(self.slot(&view, &plan, choice.unwrap_or(first), Some(held), report));
            }

            // Else wait in the queue.
            if let Err(error) = self.wait(&view, first, ticket, is_waiting).await {
                return Admitted::Refuse(error);
            }
            pause = self.pause(pause, changed, view.tickets.len()).await;
        }
    }

    /// Waits until the queue may have changed, beside `others` tickets; gives the next pause.
    async fn pause(&self, pause: Duration, changed: impl Future<Output = ()>, others: usize) -> Duration {
        // In a longer queue our turn comes later, and a look costs more.
        let crowd = u32::try_from(others).unwrap_or(u32::MAX);
        let crowded = (SHORTEST_POLL / 10).saturating_mul(crowd).min(LONGEST_POLL * 2);
        let longest = if self.is_shared() { pause.max(crowded) } else { WOKEN };
        race! {
            () = changed => pause,
            () = self.service.sleep(longest) => (pause * 2).min(LONGEST_POLL),
        }
    }

    /// Whether other processes can change the queue without waking this request.
    fn is_shared(&self) -> bool {
        self.service.store().is_shared() && !self.request.store.has_failed()
    }

    /// The fleet as it is now, and how many requests were retries.
    async fn view(&mut self) -> (FleetView, RetryBudget) {
        match self.prefetched.take() {
            Some(FleetPrefetch { snapshot, turn, inventories }) => {
                let snapshot = self.request.store.settle_snapshot(self.service, snapshot);
                self.turn = turn.and_then(|turn| self.request.store.settle(self.service, turn)).or(self.turn);
                let retries = snapshot.retries;
                (self.able(FleetView::new(&self.service.fleet().hosts(), &inventories, snapshot)), retries)
            }
            None => self.look(&self.request.store).await,
        }
    }

    async fn look(&self, store: &StoreAccess) -> (FleetView, RetryBudget) {
        let service = self.service;
        let snapshot = store.snapshot(service).await;
        let retries = snapshot.retries;
        let inventories =
            probe::inventories(service, store, self.upstream_request.routing_key.model.as_ref()).await;
        (self.able(FleetView::new(&service.fleet().hosts(), &inventories, snapshot)), retries)
    }

    /// The view without the hosts that do not have the endpoint.
    fn able(&self, mut view: FleetView) -> FleetView {
        if let Some(endpoint) = self.upstream_request.endpoint() {
            let has = |inventory: &Arc<Inventory>| inventory.has_endpoint(endpoint);
            view.hosts.retain(|known| known.inventory.as_ref().is_none_or(has));
        }
        view
    }

    async fn plan(&mut self, view: &FleetView) -> Plan {
        let service = self.service;
        let policy = service.config().fleet.policy;
        if policy == Policy::RoundRobin && self.turn.is_none() {
            // Without the shared sequence the seed spreads requests as well.
            self.turn = self.request.store.sequence(service).await.or(Some(self.seed));
        }
        let prompt = self.prompt().await;
        plan(view, policy, &self.demand(&prompt))
    }

    async fn prompt(&mut self) -> Arc<Prompt> {
        if let Some(prompt) = &self.prompt {
            return Arc::clone(prompt);
        }
        let request = self.upstream_request;
        let read = async |mut pace: Pace| Prompt::of(request, &mut pace).await;
        let prompt = Arc::new(self.service.compute(request.body.len(), read).await);
        self.prompt = Some(Arc::clone(&prompt));
        prompt
    }

    fn demand<'p>(&'p self, prompt: &'p Prompt) -> Demand<'p> {
        let to = &self.upstream_request.routing_key;
        Demand {
            model: to.model.as_ref(),
            work: to.work.unwrap_or(Work::Answer),
            options: &to.options,
            affinity: prompt.affinity,
            prompt: prompt.length,
            prefixes: &prompt.prefixes,
            turn: self.turn.unwrap_or_default(),
            seed: self.seed,
        }
    }

    fn is_tried(&self, backend: &BackendHost) -> bool {
        self.tried.iter().any(|tried| tried == backend.url())
    }

    async fn claim(&mut self, plan: &Plan, lane: &str, is_retry: bool) -> Option<HeldLease> {
        let (id, to) = (self.id.clone(), &self.upstream_request.routing_key);
        let claim = Claim {
            id: &id,
            lane,
            slots: plan.slots(),
            flow: to.flow(),
            is_retry,
            reason: &plan.to_string(),
        };
        self.request.store.claim(self.service, claim, &mut self.id).await
    }

    /// Waits for a slot: enters the queue, or keeps the ticket alive.
    async fn wait(
        &mut self,
        view: &FleetView,
        first: &Choice,
        mut ticket: Ticket,
        is_waiting: bool,
    ) -> Result<(), Error> {
        let (service, config) = (self.service, self.service.config());
        // `leave(id)` deleted our ticket, too; the new id needs a new ticket.
        let is_renamed = *ticket.id != *self.id;
        ticket.id = self.id.as_str().into();
        let now = service.now();
        let since = *self.waiting.get_or_insert(now);
        if now.saturating_sub(since) >= config.fleet.queue_timeout {
            self.leave().await;
            return Err(Error::Overloaded { cause: Overload::QueueSlow, retry_after: first.wait });
        }
        let mut displaced = None;
        if !is_waiting {
            match queue::entry(&view.tickets, &ticket.caller, config.fleet.queue_limit) {
                QueueDecision::Enter => {}
                QueueDecision::Displace(ticket) => displaced = Some(ticket),
                QueueDecision::Full => {
                    return Err(Error::Overloaded { cause: Overload::QueueFull, retry_after: first.wait });
                }
            }
        } else if !is_renamed && now.saturating_sub(self.renewed) < WOKEN {
            return Ok(());
        }
        self.renewed = now;
        // The preferred host may have changed since the ticket was written.
        ticket.host = Arc::clone(first.host.shared_url());
        self.request.store.enter_queue(service, &ticket, displaced.as_deref()).await;
        Ok(())
    }

    /// Gives up waiting: the client left, or the wait was too long.
    pub(crate) async fn leave(&self) {
        if self.upstream_request.routing_key.lane().is_some() {
            // Where this fails, the ticket expires, and so does the lease of a slot that was taken meanwhile.
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
        report: &mut UpstreamReport,
    ) -> Box<Slot> {
        if self.request.explains {
            report.routes.push(plan.to_string());
        }
        let known = view.hosts.get(choice.index);
        self.tried.push(choice.host.url().to_owned());
        let (lease, held_by) = match lease {
            Some(HeldLease { lease, held_by }) => (Some(lease), held_by),
            None if self.request.store.has_failed() => (None, HeldBy::Local),
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
            options: self.upstream_request.routing_key.options.clone(),
            prompt: self.prompt.clone().unwrap_or_default(),
            slots: choice.limit,
            streams: self.upstream_request.streams,
            first_byte: None,
            _renewal: renewal,
        })
    }
}
