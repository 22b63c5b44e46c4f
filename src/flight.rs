//! A flight: what brings one answer to all who wait for it, from take-off until its effects are stored.
//!
//! It runs as a task of its own. Its [`lead`] finds the answer or asks upstream and writes to a [`feed`]; each client has
//! a [`passenger`] that reads the feed. Whoever asks what is being asked in the same form joins the flight: in the same
//! process by its [`board`], elsewhere through the shared store. When a reply is dropped its client has left; when all
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
    cache::{CacheKey, CacheStatus, CachedAnswer, Form, Stored, Usage},
    fleet::broken,
    host::Host,
    process::{
        Opening, Replay, Source,
        broadcast::{Feed, Reader},
        flight_table::{Boarding, Seat},
    },
    request::Account,
    session::{RawMessage, SessionKey, SessionStatus},
    store::FlightKey,
    upstream::{Foresight, Order},
    wire::dialect::{Dialect, Weight},
};
use leader::Lead;
pub(crate) use rendering::{Pieces, Rendering};
use subscriber::{Passenger, PassengerEnd};

/// On a surface of server-sent events, how long upstream may stay silent until the client gets a head: from then on a
/// platform that tells of a departed client only when it is written to can tell.
const EARLY_HEAD: Duration = Duration::from_secs(10);
/// The pause between two comment lines after an early head.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const COMMENT: Bytes = Bytes::from_static(b": waiting for the model\n\n");

/// Everything a flight needs.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) order: Order,
    /// What the client gets.
    pub(crate) rendering: Rendering,
    /// How its answer is kept; `None` when it is not.
    pub(crate) keep: Option<Keep>,
    pub(crate) session: Option<SessionCommit>,
    /// What was found out about the fleet ahead.
    pub(crate) foresight: Option<Foresight>,
    pub(crate) account: Account,
}

/// How many times as large as what is kept of it an answer may be: packed, a stream shrinks to a tenth.
const UNPACKED: usize = 4;
/// How many times as large as others an answer may be that must not be asked for twice.
const REPEATED: usize = 4;

/// How an answer is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    pub(crate) key: CacheKey,
    /// What is asked, where the key does not say that.
    pub(crate) question: Option<CacheKey>,
    pub(crate) ttl: Duration,
    pub(crate) usage: Usage,
    /// Whether what is kept already may be the answer, and others may wait for the same.
    pub(crate) is_shared: bool,
}

impl Keep {
    /// What a flight for `order` brings, and in which form.
    fn flight_key(&self, order: &Order) -> FlightKey {
        FlightKey { key: self.key, form: Form::of(order.streams_to_client()) }
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
    pub(crate) origin: Option<u64>,
    /// The turn's id, where a repetition must have the same.
    pub(crate) id: Option<String>,
    pub(crate) dialect: Dialect,
    pub(crate) system: Option<String>,
    pub(crate) messages: Vec<RawMessage>,
    /// Of all that goes upstream with it.
    pub(crate) prompt: Weight,
}

/// What the client can be told.
pub(crate) enum Landing {
    /// The whole answer, added up.
    Spoken(CachedAnswer, Option<SessionStatus>),
    /// Upstream's whole reply as it came.
    Whole(Original, Option<SessionStatus>),
    /// The reply streams from now on.
    Streaming(HeaderValue, Inlet),
}

/// What the flight tells whoever waits for it; the account stays with the flight when the reply streams.
enum Arrival {
    Complete(Box<(Result<Landing, Error>, Account)>),
    Streaming { content_type: HeaderValue, account: Box<Account> },
}

impl Flight {
    /// Takes part in a flight for the same answer, or starts one, and waits until the client can be told something. When
    /// the reply streams, the flight closes the account itself.
    pub(crate) async fn launch<H: Host>(mut self, host: &H, account: &mut Account) -> Result<Landing, Error> {
        let limit = usize::try_from(host.config().cache_max_entry).unwrap_or(usize::MAX);
        let limit = limit.saturating_mul(UNPACKED * self.keep.map_or(1, |keep| keep.size()));
        let (reader, lead) = match self.keep {
            Some(keep @ Keep { question, usage, is_shared: true, .. }) => {
                let gate = (self.key(&keep), usage.max_age());
                match host.flights().board_flight(gate, question, limit) {
                    Boarding::Lead(feed, reader, seat) => (reader, Some((feed, Some(seat)))),
                    Boarding::Follow(reader) => {
                        self.account.cache = Some(CacheStatus::Coalesced);
                        (reader, None)
                    }
                    Boarding::Conflict => return Err(Error::IdempotencyKeyReused),
                }
            }
            keep => {
                let (feed, reader) = Feed::new(if keep.is_some() { limit } else { 0 });
                (reader, Some((feed, None)))
            }
        };
        self.depart(host, account, reader, lead).await
    }

