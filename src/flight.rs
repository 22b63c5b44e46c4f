//! A flight: what brings one answer to all who wait for it, from take-off until its effects are stored.
//!
//! It runs as a task of its own. Its [`leader`] finds the answer or asks upstream and writes to a [`Broadcast`]; each client has
//! a [`subscriber`] that reads the broadcast. Whoever asks what is being asked in the same form joins the flight: in the same
//! process by its `FlightTable`, elsewhere through the shared store. When a reply is dropped its client has left; when all
//! have, upstream is dropped at once and nothing is stored.

mod failure;
mod follow;
mod leader;
mod publisher;
mod rendering;
mod replay;
mod subscriber;

use std::time::Duration;

use bytes::Bytes;
use futures::{channel::oneshot, join};
use http::HeaderValue;

use crate::{
    api::{
        error::{Error, Original},
        reply::{self, Inlet},
    },
    cache::{CacheKey, CachePolicy, CacheStatus, Delivery, Stored},
    fleet::broken,
    host::{Platform, Service},
    platform::Background,
    process::{
        Head, Provenance, Replay,
        broadcast::{Broadcast, Receiver},
        flight_table::{Joined, LeaderGuard},
    },
    request::Account,
    session::{RawMessage, SessionKey, SessionStatus},
    store::FlightKey,
    upstream::{FleetPrefetch, UpstreamRequest},
    wire::dialect::{Dialect, Weight},
};
use leader::Leader;
pub(crate) use rendering::{Pieces, Rendering};
use subscriber::{Subscriber, SubscriberEnd};

/// On a surface of server-sent events, how long upstream may stay silent until the client gets a head: from then on a
/// platform that tells of a departed client only when it is written to can tell.
const EARLY_HEAD: Duration = Duration::from_secs(10);
/// The pause between two comment lines after an early head.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const COMMENT: Bytes = Bytes::from_static(b": waiting for the model\n\n");

/// Everything a flight needs.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) order: UpstreamRequest,
    /// What the client gets.
    pub(crate) rendering: Rendering,
    /// How its answer is kept; `None` when it is not.
    pub(crate) cache_plan: Option<CachePlan>,
    pub(crate) session: Option<SessionCommit>,
    /// What was found out about the fleet ahead.
    pub(crate) prefetched: Option<FleetPrefetch>,
    pub(crate) account: Account,
}

/// How many times as large as what is kept of it an answer may be: packed, a stream shrinks to a tenth.
const UNPACKED: usize = 4;
/// How many times as large as others an answer may be that must not be asked for twice.
const REPEATED: usize = 4;

/// How an answer is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CachePlan {
    pub(crate) key: CacheKey,
    /// What is asked, where the key does not say that.
    pub(crate) question: Option<CacheKey>,
    pub(crate) ttl: Duration,
    pub(crate) policy: CachePolicy,
    /// Whether what is kept already may be the answer, and others may wait for the same.
    pub(crate) is_shared: bool,
}

impl CachePlan {
    /// What a flight for `order` brings, and in which form.
    fn flight_key(&self, order: &UpstreamRequest) -> FlightKey {
        FlightKey { key: self.key, form: Delivery::of(order.streams_to_client()) }
    }

    /// How large the answer may be, in `CACHE_MAX_ENTRY`.
    fn size(&self) -> usize {
        if self.question.is_some() { REPEATED } else { 1 }
    }
}

/// The turn that a session gets, without its answer.
#[derive(Debug)]
pub(crate) struct SessionCommit {
    pub(crate) key: SessionKey,
    /// Of the session that the turn read; `None` when there was none, which it begins.
    pub(crate) generation: Option<u64>,
    /// The turn's id, where a repetition must have the same.
    pub(crate) id: Option<String>,
    pub(crate) dialect: Dialect,
    pub(crate) system: Option<String>,
    pub(crate) messages: Vec<RawMessage>,
    /// Of all that goes upstream with it.
    pub(crate) prompt: Weight,
}

/// What the client can be told.
pub(crate) enum Outcome {
    /// The whole reply: upstream's as it came, or our own.
    Whole(Original, Option<SessionStatus>),
    /// The reply streams from now on.
    Streaming(HeaderValue, Inlet),
}

/// What the flight tells whoever waits for it; the account stays with the flight when the reply streams.
enum HeadReady {
    Complete(Box<(Result<Outcome, Error>, Account)>),
    Streaming { content_type: HeaderValue, account: Box<Account> },
}

