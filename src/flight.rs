//! A flight: it brings one answer to every request that waits for it, and ends when the answer's effects are stored.
//!
//! A flight runs as a task of its own. Its [`leader`] finds the answer or asks upstream, and writes to a [`Broadcast`]; each
//! client has a [`subscriber`] that reads the broadcast. A request for the same answer in the same delivery joins the flight:
//! in the same process by the `FlightTable`, in another through the shared store. A dropped reply means that its client left.
//! When all clients have left, the upstream call is dropped at once and nothing is stored.

mod failure;
mod follow;
mod leader;
mod publisher;
mod rendering;
mod replay;
mod subscriber;

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{channel::oneshot, join};
use http::HeaderValue;

use crate::{
    api::{
        auth::Owner,
        error::{Error, Original},
        memory_budget::HeldBytes,
        reply::{self, Inlet},
    },
    cache::{Asked, CacheKey, CachePolicy, CacheStatus, Delivery, Repetition, Stored},
    fleet::broken,
    host::{Platform, Service},
    platform::Background,
    process::{
        Head, Provenance, Replay, WholeHead,
        broadcast::{Broadcast, Receiver},
        flight_table::{JoinKey, Joined},
    },
    request::{ReplyNotes, RequestInfo},
    session::{RawMessage, SessionKey, SessionStatus},
    store::FlightKey,
    upstream::{FleetPrefetch, UpstreamRequest},
    wire::dialect::{Dialect, Weight},
};
use leader::{Lead, Leader, LeaderReport};
pub(crate) use rendering::{Pieces, Rendering};
use subscriber::{Client, Subscriber, SubscriberEnd};

/// How long upstream may stay silent before a client of server-sent events gets a head. Some platforms notice a departed
/// client only when they write to it, and nothing can be written before the head.
const EARLY_HEAD: Duration = Duration::from_secs(10);
/// The pause between two comment lines after an early head.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// The comment line after an early head; readers of server-sent events skip it.
const COMMENT: Bytes = Bytes::from_static(b": waiting for the model\n\n");

/// Everything a flight needs. It is passed on in a box, because it goes by value from the handler to the flight's task.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) request: Arc<RequestInfo>,
    pub(crate) upstream_request: UpstreamRequest,
    /// How the client reads the answer.
    pub(crate) rendering: Rendering,
    /// How the answer is kept; `None` when it is not.
    pub(crate) cache_plan: Option<CachePlan>,
    pub(crate) session: Option<SessionCommit>,
    /// The fleet as the first wave to the store found it.
    pub(crate) prefetched: Option<FleetPrefetch>,
    /// What is noted of the reply so far.
    pub(crate) notes: ReplyNotes,
}

/// How many times `CACHE_MAX_ENTRY` a broadcast may buffer: an entry is compressed, and a stream shrinks to a tenth.
const UNPACKED: usize = 4;
/// How many times `CACHE_MAX_ENTRY` an answer under an `Idempotency-Key` may have, since it must not be asked for twice.
const REPEATED: usize = 4;

/// How an answer is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CachePlan {
    pub(crate) key: CacheKey,
    /// What is asked, where the key is that of a repetition and does not cover it.
    pub(crate) asked: Option<Asked>,
    pub(crate) ttl: Duration,
    /// Whose share the answer uses.
    pub(crate) owner: Owner,
    pub(crate) policy: CachePolicy,
    /// The age of a stored answer that was found and does not serve this request, because it is forgotten or cannot be
    /// converted. Only a younger one counts then, so that the lead of the flight can be had.
    pub(crate) unfit: Option<Duration>,
    /// Whether a stored answer may serve this request, and other requests may join its flight.
    pub(crate) is_shared: bool,
}

impl CachePlan {
    /// The key of a flight for `upstream_request`: the answer, and its delivery. Repetitions have one flight for both
    /// deliveries, so that neither asks upstream while the other does.
    fn flight_key(&self, upstream_request: &UpstreamRequest) -> FlightKey {
        let form = Delivery::of(upstream_request.streams_to_client() && self.asked.is_none());
        FlightKey { key: self.key, form }
    }

    /// What a repetition asks, its delivery included.
    fn repeated(&self, upstream_request: &UpstreamRequest) -> Option<(CacheKey, Delivery)> {
        Some((self.asked?.question, Delivery::of(upstream_request.streams_to_client())))
    }

    /// The greatest age of a stored answer that may serve; `None` for any age.
    fn max_age(&self) -> Option<Duration> {
        let younger = self.unfit.map(|age| age.saturating_sub(Duration::from_millis(1)));
        self.policy.max_age().into_iter().chain(younger).min()
    }

