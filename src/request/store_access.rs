//! The store as one request uses it: each operation keeps to the request's time limit, counts its failure, and says
//! what replaces a store that is down.
//!
//! Operations before the upstream call use up the request's [`StoreDeadline`]. An operation of a wave returns a
//! [`StoreReply`], which is settled when the whole wave is back. Nothing here decides about hosts or answers.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use super::{
    StoreDeadline,
    store_failure::{StoreFailures, StoreOperation, StoreTrouble, log_outage},
};
use crate::{
    cache::{AllEpochs, CacheKey, Entry, Epochs, Stored},
    fleet::{
        Inventory, Ticket,
        snapshot::{Claim, FleetSnapshot, Lease},
    },
    host::{Platform, Service},
    platform::{Background, Clock, Journal, Locked, journal::Event, random_id},
    session::{KEPT_TURNS, Session, SessionHead, SessionKey, Span, Turn},
    store::{
        FleetState, FlightBoard, FlightKey, Found, InventoryStore, ResponseCache, Sessions, Store,
        StoreError, StoreResult,
    },
};

/// One request's access to the store. Clones share its remaining time and its failures.
#[derive(Debug, Clone)]
pub(crate) struct StoreAccess {
    deadline: StoreDeadline,
    failures: Arc<Locked<StoreFailures>>,
}

/// The result of an operation. A failure is neither counted nor logged until the reply is settled.
#[must_use]
#[derive(Debug)]
pub(crate) struct StoreReply<T> {
    operation: StoreOperation,
    result: StoreResult<T>,
}

impl<T> StoreReply<T> {
    /// Whether the operation timed out, so that the store may still carry it out.
    pub(crate) fn may_take_effect(&self) -> bool {
        matches!(self.result, Err(StoreError::TimedOut | StoreError::OutOfTime))
    }

    /// The value, or `None` for a failure, which is neither counted nor logged.
    pub(crate) fn unnoticed(self) -> Option<T> {
        self.result.ok()
    }
}

/// The state that holds the lease of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldBy {
    /// The shared store.
    Shared,
    /// The local fleet of this process, because the store is down.
    Local,
}

/// A lease, and the state that holds it.
#[derive(Debug)]
pub(crate) struct HeldLease {
    pub(crate) lease: Lease,
    pub(crate) held_by: HeldBy,
}

/// Asks the store within the request's remaining time, and takes the time until the answer from it.
macro_rules! ask_in_time {
    ($access:ident, $service:ident, $store:ident => $answer:expr) => {{
        let waiting = $access.deadline.begin($service);
        let $store = $service.store().within(waiting.limit());
        let result = $answer.await;
        drop(waiting);
        result
    }};
}

/// Time and failures.
impl StoreAccess {
    /// The access of a new request.
    pub(crate) fn new<P: Platform>(service: &Service<P>) -> Self {
        Self { deadline: StoreDeadline::new(service), failures: Arc::default() }
    }

    /// An access for work that no request waits for.
    pub(crate) fn unhurried<P: Platform>(service: &Service<P>) -> Self {
        Self { deadline: StoreDeadline::unhurried(service), failures: Arc::default() }
    }

    /// An access for background work of this request. Its failures are not counted, and a store that has failed in this
    /// request is not asked.
    pub(crate) fn beside<P: Platform>(&self, service: &Service<P>) -> Self {
        let failures = StoreFailures::of_trouble(self.failures().trouble());
        Self { deadline: StoreDeadline::unhurried(service), failures: Arc::new(Locked::new(failures)) }
    }

