//! The lead of a flight: it finds out whether the answer is there or another brings it, else asks upstream, and writes
//! what comes to the broadcast.
//!
//! It owns the upstream body. Until the first event of an answer is there nothing has reached a client, and a failed
//! attempt may be followed by another. An answer is kept only when it is complete. When everybody left, upstream is
//! dropped at once and nothing is kept.

mod outcome;

use bytes::Bytes;
use futures::{
    StreamExt as _,
    channel::{
        mpsc::{UnboundedSender, unbounded},
        oneshot,
    },
    future::OptionFuture,
    join,
};

use super::{
    CachePlan,
    follow::{FollowEnd, follow},
    publisher::Publisher,
    replay::replay,
};
use crate::{
    api::{error::Error, reply::ClientLeft},
    cache::{CacheKey, CacheStatus, Delivery},
    fleet::{AttemptFailure, BackendHost, Failover, HostEffect, NO_EVENT, UNFINISHED, broken},
    host::{Platform, Service},
    metrics::Attempt,
    platform::{Journal, journal::Event, random_id},
    process::{Head, Provenance, broadcast::Broadcast, flight_table::LeaderGuard},
    request::Account,
    store::{FlightKey, Found, ResponseCache, StoreError, StoreResult},
    upstream::{
        UpstreamRequest,
        admission::{Admission, Admitted, FleetPrefetch},
        answer::{Accumulator, Events, Opened},
        attempt,
        slot::Slot,
    },
    wire::framer,
};

/// The lead of a flight.
pub(super) struct Leader<'a, P: Platform> {
    service: &'a Service<P>,
    order: &'a UpstreamRequest,
    broadcast: Broadcast,
    /// Where others may join.
    guard: Option<LeaderGuard>,
    cache_plan: Option<CachePlan>,
    /// The flight among all processes, where there is one.
    flight: Option<FlightKey>,
    prefetched: Option<FleetPrefetch>,
    account: Account,
    /// Tells the own client's part what it took to bring a complete answer, as soon as there is one.
    bringing: Option<oneshot::Sender<Account>>,
}

/// Who brings the answer.
enum Role {
    /// This one, with the lead among all replicas or without it.
    Leader(Option<String>),
    /// Another, and the name under which this one follows.
    Follow(String, String),
    /// It is told already.
    Told,
}

/// What is left to be done for an attempt that failed.
enum Aftermath {
    /// Its slot is given back, and how it ended noted.
    Release(Box<Slot>, HostEffect),
    /// Another host answered what it failed.
    RecordFault(BackendHost),
}

impl Aftermath {
    async fn note<P: Platform>(self, service: &Service<P>) {
        match self {
            Self::Release(slot, effect) => slot.release(service, effect).await,
            Self::RecordFault(backend) => Slot::record_fault(&backend, service).await,
        }
    }
}

impl<'a, P: Platform> Leader<'a, P> {
    /// The lead of a flight for this order, with the guard where others may join it.
    pub(super) fn new(
        service: &'a Service<P>,
        order: &'a UpstreamRequest,
        (broadcast, guard): (Broadcast, Option<LeaderGuard>),
        cache_plan: Option<CachePlan>,
        prefetched: Option<FleetPrefetch>,
        (account, bringing): (Account, oneshot::Sender<Account>),
    ) -> Self {
        let flight = cache_plan
            .as_ref()
            .filter(|cache_plan| cache_plan.is_shared)
            .map(|cache_plan| cache_plan.flight_key(order));
        Self {
            service,
            order,
            broadcast,
            guard,
            cache_plan,
            flight,
            prefetched,
            account,
            bringing: Some(bringing),
        }
    }

