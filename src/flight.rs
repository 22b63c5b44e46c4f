//! A flight: one upstream call with its failover, from take-off until its effects are stored.
//!
//! It runs as a task of its own and owns the upstream body. Its passenger is the reply: when the reply is dropped,
//! the client has left, and the flight drops upstream at once and stores nothing. Until the first event of an answer
//! is there nothing has reached the client, and a failed attempt may be followed by another; after it an error is the
//! last event. What an answer changes is stored before its terminator is handed over.

mod answer;
mod attempt;
mod destination;
mod dispatch;
mod orphan;
mod place;
mod rendering;

use std::{
    borrow::Cow,
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    channel::oneshot,
    future::{Either, OptionFuture, poll_immediate, select},
    join,
};
use http::{HeaderValue, Method};

use crate::{
    account::Account,
    cache::{CacheKey, CachedAnswer},
    error::{Error, Original},
    fleet::{AttemptFailure, BackendHost, Failover, Verdict},
    handle::random_id,
    host::{Host, Limits},
    journal::Event,
    metrics::Attempt,
    reply::{self, ClientLeft, Inlet, Outlet, Presence},
    session::{PromptCount, RawMessage, SessionKey, SessionStatus, Turn},
    store::{ResponseCache, Sessions},
    wire::{
        dialect::{Dialect, Weight},
        framer,
        protocol::Protocol,
    },
};
use answer::{Events, Heard, Opened};
pub(crate) use destination::Destination;
use dispatch::{Dispatch, Step};
pub use orphan::Orphans;
use place::Place;
pub(crate) use place::update_facts;
pub(crate) use rendering::{Pieces, Rendering};

/// On a surface of server-sent events, how long upstream may stay silent until the client gets a head: from then on a
/// platform that tells of a departed client only when it is written to can tell.
const EARLY_HEAD: Duration = Duration::from_secs(10);
/// The pause between two comment lines after an early head.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const COMMENT: Bytes = Bytes::from_static(b": waiting for the model\n\n");

/// What is asked upstream.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) method: Method,
    pub(crate) path: Cow<'static, str>,
    pub(crate) body: Bytes,
    /// The model, as the caller spelled it.
    pub(crate) model: Option<String>,
    /// What decides where it goes.
    pub(crate) destination: Destination,
    /// How a model's answer is to be read; `None` where no model speaks.
    pub(crate) protocol: Option<Protocol>,
    /// Whether the answer was asked for in pieces.
    pub(crate) streams: bool,
    /// What the client gets.
    pub(crate) rendering: Rendering,
}

impl Order {
    fn limits<H: Host>(&self, host: &H) -> Limits {
        if self.streams { host.config().limits } else { host.config().whole_limits() }
    }
}

/// Everything a flight needs.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) order: Order,
    pub(crate) commit: Commit,
    pub(crate) account: Account,
    /// Whether the request names a session whose store is down, so that its turn is lost.
    pub(crate) forgetful: bool,
}

/// What is stored once the answer is complete.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub(crate) cache: Option<CacheKey>,
    pub(crate) session: Option<SessionCommit>,
}

impl Commit {
    fn is_empty(&self) -> bool {
        self.cache.is_none() && self.session.is_none()
    }
}

/// The turn that a session gets, without its answer.
#[derive(Debug)]
pub(crate) struct SessionCommit {
    pub(crate) key: SessionKey,
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
    Streaming { content_type: HeaderValue, backend: Option<BackendHost>, routes: Vec<String> },
}