    /// Whether a stored answer may serve.
    fn takes(&self, stored: &Stored) -> bool {
        let repetition = self.asked.map(|asked| stored.entry.repetition(asked));
        self.policy.takes(stored.age) && repetition.is_none_or(|repetition| repetition == Repetition::Same)
    }

    /// How many times `CACHE_MAX_ENTRY` the answer may have.
    fn size(&self) -> usize {
        if self.asked.is_some() { REPEATED } else { 1 }
    }
}

/// The turn that a session gets, without its answer.
#[derive(Debug)]
pub(crate) struct SessionCommit {
    pub(crate) key: SessionKey,
    /// The generation of the session that the turn read; `None` when the turn begins the session.
    pub(crate) generation: Option<u64>,
    /// The turn's id, where a repetition of the request must store the same turn.
    pub(crate) id: Option<String>,
    pub(crate) dialect: Dialect,
    pub(crate) system: Option<String>,
    pub(crate) messages: Vec<RawMessage>,
    /// The weight of everything that goes upstream with the turn.
    pub(crate) prompt: Weight,
}

/// The reply that the client gets.
pub(crate) enum Outcome {
    /// The whole reply: upstream's as it came, or our own.
    Whole(Original, Option<SessionStatus>),
    /// The reply streams from now on.
    Streaming(HeaderValue, Inlet),
    /// The whole reply of upstream's passes from now on.
    Passing(WholeHead, Inlet),
}

/// What the flight sends to the handler that waits for a head.
enum HeadReady {
    /// The flight is over for this client, and the entry writes the log line.
    Complete(Box<(Result<Outcome, Error>, ReplyNotes)>),
    /// The reply streams, and the flight writes the log line itself.
    Streaming { content_type: HeaderValue, notes: Box<ReplyNotes> },
    /// A whole reply passes, and the flight writes the log line itself.
    Passing { head: WholeHead, notes: Box<ReplyNotes> },
}

/// The head of a reply, which a flight will send.
struct PendingHead {
    head: oneshot::Receiver<HeadReady>,
    inlet: Inlet,
}

impl Flight {
    /// A flight that knows nothing of the fleet yet.
    pub(crate) fn new(
        request: Arc<RequestInfo>,
        upstream_request: UpstreamRequest,
        rendering: Rendering,
        cache_plan: Option<CachePlan>,
        session: Option<SessionCommit>,
        notes: ReplyNotes,
    ) -> Self {
        Self { request, upstream_request, rendering, cache_plan, session, prefetched: None, notes }
    }

    /// Joins a flight for the same answer, or starts one, and waits until the reply has a head. When the reply streams, the
    /// flight writes the log line itself.
    pub(crate) async fn launch<P: Platform>(
        mut self: Box<Self>,
        service: &Service<P>,
        notes: &mut ReplyNotes,
    ) -> Result<Outcome, Error> {
        let (receiver, lead) = self.join_or_lead(service)?;
        self.take_off(service, receiver, lead).wait(notes).await
    }

    /// Answers with a stored answer.
    pub(crate) async fn answer_from_cache<P: Platform>(
        mut self: Box<Self>,
        service: &Service<P>,
        notes: &mut ReplyNotes,
        replay: Replay,
        age: Duration,
    ) -> Result<Outcome, Error> {
        self.notes.cache = Some(CacheStatus::Hit);
        let (broadcast, receiver) = Broadcast::new(0, HeldBytes::default());
        let source = Provenance { cache: Some(CacheStatus::Hit), ..Provenance::default() };
        broadcast.open(Head::Found(replay, age), source);
        broadcast.end(Ok(()));
        if self.upstream_request.streams_to_client() {
            return self.take_off(service, receiver, None).wait(notes).await;
        }
        // The whole answer is here, so nothing outlives this request and no task is needed.
        let (outlet, presence, _inlet) = reply::channel();
        let Self { request, upstream_request, rendering, session, notes: begun, .. } = *self;
        let client = Client { outlet, presence, session, notes: begun };
        let mut subscriber = Subscriber::new(service, &upstream_request, &rendering, &request, client);
        let end = subscriber.listen(receiver).await;
        *notes = subscriber.notes;
        match end {
            SubscriberEnd::Complete(result) => result,
            SubscriberEnd::Streamed(_) => Err(broken("a whole answer came in pieces").into_error()),
        }
    }