    /// Brings the answer; gives the account of what that took.
    pub(super) async fn fly(mut self) -> Account {
        let mut admission = Admission::new(self.service, self.order, self.prefetched.take());
        let mut role = self.role(&mut admission).await;
        while let Role::Follow(leader, follower) = role {
            admission.release();
            // Following has no limit.
            self.account.renew_budget();
            let names = (&*leader, &*follower);
            let followed = match self.flight.zip(self.cache_plan) {
                Some((flight, cache_plan)) => {
                    let flight = (&flight, &cache_plan.flight_key(self.order));
                    Box::pin(follow(self.service, self.order, &self.broadcast, flight, names)).await
                }
                None => FollowEnd::Missed,
            };
            role = match followed {
                FollowEnd::Told => Role::Told,
                FollowEnd::Missed => Role::Leader(None),
                FollowEnd::Vanished => self.role(&mut admission).await,
                FollowEnd::Late => {
                    self.flight = self.flight.map(|flight| FlightKey { key: flight.key.later(), ..flight });
                    self.role(&mut admission).await
                }
            };
        }
        match role {
            Role::Leader(leader) => self.ask(admission, leader).await,
            Role::Told | Role::Follow(..) => admission.release(),
        }
        drop(self.guard);
        self.account
    }

    /// Looks for the answer, and takes a slot ahead, in case that there is none.
    async fn role(&mut self, admission: &mut Admission<'_, P>) -> Role {
        let (Some(flight), Some(cache_plan)) = (self.flight, self.cache_plan) else {
            return Role::Leader(None);
        };
        if self.account.store_failed() {
            self.account.cache = Some(CacheStatus::Bypass);
            return Role::Leader(None);
        }
        // Whoever follows must know what is asked where the key does not say that.
        let asked = cache_plan.question.map(CacheKey::to_hex);
        let leader = [random_id(self.service), asked.clone().unwrap_or_default()].join(":");
        let mut ahead = self.account.clone();
        let service = self.service;
        let (budget, max_age) = (ahead.budget.clone(), cache_plan.policy.max_age());
        let looking = async { budget.ask(service).answer_or_lead(&flight, &leader, max_age).await };
        let (found, ()) = join!(Box::pin(looking), Box::pin(admission.reserve(&mut ahead)));
        self.account = ahead;
        let found: StoreResult<Found> = found;
        // It may have the lead by now; a publisher finds that out, and ends it.
        let may_lead = matches!(found, Err(StoreError::TimedOut | StoreError::OutOfTime));
        match self.account.degrade(self.service, "cache_lead", found) {
            Some(Found::Answer(stored)) => {
                if cache_plan.question.is_some() && stored.entry.question() != cache_plan.question {
                    self.fail(Error::IdempotencyKeyReused);
                    return Role::Told;
                }
                let replayed =
                    replay(self.order, &stored.entry).filter(|_| cache_plan.policy.takes(stored.age));
                let Some(replayed) = replayed else { return Role::Leader(None) };
                self.account.cache = Some(CacheStatus::Hit);
                self.open(Head::Found(replayed, stored.age));
                self.broadcast.end(Ok(()));
                Role::Told
            }
            Some(Found::Lead) => Role::Leader(Some(leader)),
            Some(Found::Follow { leader: other })
                if asked.as_ref().is_some_and(|asked| !other.ends_with(asked)) =>
            {
                self.fail(Error::IdempotencyKeyReused);
                Role::Told
            }
            Some(Found::Follow { leader: other }) => {
                self.account.cache = Some(CacheStatus::Coalesced);
                Role::Follow(other, leader)
            }
            None => {
                self.account.cache = Some(CacheStatus::Bypass);
                Role::Leader(Some(leader).filter(|_| may_lead))
            }
        }
    }

    fn open(&self, opening: Head) {
        let Account { cache, host, routes, .. } = &self.account;
        self.broadcast
            .open(opening, Provenance { cache: *cache, backend: host.clone(), routes: routes.clone() });
    }

    /// The answer is complete, and what comes now only stores it.
    fn tell_account(&mut self) {
        if let Some(bringing) = self.bringing.take() {
            // A client that left needs no account.
            let _ = bringing.send(self.account.clone());
        }
    }

    fn fail(&self, error: Error) {
        self.open(Head::Failed(error.clone()));
        self.broadcast.end(Err(error));
    }

    /// Asks upstream, and tells other replicas where there are any.
    async fn ask(&mut self, admission: Admission<'_, P>, leader: Option<String>) {
        if self.account.cache == Some(CacheStatus::Coalesced) {
            self.account.cache = Some(CacheStatus::Miss);
        }
        self.broadcast.note_fresh();
        let publisher = leader
            .zip(self.flight)
            .and_then(|(leader, flight)| Publisher::new(self.service, &self.broadcast, flight, leader));
        let broadcast = self.broadcast.clone();
        let publishing = OptionFuture::from(publisher.map(|publisher| Box::pin(publisher.publish())));
        let (end, _) = join!(Box::pin(self.bring(admission)), publishing);
        broadcast.end(end);
    }

