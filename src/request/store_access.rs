//! The store as one request asks it: within the request's time, with each failure counted, and with what is done
//! without the store.
//!
//! What a request asks before upstream is asked spends its deadline. An operation of a wave gives a [`StoreReply`],
//! which is settled once the whole wave is there. It decides nothing about hosts or answers.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use super::{
    StoreDeadline,
    store_failure::{StoreFailures, StoreOperation, StoreTrouble, note_outage},
};
use crate::{
    cache::{AllEpochs, CacheKey, Entry, Epochs, Stored},
    fleet::{
        Inventory, Ticket,
        snapshot::{Claim, FleetSnapshot, Lease},
    },
    host::{Platform, Service},
    platform::{Background, Clock, Locked, random_id},
    session::{KEPT_TURNS, Session, SessionHead, SessionKey, Span, Turn},
    store::{
        FleetState, FlightBoard, FlightKey, Found, InventoryStore, ResponseCache, Sessions, Store,
        StoreError, StoreResult,
    },
};

/// The access of one request to the store. Clones share what is left of its time and its failures.
#[derive(Debug, Clone)]
pub(crate) struct StoreAccess {
    deadline: StoreDeadline,
    failures: Arc<Locked<StoreFailures>>,
}

/// What an operation gave. Its failure concerns nobody until it is settled.
#[must_use]
#[derive(Debug)]
pub(crate) struct StoreReply<T> {
    operation: StoreOperation,
    result: StoreResult<T>,
}

impl<T> StoreReply<T> {
    /// Whether the operation failed because nobody waited any longer, so that it may still take effect.
    pub(crate) fn may_take_effect(&self) -> bool {
        matches!(self.result, Err(StoreError::TimedOut | StoreError::OutOfTime))
    }

    /// What the store gave; a failure is neither counted nor told.
    pub(crate) fn unnoticed(self) -> Option<T> {
        self.result.ok()
    }
}

/// Which state has the lease of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldBy {
    /// The store.
    Shared,
    /// This process's local fleet, while the store is away.
    Local,
}

/// A lease, and which state has it.
#[derive(Debug)]
pub(crate) struct HeldLease {
    pub(crate) lease: Lease,
    pub(crate) held_by: HeldBy,
}

/// Asks the store within what is left of the request's time, which passes until the store has answered.
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
    /// The access of a request that has asked nothing yet.
    pub(crate) fn new<P: Platform>(service: &Service<P>) -> Self {
        Self { deadline: StoreDeadline::new(service), failures: Arc::default() }
    }

    /// The access of what no request waits for.
    pub(crate) fn unhurried<P: Platform>(service: &Service<P>) -> Self {
        Self { deadline: StoreDeadline::unhurried(service), failures: Arc::default() }
    }

    /// The access of what a request does in the background: its failures are not counted, and a store that failed the
    /// request before is not asked.
    pub(crate) fn beside<P: Platform>(&self, service: &Service<P>) -> Self {
        let failures = StoreFailures::of_trouble(self.failures().trouble());
        Self { deadline: StoreDeadline::unhurried(service), failures: Arc::new(Locked::new(failures)) }
    }

    /// Whether the store failed in this request, or its time for it is spent: then it is not asked again, so that an
    /// outage costs its limit once.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures().trouble() != StoreTrouble::None
    }

    /// Whether the store itself failed in this request.
    pub(crate) fn is_at_fault(&self) -> bool {
        self.failures().trouble() == StoreTrouble::AtFault
    }

    /// Gives the request its time anew: it waited for something else than the store, for which there is no limit here.
    pub(crate) fn renew(&self) {
        self.deadline.renew();
        self.failures().renew();
    }

    /// The names of the failures that are in no counter yet, which the caller counts.
    pub(super) fn take_uncounted(&self) -> Vec<&'static str> {
        self.failures().take_uncounted()
    }

    /// Takes what an operation gave, or does without: the failure is counted, and told once an outage.
    pub(crate) fn settle<P: Platform, T>(&self, service: &Service<P>, reply: StoreReply<T>) -> Option<T> {
        let StoreReply { operation, result } = reply;
        note_outage(service, operation, &result);
        result.inspect_err(|error| self.failures().note(operation, error)).ok()
    }

    /// As [`StoreAccess::settle`], for one of a wave: of a store that is down, one failure tells enough.
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
    /// How often the answers of a model were purged.
    pub(crate) async fn ask_epochs<P: Platform>(
        &self,
        service: &Service<P>,
        model: &str,
    ) -> StoreReply<Epochs> {
        let result = ask_in_time!(self, service, store => store.answers().epochs(model));
        StoreReply { operation: StoreOperation::ReadEpochs, result }
    }

    /// How often the answers of each model were purged.
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

    /// A stored answer; none where the store failed.
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

    /// A stored answer, or the lead of the flight that brings it, or who leads it.
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
        StoreReply { operation: StoreOperation::PutAnswer, result }
    }

    /// Purges the whole cache, or the answers of one model; `None` where the store failed.
    pub(crate) async fn purge<P: Platform>(&self, service: &Service<P>, model: Option<&str>) -> Option<()> {
        let result = service.store().answers().purge(model).await;
        self.settle(service, StoreReply { operation: StoreOperation::PurgeAnswers, result })
    }
}

