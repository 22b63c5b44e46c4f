//! A subscriber: one client's part in a flight, from the head of its reply until its turn is stored and its last byte is
//! handed over.
//!
//! A subscriber never asks upstream. Before the head of its reply a failure becomes the reply's status; after it a failure
//! becomes the last event. The turn of its session is stored before its terminator is handed over.

mod passing;
mod relay;

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures::{channel::oneshot, future::OptionFuture, join};
use http::{HeaderValue, StatusCode};

use super::{
    COMMENT, EARLY_HEAD, HeadReady, KEEP_ALIVE, Outcome, Rendering, SessionCommit, leader::LeaderReport,
    replay::added_up,
};
use crate::{
    api::{
        error::{Error, Original},
        reply::{self, ClientLeft, Outlet, Presence},
    },
    cache::{CacheStatus, CachedAnswer},
    fleet::broken,
    host::{Platform, Service},
    platform::{Timer, race, random_id},
    process::{
        Head, Provenance, Replay,
        broadcast::{Broadcast, Receiver},
    },
    request::{CountState, ReplyNotes, RequestInfo, StoreAccess},
    session::{PromptCount, SessionStatus, Turn},
    upstream::{UpstreamRequest, answer::Accumulator},
};

/// How long a process that ends waits until a client takes the last event.
const LAST_EVENT: Duration = Duration::from_millis(500);

/// What a flight knows of one client.
pub(super) struct Client {
    pub(super) outlet: Outlet,
    pub(super) presence: Presence,
    pub(super) session: Option<SessionCommit>,
    pub(super) notes: ReplyNotes,
}

/// One client of a flight.
pub(super) struct Subscriber<'a, P: Platform> {
    service: &'a Service<P>,
    upstream_request: &'a UpstreamRequest,
    rendering: &'a Rendering,
    outlet: Outlet,
    presence: Presence,
    session: Option<SessionCommit>,
    /// Whether it waits for the answer to another request.
    pub(super) follows: bool,
    request: &'a RequestInfo,
    pub(super) notes: ReplyNotes,
    /// What the leader in the task of this subscriber reports of a complete answer, as soon as there is one.
    pub(super) own_report: Option<oneshot::Receiver<LeaderReport>>,
    /// Tells the handler that the reply has a head; `None` once it is told, and where the handler itself listens.
    pub(super) head_sender: Option<oneshot::Sender<HeadReady>>,
    /// Whether the client has the head of a whole reply in pieces.
    is_passing: bool,
    /// Whether the terminator was handed over, or is being.
    has_ended: bool,
}

/// What becomes of a turn whose answer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TurnFate {
    /// It is stored, unless its answer is empty.
    Kept,
    /// It is not stored, because its answer is too long.
    Lost,
    /// It is not stored, because its answer is none that a conversation should go on from.
    Dropped,
}

/// How the part of one client ended.
pub(super) enum SubscriberEnd {
    /// The reply is still to be made.
    Complete(Result<Outcome, Error>),
    /// The reply streamed to its end.
    Streamed(Result<(), Error>),
}

impl<'a, P: Platform> Subscriber<'a, P> {
    /// The subscriber of the client whose request began the flight; it follows nobody.
    pub(super) fn new(
        service: &'a Service<P>,
        upstream_request: &'a UpstreamRequest,
        rendering: &'a Rendering,
        request: &'a RequestInfo,
        client: Client,
    ) -> Self {
        let Client { outlet, presence, session, notes } = client;
        Self {
            service,
            upstream_request,
            rendering,
            outlet,
            presence,
            session,
            follows: false,
            request,
            notes,
            own_report: None,
            head_sender: None,
            is_passing: false,
            has_ended: false,
        }
    }

    /// Listens, unless the process ends first: then the client is told so.
    pub(super) async fn listen_until_shutdown(&mut self, receiver: Receiver) -> SubscriberEnd {
        let service = self.service;
        let heard = race! {
            end = self.listen(receiver) => Some(end),
            () = service.shutdown().begun() => None,
        };
        match heard {
            Some(end) => end,
            None if self.has_ended => SubscriberEnd::Streamed(Ok(())),
            // The reply has no head yet, or has had none but the early one.
            None => SubscriberEnd::Complete(Err(Error::ShuttingDown)),
        }
    }