    /// Answers with what was stored.
    pub(crate) async fn land<H: Host>(
        mut self,
        host: &H,
        account: &mut Account,
        (replayed, age): (Replay, Duration),
    ) -> Result<Landing, Error> {
        self.account.cache = Some(CacheStatus::Hit);
        let (feed, reader) = Feed::new(0);
        let source = Source { cache: Some(CacheStatus::Hit), ..Source::default() };
        feed.open(Opening::Found(replayed, age), source);
        feed.end(Ok(()));
        if self.order.streams_to_client() {
            return self.depart(host, account, reader, None).await;
        }
        // All of it is there: nothing goes on once the client has it, and nothing needs a task.
        let (outlet, presence, _inlet) = reply::channel();
        let Self { order, rendering, session, account: begun, .. } = self;
        let mut passenger = Passenger::new(host, &order, &rendering, (outlet, presence), session, begun);
        let end = Box::pin(passenger.listen(reader)).await;
        *account = passenger.account;
        match end {
            PassengerEnd::Complete(result) => result,
            PassengerEnd::Streamed(_) => Err(broken("a whole answer came in pieces").into_error()),
        }
    }

    /// What is asked for, where it is kept like this.
    pub(crate) fn key(&self, keep: &Keep) -> FlightKey {
        keep.flight_key(&self.order)
    }

    /// What was stored, in the form that is asked for; `None` where it cannot be built.
    pub(crate) fn replay(&self, stored: &Stored) -> Option<Replay> {
        replay::replay(&self.order, &stored.entry)
    }

    async fn depart<H: Host>(
        self,
        host: &H,
        account: &mut Account,
        reader: Reader,
        lead: Option<(Feed, Option<Seat>)>,
    ) -> Result<Landing, Error> {
        let (outlet, presence, inlet) = reply::channel();
        let (door, arrival) = oneshot::channel();
        let task_host = host.clone();
        host.spawn(async move {
            let Self { order, rendering, keep, session, foresight, account } = self;
            let host = &task_host;
            let follows = lead.is_none();
            let (bringing, brought) = oneshot::channel();
            let lead =
                lead.map(|seat| Lead::new(host, &order, seat, keep, foresight, (account.clone(), bringing)));
            let known_errors = account.store_errors.len();
            let mut passenger =
                Passenger::new(host, &order, &rendering, (outlet, presence), session, account);
            (passenger.follows, passenger.door) = (follows, Some(door));
            passenger.brought = lead.as_ref().map(|_| (brought, known_errors));
            let end = match lead {
                None => passenger.listen(reader).await,
                Some(lead) => {
                    let (brought, end) = join!(Box::pin(lead.fly()), Box::pin(passenger.listen(reader)));
                    passenger.account.absorb(brought, known_errors);
                    end
                }
            };
            passenger.close(end).await;
        });
        match arrival.await.map_err(|_| Error::ShuttingDown)? {
            Arrival::Streaming { content_type, account: begun } => {
                *account = *begun;
                account.handed_over = true;
                Ok(Landing::Streaming(content_type, inlet))
            }
            Arrival::Complete(complete) => {
                let (result, returned) = *complete;
                *account = returned;
                result
            }
        }
    }
}