impl Flight {
    /// Starts the flight and waits until the client can be told something. When the reply streams, the flight closes
    /// the account itself.
    pub(crate) async fn launch<H: Host>(self, host: &H, account: &mut Account) -> Result<Landing, Error> {
        let (outlet, presence, inlet) = reply::channel();
        let (door, arrival) = oneshot::channel();
        let task_host = host.clone();
        host.spawn(async move { self.run(&task_host, door, outlet, presence).await });
        match arrival.await.map_err(|_| Error::ShuttingDown)? {
            Arrival::Streaming { content_type, backend, routes } => {
                account.host = backend;
                account.routes = routes;
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

    async fn run<H: Host>(
        self,
        host: &H,
        door: oneshot::Sender<Arrival>,
        mut outlet: Outlet,
        mut presence: Presence,
    ) {
        let Self { order, commit, mut account, forgetful } = self;
        let mut door = Some(door);
        let keeps = !commit.is_empty() || order.rendering.is_own();
        let opened = {
            let journey = Box::pin(fly(host, &order, &mut account, &mut presence));
            if order.rendering.speaks_early(&order) {
                patiently(host, journey, &mut door, &mut outlet).await
            } else {
                journey.await
            }
        };
        let (opened, place) = match opened {
            Ok((opened, place)) => (Ok(opened), Some(place)),
            Err(error) => (Err(error), None),
        };
        let result = match opened {
            Ok(Opened::Stream { content_type, first, events }) => {
                if let Some(door) = door.take() {
                    let (backend, routes) = (account.host.clone(), account.routes.clone());
                    // Whoever does not listen any more has left, which shows below.
                    let _ = door.send(Arrival::Streaming { content_type, backend, routes });
                }
                let heard = Heard::new(keeps);
                let mut stream = Stream { host, order: &order, outlet, presence, heard, forgetful, place };
                let (end, verdict) = stream.relay(first, events, commit, &mut account).await;
                if let Some(place) = stream.place {
                    place.settle(host, verdict).await;
                }
                account.close(host, end.as_ref().map(|()| http::StatusCode::OK)).await;
                return;
            }
            Ok(Opened::Spoken(mut heard)) => {
                let answer = heard.answer();
                let landed = land(host, &answer, commit, &mut account);
                let session = conclude(host, landed, place).await;
                Ok(Landing::Spoken(answer, session))
            }
            Ok(Opened::Whole(original)) => {
                let landed = land_whole(host, &order, &original, commit, &mut account);
                let session = conclude(host, landed, place).await;
                Ok(Landing::Whole(original, session))
            }
            Err(error) => Err(error),
        };
        if let Some(door) = door.take() {
            // The client may have left while the answer was stored.
            if let Err(Arrival::Complete(complete)) =
                door.send(Arrival::Complete(Box::new((result, account))))
            {
                complete.1.close(host, Err(&Error::ClientClosed)).await;
            }
            return;
        }
        // The head is out already, so that only an event can tell.
        let error = match result {
            Err(error) => error,
            Ok(_) => Error::UpstreamProtocol { detail: "the answer is no event stream".to_owned() },
        };
        if error != Error::ClientClosed {
            let _ = outlet.send(order.rendering.failure(&error, order.protocol, &account.request_id)).await;
        }
        account.close(host, Err(&error)).await;
    }
}

/// Flies on while the client gets a head and comment lines, once upstream has been silent for [`EARLY_HEAD`].
async fn patiently<H: Host, T>(
    host: &H,
    mut journey: Pin<Box<impl Future<Output = T>>>,
    door: &mut Option<oneshot::Sender<Arrival>>,
    outlet: &mut Outlet,
) -> T {
    let mut pause = Box::pin(host.sleep(EARLY_HEAD));
    loop {
        match select(journey.as_mut(), pause).await {
            Either::Left((output, _)) => return output,
            Either::Right(((), _)) => {
                if let Some(door) = door.take() {
                    let (content_type, routes) = (reply::EVENT_STREAM, Vec::new());
                    let _ = door.send(Arrival::Streaming { content_type, backend: None, routes });
                }
                outlet.offer(COMMENT);
                pause = Box::pin(host.sleep(KEEP_ALIVE));
            }
        }
    }
}

async fn fly<H: Host>(
    host: &H,
    order: &Order,
    account: &mut Account,
    presence: &mut Presence,
) -> Result<(Opened<H::Body>, Box<Place>), Error> {
    let mut dispatch = Dispatch::new(host, order);
    let mut failover = Failover::default();
    let mut failed = Vec::new();
    let mut missing = None;
    while failover.may_go_on() {
        let step = presence.during(dispatch.next(&failover, account)).await;
        let Ok(step) = step else {
            dispatch.leave().await;
            return Err(Error::ClientClosed);
        };
        let place = match step {
            Step::Go(place) => place,
            Step::Refuse(error) => return Err(error),
            Step::None(error) => {
                missing = error;
                break;
            }
        };
        let backend = place.backend.clone();
        // Counted as given up until the attempt has an end, for a client may leave at any time.
        let attempt = Attempt {
            host: backend.url().to_owned(),
            outcome: "cancelled",
            cold: place.cold && place.is_taken(),
        };
        account.attempts.push(attempt);
        let (outcome, place) = attempt::attempt(host, &dispatch, order, presence, place, account).await;
        if let Some(attempt) = account.attempts.last_mut() {
            attempt.outcome = outcome.as_ref().map_or_else(AttemptFailure::word, |_| "ok");
        }
        // Without one the request is seen through although its client left.
        let Some(place) = place else { return Err(Error::ClientClosed) };
        match outcome {
            Ok(opened) => {
                for failed in failed {
                    Place::blame(&failed, host).await;
                }
                account.host = Some(backend);
                account.first_token = place.first_byte().filter(|_| order.streams && place.is_taken());
                if let Opened::Spoken(heard) = &opened {
                    account.tokens = heard.tokens();
                    account.speed = heard.speed(place.since_first_byte(host));
                }
                return Ok((opened, place));
            }
            Err(failure) => {
                if failure == AttemptFailure::ClientLeft {
                    place.settle(host, Verdict::Neutral).await;
                    return Err(Error::ClientClosed);
                }
                host.record(&Event::AttemptFailed {
                    request_id: &account.request_id,
                    host: backend.url(),
                    outcome: failure.word(),
                    detail: &failure.detail(),
                });
                place.settle(host, failure.verdict()).await;
                // Its own words may be what the client reads in the end.
                if matches!(failure, AttemptFailure::Rejected { .. } | AttemptFailure::Failed { .. }) {
                    account.host = Some(backend.clone());
                }
                if matches!(failure, AttemptFailure::Failed { .. }) {
                    failed.push(backend);
                } else if failure == AttemptFailure::NotFound {
                    dispatch.forget(&backend).await;
                }
                failover.failed(failure);
            }
        }
    }
    Err(failover.verdict(missing))
}

/// An answer on its way to the client, event by event.
struct Stream<'a, H> {
    host: &'a H,
    order: &'a Order,
    outlet: Outlet,
    presence: Presence,
    heard: Heard,
    forgetful: bool,
    /// `None` once it was given back.
    place: Option<Box<Place>>,
}

impl<H: Host> Stream<'_, H> {
    async fn relay(
        &mut self,
        first: Bytes,
        mut events: Events<H::Body>,
        commit: Commit,
        account: &mut Account,
    ) -> (Result<(), Error>, Verdict) {
        let end = self.relay_events(first, &mut events, commit, account).await;
        account.tokens = self.heard.tokens();
        if let Some(attempt) = account.attempts.last_mut() {
            attempt.outcome = end.as_ref().map_or_else(AttemptFailure::word, |()| "ok");
        }
        let Err(failure) = end else {
            events.drain(self.host);
            return (Ok(()), Verdict::Answered);
        };
        let verdict = failure.verdict();
        // An event that says so itself was handed over as it came.
        let is_told = matches!(failure, AttemptFailure::Failed { .. }) && !self.order.rendering.is_own();
        let error = failure.into_error();
        if !is_told && error != Error::ClientClosed {
            let event = self.order.rendering.failure(&error, self.order.protocol, &account.request_id);
            let _ = self.hand_over(event).await;
        }
        (Err(error), verdict)
    }

    async fn relay_events(
        &mut self,
        first: Bytes,
        events: &mut Events<H::Body>,
        commit: Commit,
        account: &mut Account,
    ) -> Result<(), AttemptFailure> {
        let mut event = first;
        loop {
            let data = framer::data(events.framing(), &event);
            if let (Some(data), Some(protocol)) = (&data, self.order.protocol) {
                let chunk = protocol.read(data).ok_or_else(|| broken(NO_EVENT))?;
                self.heard.add(&chunk).map_err(broken)?;
                if let Some(error) = chunk.error {
                    let failure = AttemptFailure::told(&error);
                    if !self.order.rendering.is_own() {
                        self.hand_over(event).await?;
                    }
                    return Err(failure);
                }
                if chunk.end {
                    let since = self.place.as_ref().and_then(|place| place.since_first_byte(self.host));
                    account.speed = self.heard.speed(since);
                    let answer = self.heard.answer();
                    let landed = land(self.host, &answer, commit, account);
                    let session = conclude(self.host, landed, self.place.take()).await;
                    let session = session.or_else(|| self.forgetful.then_some(SessionStatus::Unavailable));
                    let last = self.order.rendering.last(event.clone(), &chunk, &answer, account, session);
                    return Ok(self.hand_over(last).await?);
                }
                if events.has_ended() {
                    return Err(broken(UNFINISHED));
                }
                if let Some(piece) = self.order.rendering.piece(&event, &chunk) {
                    self.hand_over(piece).await?;
                }
            } else if !self.order.rendering.is_own() {
                self.hand_over(event).await?;
            }
            let next = self.presence.during(events.next()).await??;
            event = next.ok_or_else(|| broken(UNFINISHED))?;
        }
    }

    /// Hands over one piece; a client that reads nothing for too long counts as gone.
    async fn hand_over(&mut self, piece: Bytes) -> Result<(), ClientLeft> {
        let mut sending = pin!(self.outlet.send(piece));
        if let Some(sent) = poll_immediate(sending.as_mut()).await {
            return sent;
        }
        match select(sending, pin!(self.host.sleep(self.host.config().client_timeout))).await {
            Either::Left((sent, _)) => sent,
            Either::Right(((), _)) => Err(ClientLeft),
        }
    }
}

/// What is wrong with an event that is no JSON.
const NO_EVENT: &str = "an event of the answer is none";
/// What is wrong with an answer that ends too soon.
const UNFINISHED: &str = "the answer ended without its terminator";

fn broken(detail: &str) -> AttemptFailure {
    AttemptFailure::Protocol(detail.to_owned())
}

/// Stores what an answer changes and gives its place back, at the same time, before the client has the end of it: whoever
/// reads that and goes on at once must find the place free.
async fn conclude<H: Host, T>(host: &H, landed: impl Future<Output = T>, place: Option<Box<Place>>) -> T {
    let settled = place.map(|place| place.settle(host, Verdict::Answered));
    join!(landed, OptionFuture::from(settled)).0
}

/// Stores what upstream's whole reply changes.
async fn land_whole<H: Host>(
    host: &H,
    order: &Order,
    original: &Original,
    commit: Commit,
    account: &mut Account,
) -> Option<SessionStatus> {
    let chunk = order.protocol?.read_whole(&original.body)?;
    account.tokens = chunk.tokens;
    if commit.is_empty() || !chunk.end {
        return None;
    }
    let mut heard = Heard::new(true);
    heard.add(&chunk).ok()?;
    land(host, &heard.answer(), commit, account).await
}

/// Stores what the answer changes. An empty answer changes nothing.
pub(crate) async fn land<H: Host>(
    host: &H,
    answer: &CachedAnswer,
    commit: Commit,
    account: &mut Account,
) -> Option<SessionStatus> {
    if answer.is_empty() {
        return None;
    }
    let (store, config) = (host.store(), host.config());
    let Commit { cache, session } = commit;
    let put = cache.as_ref().map(|key| store.put_answer(key, answer, config.cache_ttl));
    let turn = session.map(|SessionCommit { key, dialect, system, mut messages, prompt }| {
        messages.push(answer.message(dialect));
        let prompt = PromptCount::of(answer.tokens.prompt, prompt);
        (key, Turn { id: random_id(host), dialect, system, messages, prompt })
    });
    let append = turn
        .as_ref()
        .map(|(key, turn)| store.append_turn(key, turn, config.session_ttl, config.history.turns()));
    let (put, append) = join!(OptionFuture::from(put), OptionFuture::from(append));
    if let Some(result) = put {
        account.tolerate(host, "cache_put", result);
    }
    append.map(|result| match account.tolerate(host, "session_append", result) {
        Some(()) => SessionStatus::Stored,
        None => SessionStatus::Unavailable,
    })
}