    /// Hears the flight to its end, or until the client leaves. The receiver is dropped then, which tells the leader.
    pub(super) async fn listen(&mut self, receiver: Receiver) -> SubscriberEnd {
        let receiver = &receiver;
        // Wait for the head of the answer.
        let (head, source) = match self.head(receiver).await {
            Ok(head) => head,
            Err(ClientLeft) => return SubscriberEnd::Complete(Err(Error::ClientClosed)),
        };
        self.note_source(source);

        // Make a whole reply of a whole answer.
        let streaming = match head {
            Head::Failed(error) => Err(SubscriberEnd::Complete(Err(error))),
            Head::Stream { content_type } => Ok((content_type, None)),
            Head::Spoken { answer, is_stopped } => {
                Err(self.spoken(receiver, CachedAnswer::clone(&answer), is_stopped).await)
            }
            Head::Whole(original) => Err(self.whole(receiver, original).await),
            Head::Passing(head) => Err(self.pass(receiver, head).await),
            Head::Found(replayed, age) => self.found(receiver, replayed, age).await,
        };

        // Relay the events of a stream.
        match streaming {
            Ok((content_type, replayed)) => {
                self.announce_stream(content_type);
                SubscriberEnd::Streamed(self.relay(replayed.as_ref().unwrap_or(receiver)).await)
            }
            Err(end) => end,
        }
    }

    /// Notes where the answer comes from.
    fn note_source(&mut self, source: Provenance) {
        let Provenance { cache, backend, routes } = source;
        self.notes.cache = match (self.follows, cache) {
            (true, Some(CacheStatus::Miss | CacheStatus::Bypass | CacheStatus::Coalesced)) => {
                Some(CacheStatus::Coalesced)
            }
            (_, cache) => cache.or(self.notes.cache),
        };
        self.notes.upstream.host = backend;
        // The leader's client may be allowed to see the plans where this client is not.
        self.notes.upstream.routes = if self.request.explains { routes } else { Vec::new() };
    }

    /// Tells the handler that the reply streams from now on.
    fn announce_stream(&mut self, content_type: HeaderValue) {
        let content_type = self.rendering.content_type().unwrap_or(content_type);
        if let Some(head_sender) = self.head_sender.take() {
            let notes = Box::new(self.notes.clone());
            // This fails when the client has left, which the subscriber notices by itself.
            let _ = head_sender.send(HeadReady::Streaming { content_type, notes });
        }
    }

    /// The head of the answer. After [`EARLY_HEAD`] the client of a stream gets a head and comment lines meanwhile.
    async fn head(&mut self, receiver: &Receiver) -> Result<(Head, Provenance), ClientLeft> {
        let speaks_early = self.rendering.speaks_early(self.upstream_request);
        let mut head = pin!(receiver.head());
        let mut pause = pin!(self.service.sleep(EARLY_HEAD));
        loop {
            let found = race! {
                found = head.as_mut() => Ok(Some(found)),
                () = pause.as_mut() => Ok(None),
                () = self.presence.left() => Err(ClientLeft),
            };
            match found? {
                Some(found) => return Ok(found),
                None if speaks_early => {
                    self.announce_stream(reply::EVENT_STREAM);
                    self.outlet.offer(COMMENT);
                    pause.set(self.service.sleep(KEEP_ALIVE));
                }
                None => return self.presence.during(head).await,
            }
        }
    }

    /// The whole reply of `/chat`.
    async fn spoken(&mut self, receiver: &Receiver, answer: CachedAnswer, is_stopped: bool) -> SubscriberEnd {
        let fate = if is_stopped { TurnFate::Dropped } else { TurnFate::Kept };
        let (status, ended) = self.conclude(receiver, &answer, fate).await;
        let reply = || self.rendering.whole(&answer, is_stopped, self.notes.left_out);
        SubscriberEnd::Complete(ended.map(|()| Outcome::Whole(reply(), status)))
    }

    /// Upstream's whole reply.
    async fn whole(&mut self, receiver: &Receiver, original: Original) -> SubscriberEnd {
        let answer = self.session.is_some().then(|| self.read_whole(&original.body)).flatten();
        let (status, ended) = self.conclude(receiver, &answer.unwrap_or_default(), TurnFate::Kept).await;
        SubscriberEnd::Complete(ended.map(|()| Outcome::Whole(original, status)))
    }

    fn read_whole(&self, body: &Bytes) -> Option<CachedAnswer> {
        let chunk = self.upstream_request.protocol?.read_whole(body).filter(|chunk| chunk.end)?;
        let mut heard = Accumulator::new(true);
        heard.add(&chunk);
        Some(heard.answer())
    }

    /// The reply of a stored answer; gives the content type and the events where it is a stream.
    async fn found(
        &mut self,
        receiver: &Receiver,
        replayed: Replay,
        age: Duration,
    ) -> Result<(HeaderValue, Option<Receiver>), SubscriberEnd> {
        self.notes.age = Some(age).filter(|_| self.notes.cache == Some(CacheStatus::Hit));
        match replayed {
            Replay::Events(content_type, events) => {
                // The whole answer is known, so its turn is stored before the head, whose `X-Session` reports it.
                if self.session.is_some()
                    && let Some(answer) =
                        self.upstream_request.protocol.and_then(|protocol| added_up(protocol, &events))
                {
                    let (status, ended) = self.conclude(receiver, &answer, TurnFate::Kept).await;
                    self.notes.session = status.or(self.notes.session);
                    ended.map_err(|error| SubscriberEnd::Complete(Err(error)))?;
                }
                Ok((content_type, Some(Broadcast::of(events))))
            }
            Replay::Spoken(answer) => Err(self.spoken(receiver, answer, false).await),
            Replay::Whole(original) => Err(self.whole(receiver, original).await),
        }
    }