    /// Whether the store failed in this request, or the request used up its time for the store. Then the request does
    /// not ask again, so that an outage costs a client one time limit only.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures().trouble() != StoreTrouble::None
    }

    /// Whether the store itself failed in this request.
    pub(crate) fn is_at_fault(&self) -> bool {
        self.failures().trouble() == StoreTrouble::AtFault
    }

    /// Gives the request its whole time again. It is called after a wait for something other than the store.
    pub(crate) fn renew(&self) {
        self.deadline.renew();
        self.failures().renew();
    }

    /// Takes the names of the failures that are not yet counted; the caller counts them.
    pub(super) fn take_uncounted(&self) -> Vec<&'static str> {
        self.failures().take_uncounted()
    }

    /// The value of a reply. A failure is remembered to be counted, logged once an outage, and becomes `None`.
    pub(crate) fn settle<P: Platform, T>(&self, service: &Service<P>, reply: StoreReply<T>) -> Option<T> {
        let StoreReply { operation, result } = reply;
        log_outage(service, operation, &result);
        result.inspect_err(|error| self.failures().record(operation, error)).ok()
    }

    /// As [`StoreAccess::settle`], for an operation of a wave: only the first failure of the wave is counted.
    pub(crate) fn settle_of_wave<P: Platform, T>(
        &self,
        service: &Service<P>,
        reply: StoreReply<T>,
    ) -> Option<T> {
        if self.has_failed() { reply.unnoticed() } else { self.settle(service, reply) }
    }

    fn failures(&self) -> MutexGuard<'_, StoreFailures> {
        self.failures.lock()
    }
}

/// Answers.
impl StoreAccess {
    /// The epochs of a model's answers.
    pub(crate) async fn ask_epochs<P: Platform>(
        &self,
        service: &Service<P>,
        model: &str,
    ) -> StoreReply<Epochs> {
        let result = ask_in_time!(self, service, store => store.answers().epochs(model));
        StoreReply { operation: StoreOperation::ReadEpochs, result }
    }

    /// The epochs of all models' answers.
    pub(crate) async fn ask_all_epochs<P: Platform>(
        &self,
        service: &Service<P>,
    ) -> StoreReply<Option<AllEpochs>> {
        let result = ask_in_time!(self, service, store => store.answers().all_epochs());
        StoreReply { operation: StoreOperation::ReadEpochs, result }
    }

    /// A stored answer.
    pub(crate) async fn ask_answer<P: Platform>(
        &self,
        service: &Service<P>,
        flight: &FlightKey,
    ) -> StoreReply<Option<Stored>> {
        let result = ask_in_time!(self, service, store => store.answers().answer(flight));
        StoreReply { operation: StoreOperation::FindAnswer, result }
    }

    /// A stored answer; `None` if the store fails.
    pub(crate) async fn answer<P: Platform>(
        &self,
        service: &Service<P>,
        flight: &FlightKey,
    ) -> Option<Stored> {
        if self.has_failed() {
            return None;
        }
        let reply = self.ask_answer(service, flight).await;
        self.settle(service, reply).flatten()
    }

    /// A stored answer, or the lead of its flight, or the leader to follow.
    pub(crate) async fn ask_answer_or_lead<P: Platform>(
        &self,
        service: &Service<P>,
        flight: &FlightKey,
        leader: &str,
        max_age: Option<Duration>,
    ) -> StoreReply<Found> {
        let result =
            ask_in_time!(self, service, store => store.flights().answer_or_lead(flight, leader, max_age));
        StoreReply { operation: StoreOperation::LeadFlight, result }
    }

    /// Stores an answer.
    pub(crate) async fn put_answer<P: Platform>(
        service: &Service<P>,
        key: &CacheKey,
        entry: &Entry,
        ttl: Duration,
    ) -> StoreReply<()> {
        let result = service.store().answers().put_answer(key, entry, ttl).await;
        log_advice(service);
        StoreReply { operation: StoreOperation::PutAnswer, result }
    }

    /// Purges the whole cache, or the answers of one model; `None` if the store fails.
    pub(crate) async fn purge<P: Platform>(&self, service: &Service<P>, model: Option<&str>) -> Option<()> {
        let result = service.store().answers().purge(model).await;
        self.settle(service, StoreReply { operation: StoreOperation::PurgeAnswers, result })
    }
}

