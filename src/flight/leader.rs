//! The leader of a flight: it looks for a stored answer or another process's flight, else asks upstream, and writes the
//! answer to the broadcast.
//!
//! The leader owns the upstream body. It keeps only complete answers. When every client has left, it drops the upstream
//! body at once and keeps nothing.

mod attempts;
mod outcome;
mod relay;

use std::pin::pin;

use futures::{
    StreamExt as _,
    channel::{mpsc::unbounded, oneshot},
    join,
};

use super::{
    CachePlan,
    follow::{FollowEnd, Follower},
    publisher::Publisher,
    replay::replay,
};
use crate::{
    api::{error::Error, reply::ClientLeft},
    cache::{CacheStatus, Repetition},
    host::{Platform, Service},
    platform::random_id,
    process::{Head, Provenance, broadcast::Broadcast, flight_table::LeaderGuard},
    request::{RequestInfo, UpstreamReport},
    store::{FlightKey, Found},
    upstream::{
        UpstreamRequest,
        admission::{Admission, FleetPrefetch},
    },
};
use attempts::Aftermath;

/// What a request has that leads a flight, and a request that follows has not.
pub(super) struct Lead {
    pub(super) broadcast: Broadcast,
    /// Keeps the flight where other requests join it; `None` where none may.
    pub(super) guard: Option<LeaderGuard>,
    pub(super) cache_plan: Option<CachePlan>,
    pub(super) prefetched: Option<FleetPrefetch>,
}

/// What the leader tells its own client of how it brought the answer.
#[derive(Debug, Clone)]
pub(super) struct LeaderReport {
    /// What the cache did for the flight.
    pub(super) cache: Option<CacheStatus>,
    pub(super) upstream: UpstreamReport,
}

/// The leader of a flight.
pub(super) struct Leader<'a, P: Platform> {
    service: &'a Service<P>,
    upstream_request: &'a UpstreamRequest,
    broadcast: Broadcast,
    /// Keeps the flight where other requests join it; `None` where none may.
    guard: Option<LeaderGuard>,
    cache_plan: Option<CachePlan>,
    /// The key of the flight among all processes; `None` where other processes may not join.
    flight: Option<FlightKey>,
    prefetched: Option<FleetPrefetch>,
    request: &'a RequestInfo,
    pub(super) report: LeaderReport,
    /// Reports a complete answer to the leader's own client.
    report_sender: Option<oneshot::Sender<LeaderReport>>,
}

/// Who brings the answer.
enum Role {
    /// This leader. Its name is `None` where it does not lead among all processes.
    Lead(Option<String>),
    /// The leader of another process, which this one follows under the name `follower`.
    Follow { leader: String, follower: String },
    /// Nobody: the broadcast has ended.
    Told,
}

impl<'a, P: Platform> Leader<'a, P> {
    /// The leader of a flight for this request.
    pub(super) fn new(
        service: &'a Service<P>,
        upstream_request: &'a UpstreamRequest,
        lead: Lead,
        request: &'a RequestInfo,
        cache: Option<CacheStatus>,
        report_sender: oneshot::Sender<LeaderReport>,
    ) -> Self {
        let Lead { broadcast, guard, cache_plan, prefetched } = lead;
        let flight = cache_plan
            .filter(|cache_plan| cache_plan.is_shared)
            .map(|cache_plan| cache_plan.flight_key(upstream_request));
        Self {
            service,
            upstream_request,
            broadcast,
            guard,
            cache_plan,
            flight,
            prefetched,
            request,
            report: LeaderReport { cache, upstream: UpstreamReport::default() },
            report_sender: Some(report_sender),
        }
    }

    /// Brings the answer; what that took is in the report afterwards.
    pub(super) async fn fly(&mut self) {
        // Find out who brings the answer.
        let mut admission =
            Admission::new(self.service, self.upstream_request, self.request, self.prefetched.take());
        let mut role = self.role(&mut admission).await;

        // Follow the leader of another process for as long as there is one.
        while let Role::Follow { leader, follower } = role {
            admission.release();
            // There is no limit for the time that a request follows, so its time for the store begins anew.
            self.request.store.renew();
            role = match self.follow(&leader, &follower).await {
                FollowEnd::Told => Role::Told,
                FollowEnd::Missed => Role::Lead(None),
                FollowEnd::Vanished => self.role(&mut admission).await,
                FollowEnd::Late => {
                    self.flight = self.flight.map(|flight| FlightKey { key: flight.key.later(), ..flight });
                    self.role(&mut admission).await
                }
            };
        }

        // Ask upstream, unless the broadcast has ended.
        match role {
            Role::Lead(leader) => self.ask(&mut admission, leader).await,
            Role::Told | Role::Follow { .. } => admission.release(),
        }

        // Requests that come later start a flight of their own.
        self.guard = None;
        self.report_sender = None;
    }

    async fn follow(&self, leader: &str, follower: &str) -> FollowEnd {
        let Some((flight, cache_plan)) = self.flight.zip(self.cache_plan) else { return FollowEnd::Missed };
        let follower = Follower {
            service: self.service,
            upstream_request: self.upstream_request,
            broadcast: &self.broadcast,
            flight,
            cache_plan,
            leader,
            name: follower,
        };
        follower.follow().await
    }