    /// Asks upstream and writes what comes; what the answer changes is stored when it returns.
    async fn bring(&mut self, admission: Admission<'_, P>) -> Result<(), Error> {
        let service = self.service;
        let (aftermath, failures) = unbounded();
        let (is_noted, noted) = oneshot::channel();
        // The next attempt does not wait until the one before is noted, and no answer does.
        let noting = async {
            failures.for_each_concurrent(None, |failure: Aftermath| failure.note(service)).await;
            let _ = is_noted.send(());
        };
        let bringing = async {
            match self.attempts(admission, aftermath).await {
                Ok((opened, slot)) => self.hand_over(opened, slot).await,
                Err(error) => {
                    // Whoever reads that and goes on at once must find the places free.
                    let _ = noted.await;
                    if self.account.store_failed() {
                        self.broadcast.note_lost_store();
                    }
                    self.fail(error.clone());
                    Err(error)
                }
            }
        };
        join!(Box::pin(bringing), Box::pin(noting)).0
    }

    /// Writes what was opened; what it changes is stored when it returns.
    async fn hand_over(&mut self, opened: Opened<P::Body>, slot: Box<Slot>) -> Result<(), Error> {
        match opened {
            Opened::Stream { content_type, first, events } => {
                let kind = content_type.to_str().unwrap_or_default().to_owned();
                self.open(Head::Stream { content_type });
                let mut slot = Some(slot);
                let (end, effect) = self.relay(&kind, first, events, &mut slot).await;
                if let Err(error) = &end {
                    self.broadcast.end(Err(error.clone()));
                }
                if let Some(slot) = slot {
                    slot.release(self.service, effect).await;
                }
                end
            }
            Opened::Spoken(mut heard) => {
                let answer = heard.answer();
                let entry = self.entry(Delivery::Whole, "application/json", || Some(answer.to_json().into()));
                let kept = self.kept_whole(entry, !answer.is_empty());
                self.tell_account();
                self.open(Head::Spoken(answer.into()));
                self.conclude(kept, slot).await;
                Ok(())
            }
            Opened::Whole(original) => {
                let says = self.says_something(&original);
                let kind = original.content_type.as_ref().and_then(|kind| kind.to_str().ok());
                let kind = kind.unwrap_or_default();
                let entry = self.entry(Delivery::Whole, kind, || Some(original.body.clone()));
                let kept = self.kept_whole(entry, says);
                self.tell_account();
                self.open(Head::Whole(original));
                self.conclude(kept, slot).await;
                Ok(())
            }
        }
    }