/// Sessions.
impl StoreAccess {
    /// A session with the turns of `span`, before an upstream call.
    pub(crate) async fn ask_session<P: Platform>(
        &self,
        service: &Service<P>,
        key: &SessionKey,
        span: Span<'_>,
    ) -> StoreReply<Option<Session>> {
        let ttl = service.config().sessions.ttl;
        let result = ask_in_time!(self, service, store => store.sessions().session(key, span, ttl));
        StoreReply { operation: StoreOperation::LoadSession, result }
    }

    /// A session with the turns of `span`, for a request about sessions; `None` if the store fails.
    pub(crate) async fn load_session<P: Platform>(
        &self,
        service: &Service<P>,
        key: &SessionKey,
        span: Span<'_>,
    ) -> Option<Option<Session>> {
        let result = service.store().sessions().session(key, span, service.config().sessions.ttl).await;
        // Reading has put off its end, up to which it is counted.
        if matches!(result, Ok(Some(_))) {
            share(service, key);
        }
        self.settle(service, StoreReply { operation: StoreOperation::LoadSession, result })
    }

    /// Creates a session; `None` if the store fails.
    pub(crate) async fn create_session<P: Platform>(
        &self,
        service: &Service<P>,
        key: &SessionKey,
        head: &SessionHead,
    ) -> Option<()> {
        let result =
            service.store().sessions().create_session(key, head, service.config().sessions.ttl).await;
        if result.is_ok() {
            share(service, key);
        }
        self.settle(service, StoreReply { operation: StoreOperation::CreateSession, result })
    }

    /// Deletes a session and returns whether it existed; `None` if the store fails.
    pub(crate) async fn delete_session<P: Platform>(
        &self,
        service: &Service<P>,
        key: &SessionKey,
    ) -> Option<bool> {
        let result = service.store().sessions().delete_session(key).await;
        self.settle(service, StoreReply { operation: StoreOperation::DeleteSession, result })
    }

    /// Appends a turn to a session of a generation; the value says whether that session exists.
    pub(crate) async fn append_turn<P: Platform>(
        service: &Service<P>,
        key: &SessionKey,
        generation: Option<u64>,
        turn: &Turn,
    ) -> StoreReply<bool> {
        let ttl = service.config().sessions.ttl;
        let result = service.store().sessions().append_turn_to(key, generation, turn, ttl, KEPT_TURNS).await;
        if result == Ok(true) {
            share(service, key);
        }
        StoreReply { operation: StoreOperation::AppendTurn, result }
    }
}

/// The fleet.
impl StoreAccess {
    /// The state of the fleet.
    pub(crate) async fn ask_snapshot<P: Platform>(&self, service: &Service<P>) -> StoreReply<FleetSnapshot> {
        let result = ask_in_time!(self, service, store => store.fleet().snapshot());
        StoreReply { operation: StoreOperation::TakeSnapshot, result }
    }

    /// The state of the fleet, from the local fleet of this process if the store is down.
    pub(crate) async fn snapshot<P: Platform>(&self, service: &Service<P>) -> FleetSnapshot {
        if self.has_failed() {
            return service.fleet().snapshot(service.now());
        }
        let reply = self.ask_snapshot(service).await;
        self.settle_snapshot(service, reply)
    }

    /// The state of the fleet in a reply, or the local fleet's if the operation failed.
    pub(crate) fn settle_snapshot<P: Platform>(
        &self,
        service: &Service<P>,
        reply: StoreReply<FleetSnapshot>,
    ) -> FleetSnapshot {
        // Only the first failure of a wave is counted.
        let snapshot = if self.has_failed() { None } else { self.settle(service, reply) };
        let Some(snapshot) = snapshot else { return service.fleet().snapshot(service.now()) };
        if service.store().is_shared() {
            service.fleet().learn(service.now(), &snapshot);
        }
        snapshot
    }