impl Flight {
    /// Takes part in a flight for the same answer, or starts one, and waits until the client can be told something. When
    /// the reply streams, the flight closes the account itself.
    pub(crate) async fn launch<P: Platform>(
        mut self,
        service: &Service<P>,
        account: &mut Account,
    ) -> Result<Outcome, Error> {
        let limit = usize::try_from(service.config().cache.max_entry).unwrap_or(usize::MAX);
        let limit =
            limit.saturating_mul(UNPACKED * self.cache_plan.map_or(1, |cache_plan| cache_plan.size()));
        let (reader, lead) = match self.cache_plan {
            Some(cache_plan @ CachePlan { question, policy, is_shared: true, .. }) => {
                let key = (self.key(&cache_plan), policy.max_age());
                match service.flights().join_or_lead(key, question, limit) {
                    Joined::Lead(broadcast, reader, guard) => (reader, Some((broadcast, Some(guard)))),
                    Joined::Follow(reader) => {
                        self.account.cache = Some(CacheStatus::Coalesced);
                        (reader, None)
                    }
                    Joined::Conflict => return Err(Error::IdempotencyKeyReused),
                }
            }
            cache_plan => {
                let (broadcast, reader) = Broadcast::new(if cache_plan.is_some() { limit } else { 0 });
                (reader, Some((broadcast, None)))
            }
        };
        self.spawn(service, account, reader, lead).await
    }

    /// Answers with what was stored.
    pub(crate) async fn answer_from_cache<P: Platform>(
        mut self,
        service: &Service<P>,
        account: &mut Account,
        (replayed, age): (Replay, Duration),
    ) -> Result<Outcome, Error> {
        self.account.cache = Some(CacheStatus::Hit);
        let (broadcast, reader) = Broadcast::new(0);
        let source = Provenance { cache: Some(CacheStatus::Hit), ..Provenance::default() };
        broadcast.open(Head::Found(replayed, age), source);
        broadcast.end(Ok(()));
        if self.order.streams_to_client() {
            return self.spawn(service, account, reader, None).await;
        }
        // All of it is there: nothing goes on once the client has it, and nothing needs a task.
        let (outlet, presence, _inlet) = reply::channel();
        let Self { order, rendering, session, account: begun, .. } = self;
        let mut subscriber = Subscriber::new(service, &order, &rendering, (outlet, presence), session, begun);
        let end = Box::pin(subscriber.listen(reader)).await;
        *account = subscriber.account;
        match end {
            SubscriberEnd::Complete(result) => result,
            SubscriberEnd::Streamed(_) => Err(broken("a whole answer came in pieces").into_error()),
        }
    }

    /// What is asked for, where it is kept like this.
    pub(crate) fn key(&self, cache_plan: &CachePlan) -> FlightKey {
        cache_plan.flight_key(&self.order)
    }

    /// What was stored, in the form that is asked for; `None` where it cannot be built.
    pub(crate) fn replay(&self, stored: &Stored) -> Option<Replay> {
        replay::replay(&self.order, &stored.entry)
    }

    async fn spawn<P: Platform>(
        self,
        service: &Service<P>,
        account: &mut Account,
        reader: Receiver,
        lead: Option<(Broadcast, Option<LeaderGuard>)>,
    ) -> Result<Outcome, Error> {
        let (outlet, presence, inlet) = reply::channel();
        let (head_sender, arrival) = oneshot::channel();
        let task_service = service.clone();
        service.spawn(async move {
            let Self { order, rendering, cache_plan, session, prefetched, account } = self;
            let service = &task_service;
            let follows = lead.is_none();
            let (bringing, brought) = oneshot::channel();
            let lead = lead.map(|guard| {
                Leader::new(service, &order, guard, cache_plan, prefetched, (account.clone(), bringing))
            });
            let mut subscriber =
                Subscriber::new(service, &order, &rendering, (outlet, presence), session, account);
            (subscriber.follows, subscriber.head_sender) = (follows, Some(head_sender));
            subscriber.brought = lead.as_ref().map(|_| brought);
            let end = match lead {
                None => subscriber.listen(reader).await,
                Some(lead) => {
                    let (brought, end) = join!(Box::pin(lead.fly()), Box::pin(subscriber.listen(reader)));
                    subscriber.account.absorb(brought);
                    end
                }
            };
            subscriber.close(end).await;
        });
        match arrival.await.map_err(|_| Error::ShuttingDown)? {
            HeadReady::Streaming { content_type, account: begun } => {
                *account = *begun;
                account.handed_over = true;
                Ok(Outcome::Streaming(content_type, inlet))
            }
            HeadReady::Complete(complete) => {
                let (result, returned) = *complete;
                *account = returned;
                result
            }
        }
    }
}