    /// Whether the request can be counted while its turn is stored, with what its own leader reports of a complete answer.
    fn is_certain(&mut self) -> bool {
        // With `SESSION_REQUIRED` the request fails when its turn cannot be stored.
        if self.session.is_some() && self.service.config().sessions.is_required {
            return false;
        }
        let Some(mut report) = self.own_report.take() else { return true };
        match report.try_recv() {
            Ok(Some(LeaderReport { cache, upstream })) => {
                self.notes.take_report(cache, upstream);
                true
            }
            // A cache hit has no upstream report to merge.
            Ok(None) | Err(_) => self.notes.cache == Some(CacheStatus::Hit),
        }
    }

    /// Stores the client's turn and counts its request, while the leader stores what the answer changes.
    async fn conclude(
        &mut self,
        receiver: &Receiver,
        answer: &CachedAnswer,
        fate: TurnFate,
    ) -> (Option<SessionStatus>, Result<(), Error>) {
        // Complete the turn.
        let is_certain = self.is_certain();
        let commit = self.session.take();
        let unkept =
            commit.is_some().then_some(SessionStatus::Unavailable).filter(|_| fate != TurnFate::Kept);
        let is_kept = fate == TurnFate::Kept && !answer.is_empty();
        let turn = commit.filter(|_| is_kept).map(|commit| {
            let SessionCommit { key, generation, id, dialect, system, mut messages, prompt } = commit;
            messages.push(answer.message(dialect));
            let id = id.unwrap_or_else(|| random_id(self.service));
            let prompt = PromptCount::of(answer.tokens.prompt, prompt);
            (key, generation, Turn { id, dialect, system, messages, prompt })
        });

        // Store it, count the request, and wait for the leader: all at the same time.
        let config = self.service.config();
        let append = turn
            .as_ref()
            .map(|(key, generation, turn)| StoreAccess::append_turn(self.service, key, *generation, turn));
        let count = is_certain.then(|| self.request.count_answer(self.service, &self.notes));
        let (append, ended, _) =
            join!(OptionFuture::from(append), receiver.ended(), OptionFuture::from(count));

        // Find out what became of the turn.
        if is_certain {
            self.notes.count = CountState::Counted;
        }
        let stored = append.map(|reply| self.request.store.settle(self.service, reply));
        let status = stored.map(|stored| match stored {
            Some(true) => SessionStatus::Stored,
            // The session was deleted meanwhile, or the store is down.
            Some(false) | None => SessionStatus::Unavailable,
        });
        // With `SESSION_REQUIRED` a turn that is not stored fails the request.
        let is_lost = stored == Some(None) || (unkept.is_some() && fate == TurnFate::Lost);
        let is_lost = is_lost && config.sessions.is_required;
        let status = status.or(unkept);
        (status, if is_lost { ended.and(Err(Error::SessionUnavailable)) } else { ended })
    }

    /// Writes the log line, or lets the handler's entry do so where it waits for the whole reply.
    pub(super) async fn close(mut self, end: SubscriberEnd) {
        let end = match end {
            SubscriberEnd::Streamed(end) => end,
            SubscriberEnd::Complete(result) => {
                // The handler makes a reply of it, if the client is still there.
                if let Some(head_sender) = self.head_sender.take() {
                    let complete = Box::new((result, self.notes));
                    if let Err(HeadReady::Complete(complete)) =
                        head_sender.send(HeadReady::Complete(complete))
                    {
                        self.request.close(self.service, &complete.1, Err(&Error::ClientClosed)).await;
                    }
                    return;
                }

                // After an early head only an event can report a failure.
                let error = match result {
                    Err(error) => error,
                    Ok(_) => broken("the answer is no event stream").into_error(),
                };
                if error == Error::ShuttingDown {
                    let limit = self.service.sleep(LAST_EVENT);
                    race! {
                        () = self.report_failure(&error) => (),
                        () = limit => (),
                    }
                } else {
                    self.report_failure(&error).await;
                }
                Err(error)
            }
        };
        if self.is_passing && end.is_ok() {
            self.presence.complete();
        }
        self.request.close(self.service, &self.notes, end.as_ref().map(|()| StatusCode::OK)).await;
    }
}