    /// The request's number among all routed requests.
    pub(crate) async fn ask_sequence<P: Platform>(&self, service: &Service<P>) -> StoreReply<u64> {
        let result = ask_in_time!(self, service, store => store.fleet().next_sequence());
        StoreReply { operation: StoreOperation::NextSequence, result }
    }

    /// The request's number among all routed requests; `None` if the store fails.
    pub(crate) async fn sequence<P: Platform>(&self, service: &Service<P>) -> Option<u64> {
        if self.has_failed() {
            return None;
        }
        let reply = self.ask_sequence(service).await;
        self.settle(service, reply)
    }

    /// Claims the first requested slot that is free: in the store or, if the store is down, in the local fleet. `id` is
    /// the claim's id. After a timeout the store may have granted a slot under it: that slot is given back in the
    /// background, because it would look taken until its lease ends, and `id` becomes a new id.
    pub(crate) async fn claim<P: Platform>(
        &self,
        service: &Service<P>,
        claim: Claim<'_>,
        id: &mut String,
    ) -> Option<HeldLease> {
        if !self.has_failed() {
            let result = ask_in_time!(self, service, store => store.fleet().claim(&claim));
            let reply = StoreReply { operation: StoreOperation::ClaimSlot, result };
            let may_take_effect = reply.may_take_effect();
            if let Some(claimed) = self.settle(service, reply) {
                return claimed.map(|lease| HeldLease { lease, held_by: HeldBy::Shared });
            }
            if may_take_effect {
                give_back(service, std::mem::replace(id, random_id(service)));
            }
        }
        let lease = service.fleet().claim(service.now(), &Claim { id, ..claim })?;
        Some(HeldLease { lease, held_by: HeldBy::Local })
    }

    /// Puts a ticket into the queue of the store or, if the store is down, into the local fleet's. The ticket replaces
    /// `displaced`.
    pub(crate) async fn enter_queue<P: Platform>(
        &self,
        service: &Service<P>,
        ticket: &Ticket,
        displaced: Option<&str>,
    ) {
        let now = service.now();
        if !self.has_failed() {
            let result = ask_in_time!(self, service, store => store.fleet().enter(ticket, displaced));
            let reply = StoreReply { operation: StoreOperation::EnterQueue, result };
            if self.settle(service, reply).is_some() {
                return;
            }
        }
        service.fleet().enter(now, ticket, displaced);
    }

    /// The stored inventories. A failure is neither counted nor logged, because the hosts can be probed instead.
    pub(crate) async fn inventories<P: Platform>(
        &self,
        service: &Service<P>,
    ) -> Option<Vec<(String, Inventory)>> {
        ask_in_time!(self, service, store => store.inventories().load_inventories()).ok()
    }
}

/// Whether the store answers. An outage is logged.
pub(crate) async fn ping<P: Platform>(service: &Service<P>) -> bool {
    let answer = service.store().ping().await;
    log_outage(service, StoreOperation::Ping, &answer);
    log_advice(service);
    answer.is_ok()
}

/// Logs once what an operator should know of how the store is set up.
fn log_advice<P: Platform>(service: &Service<P>) {
    if let Some(detail) = service.store().warning()
        && service.store().outage().advises()
    {
        service.record(&Event::StoreAdvice { detail: &detail });
    }
}

/// Counts a session that was stored to its owner's share, in the background.
fn share<P: Platform>(service: &Service<P>, key: &SessionKey) {
    if !service.store().is_shared() {
        return;
    }
    let (task_service, key) = (service.clone(), key.clone());
    service.spawn(async move {
        // A session that was not counted is counted with its next turn.
        let _ = task_service.store().sessions().share(&key).await;
    });
}

/// Gives back, in the background, the slot that may be leased under `id`.
fn give_back<P: Platform>(service: &Service<P>, id: String) {
    service.fleet().leave(&id);
    let task_service = service.clone();
    service.spawn(async move {
        // A lease that cannot be given back expires by itself.
        let _ = task_service.store().fleet().leave(&id).await;
    });
}