    /// Looks for a stored answer and for a leader in another process. At the same time it takes a slot, in case that there
    /// is neither.
    async fn role(&mut self, admission: &mut Admission<'_, P>) -> Role {
        let (Some(flight), Some(cache_plan)) = (self.flight, self.cache_plan) else {
            return Role::Lead(None);
        };
        if self.request.store.has_failed() {
            self.report.cache = Some(CacheStatus::Bypass);
            return Role::Lead(None);
        }
        // Where the key does not cover the question and the delivery, the leader's name does, for those who would follow.
        let asked = cache_plan
            .repeated(self.upstream_request)
            .map(|(question, form)| [question.to_hex(), form.letter().to_owned()]);
        let leader =
            [random_id(self.service), asked.as_ref().map(|asked| asked.join(":")).unwrap_or_default()];
        let leader = leader.join(":");
        let (service, store, max_age) = (self.service, &self.request.store, cache_plan.max_age());
        let found = {
            let looking = pin!(store.ask_answer_or_lead(service, &flight, &leader, max_age));
            let reserving = pin!(admission.reserve(&mut self.report.upstream));
            join!(looking, reserving).0
        };
        // After a timeout this leader may have the lead without knowing; its publisher finds that out, and ends the lead.
        let may_lead = found.may_take_effect();
        match self.request.store.settle(self.service, found) {
            Some(Found::Answer(stored)) => {
                let repetition = cache_plan.asked.map(|asked| stored.entry.repetition(asked));
                if repetition == Some(Repetition::Other) {
                    self.fail(Error::IdempotencyKeyReused);
                    return Role::Told;
                }
                let serves = cache_plan.takes(&stored);
                let replayed = serves.then(|| replay(self.upstream_request, &stored.entry)).flatten();
                let Some(replayed) = replayed else { return Role::Lead(None) };
                self.report.cache = Some(CacheStatus::Hit);
                self.open(Head::Found(replayed, stored.age));
                self.broadcast.end(Ok(()));
                Role::Told
            }
            Some(Found::Lead) => Role::Lead(Some(leader)),
            Some(Found::Follow { leader: other })
                if asked.as_ref().is_some_and(|asked| !other.ends_with(&asked.join(":"))) =>
            {
                let is_same = asked.is_some_and(|[question, _]| other.contains(&question));
                self.fail(if is_same { Error::IdempotencyKeyInUse } else { Error::IdempotencyKeyReused });
                Role::Told
            }
            Some(Found::Follow { leader: other }) => {
                self.report.cache = Some(CacheStatus::Coalesced);
                Role::Follow { leader: other, follower: leader }
            }
            None => {
                self.report.cache = Some(CacheStatus::Bypass);
                Role::Lead(Some(leader).filter(|_| may_lead))
            }
        }
    }

    fn open(&self, head: Head) {
        let LeaderReport { cache, upstream: UpstreamReport { host, routes, .. } } = &self.report;
        self.broadcast
            .open(head, Provenance { cache: *cache, backend: host.clone(), routes: routes.clone() });
    }

    /// Reports to the own client. The answer is complete, and is stored from now on.
    fn send_report(&mut self) {
        if let Some(report_sender) = self.report_sender.take() {
            // A client that left needs no report.
            let _ = report_sender.send(self.report.clone());
        }
    }

    fn fail(&self, error: Error) {
        self.open(Head::Failed(error.clone()));
        self.broadcast.end(Err(error));
    }

    /// Asks upstream, and publishes the answer to the processes that follow.
    async fn ask(&mut self, admission: &mut Admission<'_, P>, leader: Option<String>) {
        if self.report.cache == Some(CacheStatus::Coalesced) {
            self.report.cache = Some(CacheStatus::Miss);
        }
        self.broadcast.note_fresh();
        let publisher = leader
            .zip(self.flight)
            .and_then(|(leader, flight)| Publisher::new(self.service, &self.broadcast, flight, leader));
        let broadcast = self.broadcast.clone();
        let publishing = pin!(async {
            if let Some(publisher) = publisher {
                publisher.publish().await;
            }
        });
        let bringing = pin!(self.bring(admission));
        let (end, ()) = join!(bringing, publishing);
        broadcast.end(end);
    }

    /// Asks upstream and writes the answer. When this returns, everything that the answer changes is stored.
    async fn bring(&mut self, admission: &mut Admission<'_, P>) -> Result<(), Error> {
        let service = self.service;
        let (aftermath, failures) = unbounded();
        let (is_recorded, recorded) = oneshot::channel();
        // Failures are recorded beside the attempts, so that neither the next attempt nor an answer waits for the store.
        let recording = pin!(async {
            failures.for_each_concurrent(None, |failure: Aftermath| failure.record(service)).await;
            let _ = is_recorded.send(());
        });
        let bringing = pin!(async {
            match self.attempts(admission, aftermath).await {
                Ok((opened, slot)) => self.hand_over(opened, slot).await,
                Err(error) => {
                    // A client that retries on this error must not find its own slots still taken.
                    let _ = recorded.await;
                    if self.request.store.has_failed() {
                        self.broadcast.note_lost_store();
                    }
                    self.fail(error.clone());
                    Err(error)
                }
            }
        });
        join!(bringing, recording).0
    }
}

impl From<ClientLeft> for Error {
    fn from(_: ClientLeft) -> Self {
        Self::ClientClosed
    }
}