/// Sessions.
impl StoreAccess {
    /// A session with the turns of `span`, for a request that asks upstream afterwards.
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

    /// A session with the turns of `span`, for a request that asks for nothing else; `None` where the store failed.
    pub(crate) async fn load_session<P: Platform>(
        &self,
        service: &Service<P>,
        key: &SessionKey,
        span: Span<'_>,
    ) -> Option<Option<Session>> {
        let result = service.store().sessions().session(key, span, service.config().sessions.ttl).await;
        self.settle(service, StoreReply { operation: StoreOperation::LoadSession, result })
    }

    /// Creates a session; `None` where the store failed.
    pub(crate) async fn create_session<P: Platform>(
        &self,
        service: &Service<P>,
        key: &SessionKey,
        head: &SessionHead,
    ) -> Option<()> {
        let result =
            service.store().sessions().create_session(key, head, service.config().sessions.ttl).await;
        self.settle(service, StoreReply { operation: StoreOperation::CreateSession, result })
    }

    /// Deletes a session and tells whether there was one; `None` where the store failed.
    pub(crate) async fn delete_session<P: Platform>(
        &self,
        service: &Service<P>,
        key: &SessionKey,
    ) -> Option<bool> {
        let result = service.store().sessions().delete_session(key).await;
        self.settle(service, StoreReply { operation: StoreOperation::DeleteSession, result })
    }

    /// Appends a turn to a session of a generation; tells whether there is one.
    pub(crate) async fn append_turn<P: Platform>(
        service: &Service<P>,
        key: &SessionKey,
        generation: Option<u64>,
        turn: &Turn,
    ) -> StoreReply<bool> {
        let ttl = service.config().sessions.ttl;
        let result = service.store().sessions().append_turn_to(key, generation, turn, ttl, KEPT_TURNS).await;
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

    /// The state of the fleet, or what this process knows of it while the store is away.
    pub(crate) async fn snapshot<P: Platform>(&self, service: &Service<P>) -> FleetSnapshot {
        if self.has_failed() {
            return service.fleet().snapshot(service.now());
        }
        let reply = self.ask_snapshot(service).await;
        self.settle_snapshot(service, reply)
    }

    /// The state of the fleet that the store gave, or what this process knows of it.
    pub(crate) fn settle_snapshot<P: Platform>(
        &self,
        service: &Service<P>,
        reply: StoreReply<FleetSnapshot>,
    ) -> FleetSnapshot {
        // Of a store that is down, one failure tells enough.
        let snapshot = if self.has_failed() { None } else { self.settle(service, reply) };
        let Some(snapshot) = snapshot else { return service.fleet().snapshot(service.now()) };
        if service.store().is_shared() {
            service.fleet().learn(service.now(), &snapshot);
        }
        snapshot
    }

    /// How many requests were routed before this one.
    pub(crate) async fn ask_sequence<P: Platform>(&self, service: &Service<P>) -> StoreReply<u64> {
        let result = ask_in_time!(self, service, store => store.fleet().next_sequence());
        StoreReply { operation: StoreOperation::NextSequence, result }
    }

    /// How many requests were routed before this one; `None` where the store failed.
    pub(crate) async fn sequence<P: Platform>(&self, service: &Service<P>) -> Option<u64> {
        if self.has_failed() {
            return None;
        }
        let reply = self.ask_sequence(service).await;
        self.settle(service, reply)
    }

    /// Takes the first requested slot that is free: in the store or, while that is away, in this process. `id` is the
    /// claim's. It becomes another one where the store may have given a slot that nobody waited for: that slot is given
    /// back, because it would look taken until its lease ends.
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

    /// Puts a ticket into the queue of the store or, while that is away, into that of this process; `displaced` is
    /// removed for it.
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

    /// The inventories in the store. A failure is neither counted nor told, because hosts can be asked instead.
    pub(crate) async fn inventories<P: Platform>(
        &self,
        service: &Service<P>,
    ) -> Option<Vec<(String, Inventory)>> {
        ask_in_time!(self, service, store => store.inventories().load_inventories()).ok()
    }
}

/// Whether the store answers; an outage is told.
pub(crate) async fn ping<P: Platform>(service: &Service<P>) -> bool {
    let answer = service.store().ping().await;
    note_outage(service, StoreOperation::Ping, &answer);
    answer.is_ok()
}

/// Gives back a slot that may be taken under `id`, in the background.
fn give_back<P: Platform>(service: &Service<P>, id: String) {
    service.fleet().leave(&id);
    let task_service = service.clone();
    service.spawn(async move {
        // What cannot be given back ends by itself.
        let _ = task_service.store().fleet().leave(&id).await;
    });
}