    /// The key of the flight that keeps its answer by `cache_plan`.
    pub(crate) fn key(&self, cache_plan: &CachePlan) -> FlightKey {
        cache_plan.flight_key(&self.upstream_request)
    }

    /// A stored answer in the delivery of the request; `None` when the entry cannot be converted.
    pub(crate) fn replay(&self, stored: &Stored) -> Option<Replay> {
        replay::replay(&self.upstream_request, &stored.entry)
    }

    /// Joins the flight of another request in this process, or begins to lead one. A request that follows has no lead.
    fn join_or_lead<P: Platform>(&mut self, service: &Service<P>) -> Result<(Receiver, Option<Lead>), Error> {
        let limit = usize::try_from(service.config().cache.max_entry).unwrap_or(usize::MAX);
        let limit =
            limit.saturating_mul(UNPACKED * self.cache_plan.map_or(1, |cache_plan| cache_plan.size()));
        let (receiver, broadcast, guard) = match self.cache_plan {
            Some(cache_plan @ CachePlan { policy, is_shared: true, .. }) => {
                let key = JoinKey { flight: self.key(&cache_plan), max_age: policy.max_age() };
                let repeated = cache_plan.repeated(&self.upstream_request);
                match service.flights().join_or_lead(key, repeated, limit, || service.shared_account()) {
                    Joined::Lead(broadcast, receiver, guard) => (receiver, broadcast, Some(guard)),
                    Joined::Follow(receiver) => {
                        self.notes.cache = Some(CacheStatus::Coalesced);
                        return Ok((receiver, None));
                    }
                    Joined::Reused => return Err(Error::IdempotencyKeyReused),
                    Joined::InUse => return Err(Error::IdempotencyKeyInUse),
                }
            }
            cache_plan => {
                let limit = if cache_plan.is_some() { limit } else { 0 };
                let (broadcast, receiver) = Broadcast::new(limit, service.shared_account());
                (receiver, broadcast, None)
            }
        };
        let (cache_plan, prefetched) = (self.cache_plan, self.prefetched.take());
        Ok((receiver, Some(Lead { broadcast, guard, cache_plan, prefetched })))
    }

    /// Starts the task that brings the answer to this client, and leads the flight where there is a lead.
    fn take_off<P: Platform>(
        self: Box<Self>,
        service: &Service<P>,
        receiver: Receiver,
        lead: Option<Lead>,
    ) -> PendingHead {
        let (outlet, presence, inlet) = reply::channel();
        let (head_sender, head) = oneshot::channel();
        let task_service = service.clone();
        // The task is the largest future of a request, so it goes to the heap here and stays there.
        service.spawn_boxed(Box::pin(async move {
            let Self { request, upstream_request, rendering, session, notes, .. } = *self;
            let service = &task_service;
            let leader = lead.map(|lead| {
                let (report_sender, report) = oneshot::channel();
                let cache = notes.cache;
                let leader = Leader::new(service, &upstream_request, lead, &request, cache, report_sender);
                (leader, report)
            });
            let client = Client { outlet, presence, session, notes };
            let mut subscriber = Subscriber::new(service, &upstream_request, &rendering, &request, client);
            subscriber.head_sender = Some(head_sender);

            // Bring the answer, and hear it at the same time.
            let end = match leader {
                None => {
                    subscriber.follows = true;
                    subscriber.listen_until_shutdown(receiver).await
                }
                Some((mut leader, report)) => {
                    subscriber.own_report = Some(report);
                    let end = {
                        let leading = pin!(leader.fly());
                        let listening = pin!(subscriber.listen_until_shutdown(receiver));
                        join!(leading, listening).1
                    };
                    let LeaderReport { cache, upstream } = leader.report;
                    subscriber.notes.take_report(cache, upstream);
                    end
                }
            };

            // Write the log line, or let the handler do so.
            subscriber.close(end).await;
        }));
        PendingHead { head, inlet }
    }
}

impl PendingHead {
    /// Waits for the head, and takes over the notes as the flight left them.
    async fn wait(self, notes: &mut ReplyNotes) -> Result<Outcome, Error> {
        match self.head.await.map_err(|_| Error::ShuttingDown)? {
            HeadReady::Streaming { content_type, notes: begun } => {
                *notes = *begun;
                Ok(Outcome::Streaming(content_type, self.inlet))
            }
            HeadReady::Passing { head, notes: begun } => {
                *notes = *begun;
                Ok(Outcome::Passing(head, self.inlet))
            }
            HeadReady::Complete(complete) => {
                let (result, returned) = *complete;
                *notes = returned;
                result
            }
        }
    }
}