    async fn attempts(
        &mut self,
        mut admission: Admission<'_, P>,
        aftermath: UnboundedSender<Aftermath>,
    ) -> Result<(Opened<P::Body>, Box<Slot>), Error> {
        let (service, order) = (self.service, self.order);
        let (broadcast, account) = (&self.broadcast, &mut self.account);
        let mut failover = Failover::default();
        let mut failed = Vec::new();
        let mut missing = None;
        while failover.may_go_on() {
            let step = broadcast.during(Box::pin(admission.next(&failover, account))).await;
            let Ok(step) = step else {
                admission.leave().await;
                return Err(Error::ClientClosed);
            };
            let slot = match step {
                Admitted::Go(slot) => slot,
                Admitted::Refuse(error) => return Err(error),
                Admitted::None(error) => {
                    missing = error;
                    break;
                }
            };
            let backend = slot.backend.clone();
            // Counted as given up until the attempt has an end, for a client may leave at any time.
            let attempt = Attempt {
                host: backend.url().to_owned(),
                outcome: "cancelled",
                cold: slot.cold && slot.is_taken(),
            };
            account.attempts.push(attempt);
            let (outcome, slot) =
                attempt::attempt(service, &admission, order, broadcast, slot, account).await;
            if let Some(attempt) = account.attempts.last_mut() {
                attempt.outcome = outcome.as_ref().map_or_else(AttemptFailure::word, |_| "ok");
            }
            // Without one the request is seen through although its client left.
            let Some(slot) = slot else { return Err(Error::ClientClosed) };
            match outcome {
                Ok(opened) => {
                    for failed in failed {
                        let _ = aftermath.unbounded_send(Aftermath::RecordFault(failed));
                    }
                    account.host = Some(backend);
                    account.first_token = slot.first_byte().filter(|_| order.streams && slot.is_taken());
                    if let Opened::Spoken(heard) = &opened {
                        account.tokens = heard.tokens();
                        account.speed = heard.speed(slot.since_first_byte(service));
                    }
                    return Ok((opened, slot));
                }
                Err(failure) => {
                    if failure == AttemptFailure::ClientLeft {
                        let _ = aftermath.unbounded_send(Aftermath::Release(slot, HostEffect::Neutral));
                        return Err(Error::ClientClosed);
                    }
                    service.record(&Event::AttemptFailed {
                        request_id: &account.request_id,
                        host: backend.url(),
                        outcome: failure.word(),
                        detail: &failure.detail(),
                    });
                    let _ = aftermath.unbounded_send(Aftermath::Release(slot, failure.effect()));
                    // Its own words may be what the client reads in the end.
                    if matches!(failure, AttemptFailure::Rejected { .. } | AttemptFailure::Failed { .. }) {
                        account.host = Some(backend.clone());
                    }
                    if matches!(failure, AttemptFailure::Failed { .. }) {
                        failed.push(backend);
                    } else if failure == AttemptFailure::NotFound {
                        admission.forget(&backend);
                    }
                    failover.failed(failure);
                }
            }
        }
        Err(failover.effect(missing))
    }

    /// Writes the events of an answer to the broadcast, and stores what the answer changes.
    async fn relay(
        &mut self,
        content_type: &str,
        first: Bytes,
        mut events: Events<P::Body>,
        slot: &mut Option<Box<Slot>>,
    ) -> (Result<(), Error>, HostEffect) {
        let mut heard = Accumulator::new(false);
        let end = self.relay_events(first, &mut events, &mut heard).await;
        self.account.tokens = heard.tokens();
        if let Some(attempt) = self.account.attempts.last_mut() {
            attempt.outcome = end.as_ref().map_or_else(AttemptFailure::word, |_| "ok");
        }
        match end {
            Ok(last) => {
                let since = slot.as_ref().and_then(|slot| slot.since_first_byte(self.service));
                self.account.speed = heard.speed(since);
                self.tell_account();
                self.broadcast.complete(last);
                let entry = self.entry(Delivery::Stream, content_type, || {
                    self.broadcast.whole().filter(|_| !heard.is_empty())
                });
                if let Some(slot) = slot.take() {
                    self.conclude(entry.and_then(|entry| self.kept(&entry).zip(Some(entry))), slot).await;
                }
                events.drain(self.service);
                (Ok(()), HostEffect::Answered)
            }
            Err(failure) => {
                let effect = failure.effect();
                (Err(failure.into_error()), effect)
            }
        }
    }

    /// Writes every event but the terminator, which is given back.
    async fn relay_events(
        &mut self,
        first: Bytes,
        events: &mut Events<P::Body>,
        heard: &mut Accumulator,
    ) -> Result<Bytes, AttemptFailure> {
        let mut event = first;
        loop {
            let data = framer::data(events.framing(), &event);
            if let (Some(data), Some(protocol)) = (&data, self.order.protocol) {
                let chunk = protocol.read(data).ok_or_else(|| broken(NO_EVENT))?;
                heard.add(&chunk).map_err(broken)?;
                if let Some(error) = &chunk.error {
                    let failure = AttemptFailure::told(error);
                    self.broadcast.tell(event.clone()).await?;
                    return Err(failure);
                }
                if chunk.end {
                    return Ok(event);
                }
                if events.has_ended() {
                    return Err(broken(UNFINISHED));
                }
            }
            self.broadcast.write(event).await?;
            let next = self.broadcast.during(events.next()).await??;
            event = next.ok_or_else(|| broken(UNFINISHED))?;
        }
    }
}

impl From<ClientLeft> for Error {
    fn from(_: ClientLeft) -> Self {
        Self::ClientClosed
    }
}
