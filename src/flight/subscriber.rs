//! A subscriber: the part of one client in a flight, from what it hears first until its turn is stored and its last byte
//! handed over.
//!
//! It never asks upstream. Until something has reached its client, every failure is a status of its own; from then on an
//! error is the last event. What its answer changes in its session is stored before its terminator is handed over.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    channel::oneshot,
    future::{Either, OptionFuture, poll_immediate, select},
    join,
};
use http::{HeaderValue, StatusCode};

use super::{
    COMMENT, EARLY_HEAD, HeadReady, KEEP_ALIVE, Outcome, Rendering, SessionCommit, replay::added_up,
};
use crate::{
    api::{
        endpoint::framing,
        error::Error,
        reply::{self, ClientLeft, Outlet, Presence},
    },
    cache::{CacheStatus, CachedAnswer},
    fleet::{NO_EVENT, UNFINISHED, broken},
    host::{Platform, Service},
    platform::{Timer, random_id},
    process::{
        Head, Provenance, Replay,
        broadcast::{Broadcast, Item, Receiver},
    },
    request::{Account, StoreAccess, TallyState},
    session::{PromptCount, SessionStatus, Turn},
    upstream::{UpstreamRequest, answer::Accumulator as Added},
    wire::framer,
};

/// One client of a flight.
pub(super) struct Subscriber<'a, P: Platform> {
    service: &'a Service<P>,
    order: &'a UpstreamRequest,
    rendering: &'a Rendering,
    outlet: Outlet,
    presence: Presence,
    session: Option<SessionCommit>,
    /// Whether it waits for what another asked for.
    pub(super) follows: bool,
    pub(super) account: Account,
    /// Where its own lead tells what it took to bring a complete answer.
    pub(super) brought: Option<oneshot::Receiver<Account>>,
    /// Whoever waits to be told, where that is not whoever listens.
    pub(super) head_sender: Option<oneshot::Sender<HeadReady>>,
}

/// How the part of one client ended.
pub(super) enum SubscriberEnd {
    /// Whoever waits for the flight is told.
    Complete(Result<Outcome, Error>),
    /// The reply streamed to its end.
    Streamed(Result<(), Error>),
}

impl<'a, P: Platform> Subscriber<'a, P> {
    /// One who asked for it first, and hears the end of it by [`Subscriber::listen`].
    pub(super) fn new(
        service: &'a Service<P>,
        order: &'a UpstreamRequest,
        rendering: &'a Rendering,
        (outlet, presence): (Outlet, Presence),
        session: Option<SessionCommit>,
        account: Account,
    ) -> Self {
        Self {
            service,
            order,
            rendering,
            outlet,
            presence,
            session,
            follows: false,
            account,
            brought: None,
            head_sender: None,
        }
    }

    /// Hears the flight out. A client that left is missed by nobody from then on.
    pub(super) async fn listen(&mut self, reader: Receiver) -> SubscriberEnd {
        self.hear(&reader).await
    }

    async fn hear(&mut self, reader: &Receiver) -> SubscriberEnd {
        let (opening, source) = match self.opening(reader).await {
            Ok(opening) => opening,
            Err(ClientLeft) => return SubscriberEnd::Complete(Err(Error::ClientClosed)),
        };
        self.note(source);
        let streaming = match opening {
            Head::Failed(error) => Err(SubscriberEnd::Complete(Err(error))),
            Head::Stream { content_type } => Ok((content_type, None)),
            Head::Spoken(answer) => Err(self.spoken(reader, CachedAnswer::clone(&answer)).await),
            Head::Whole(original) => Err(self.whole(reader, original).await),
            Head::Found(replayed, age) => self.found(reader, replayed, age).await,
        };
        match streaming {
            Ok((content_type, replayed)) => {
                self.announce_stream(content_type);
                SubscriberEnd::Streamed(self.relay(replayed.as_ref().unwrap_or(reader)).await)
            }
            Err(end) => end,
        }
    }

    /// Takes note of where the answer comes from.
    fn note(&mut self, source: Provenance) {
        let Provenance { cache, backend, routes } = source;
        self.account.cache = match (self.follows, cache) {
            (true, Some(CacheStatus::Miss | CacheStatus::Bypass | CacheStatus::Coalesced)) => {
                Some(CacheStatus::Coalesced)
            }
            (_, cache) => cache.or(self.account.cache),
        };
        self.account.host = backend;
        // Whoever asked first may have been allowed to know what this one may not.
        self.account.routes = if self.account.explains { routes } else { Vec::new() };
    }

    /// Tells whoever waits that the reply streams from now on.
    fn announce_stream(&mut self, content_type: HeaderValue) {
        let content_type = self.rendering.content_type().unwrap_or(content_type);
        if let Some(head_sender) = self.head_sender.take() {
            let account = Box::new(self.account.clone());
            // Whoever does not listen any more has left, which shows later.
            let _ = head_sender.send(HeadReady::Streaming { content_type, account });
        }
    }

    /// What the flight brings; the client gets a head and comment lines once there was silence for [`EARLY_HEAD`].
    async fn opening(&mut self, reader: &Receiver) -> Result<(Head, Provenance), ClientLeft> {
        let is_patient = self.rendering.speaks_early(self.order);
        let mut opening = Box::pin(reader.opening());
        let mut pause = Box::pin(self.service.sleep(EARLY_HEAD));
        loop {
            let next = select(Pin::as_mut(&mut opening), Pin::as_mut(&mut pause));
            match self.presence.during(next).await? {
                Either::Left((opening, _)) => return Ok(opening),
                Either::Right(((), _)) if is_patient => {
                    self.announce_stream(reply::EVENT_STREAM);
                    self.outlet.offer(COMMENT);
                    pause = Box::pin(self.service.sleep(KEEP_ALIVE));
                }
                Either::Right(((), _)) => return self.presence.during(opening).await,
            }
        }
    }

    /// The whole answer, added up.
    async fn spoken(&mut self, reader: &Receiver, answer: CachedAnswer) -> SubscriberEnd {
        let (status, ended) = self.conclude(reader, &answer).await;
        SubscriberEnd::Complete(
            ended.map(|()| Outcome::Whole(self.rendering.whole(&answer, self.account.left_out), status)),
        )
    }

    /// Upstream's whole reply.
    async fn whole(&mut self, reader: &Receiver, original: crate::api::error::Original) -> SubscriberEnd {
        let answer = self.session.is_some().then(|| self.read_whole(&original.body)).flatten();
        let (status, ended) = self.conclude(reader, &answer.unwrap_or_default()).await;
        SubscriberEnd::Complete(ended.map(|()| Outcome::Whole(original, status)))
    }

    fn read_whole(&self, body: &Bytes) -> Option<CachedAnswer> {
        let chunk = self.order.protocol?.read_whole(body).filter(|chunk| chunk.end)?;
        let mut added = Added::new(true);
        added.add(&chunk).ok()?;
        Some(added.answer())
    }

    /// A stored answer; gives the type of a stream that follows.
    async fn found(
        &mut self,
        reader: &Receiver,
        replayed: Replay,
        age: Duration,
    ) -> Result<(HeaderValue, Option<Receiver>), SubscriberEnd> {
        self.account.age = Some(age).filter(|_| self.account.cache == Some(CacheStatus::Hit));
        match replayed {
            Replay::Events(content_type, events) => {
                // What is there already is stored before the head goes out, which tells of it.
                if self.session.is_some()
                    && let Some(answer) = self.order.protocol.and_then(|protocol| added_up(protocol, &events))
                {
                    let (status, ended) = self.conclude(reader, &answer).await;
                    self.account.session = status.or(self.account.session);
                    ended.map_err(|error| SubscriberEnd::Complete(Err(error)))?;
                }
                Ok((content_type, Some(Broadcast::of(events))))
            }
            Replay::Spoken(answer) => Err(self.spoken(reader, answer).await),
            Replay::Whole(original) => Err(self.whole(reader, original).await),
        }
    }

    /// The account of a complete answer, to be counted while what it changes is stored; `None` where it is not certain yet.
    fn tallied(&mut self) -> Option<Account> {
        // Whether that is an answer shows when the turn is stored.
        if self.session.is_some() && self.service.config().sessions.is_required {
            return None;
        }
        let mut account = self.account.clone();
        if let Some(mut brought) = self.brought.take() {
            match brought.try_recv() {
                Ok(Some(brought)) => account.absorb(brought),
                // Nobody was asked.
                Ok(None) | Err(_) if account.cache == Some(CacheStatus::Hit) => {}
                Ok(None) | Err(_) => return None,
            }
        }
        Some(account)
    }

    /// Stores the client's turn, and counts its request, while the flight stores what it changes.
    async fn conclude(
        &mut self,
        reader: &Receiver,
        answer: &CachedAnswer,
    ) -> (Option<SessionStatus>, Result<(), Error>) {
        let tallied = self.tallied();
        let turn = self.session.take().filter(|_| !answer.is_empty()).map(|commit| {
            let SessionCommit { key, generation, id, dialect, system, mut messages, prompt } = commit;
            messages.push(answer.message(dialect));
            let id = id.unwrap_or_else(|| random_id(self.service));
            let prompt = PromptCount::of(answer.tokens.prompt, prompt);
            (key, generation, Turn { id, dialect, system, messages, prompt })
        });
        let config = self.service.config();
        let append = turn
            .as_ref()
            .map(|(key, generation, turn)| StoreAccess::append_turn(self.service, key, *generation, turn));
        let tally = tallied.as_ref().map(|account| account.tally_answer(self.service));
        let (append, ended, _) = join!(OptionFuture::from(append), reader.ended(), OptionFuture::from(tally));
        if tallied.is_some() {
            self.account.tally = TallyState::Counted;
        }
        let stored = append.map(|reply| self.account.store.settle(self.service, reply));
        let status = stored.map(|stored| match stored {
            Some(true) => SessionStatus::Stored,
            // Its session was deleted meanwhile, or the store is down.
            Some(false) | None => SessionStatus::Unavailable,
        });
        // Whoever wants nothing to be forgotten is not told that all went well.
        let is_lost = stored == Some(None) && config.sessions.is_required;
        (status, if is_lost { ended.and(Err(Error::SessionUnavailable)) } else { ended })
    }

    /// Hands the events over, one after the other.
    async fn relay(&mut self, reader: &Receiver) -> Result<(), Error> {
        let end = self.relay_events(reader).await;
        let Err((error, is_told)) = end else { return Ok(()) };
        if !is_told && error != Error::ClientClosed {
            let event = self.rendering.failure(&error, self.order.protocol, &self.account.request_id);
            let _ = self.hand_over(event).await;
        }
        Err(error)
    }

    async fn relay_events(&mut self, reader: &Receiver) -> Result<(), (Error, bool)> {
        let left = |_: ClientLeft| (Error::ClientClosed, true);
        let is_own = self.rendering.is_own();
        let keeps = self.session.is_some() || is_own;
        let mut added = Added::new(keeps);
        let pace =
            self.service.config().cache.replay_pause.filter(|_| self.account.cache == Some(CacheStatus::Hit));
        let mut is_first = true;
        loop {
            if let Some(pace) = pace.filter(|_| !is_first) {
                self.presence.during(self.service.sleep(pace)).await.map_err(left)?;
            }
            is_first = false;
            let (event, is_last) = match self.presence.during(reader.next()).await.map_err(left)? {
                Item::Event(event) => (event, false),
                Item::Last(event) => (event, true),
                Item::Broken(error, is_told) => return Err((error, is_told && !is_own)),
                Item::Behind => return Err((Error::FellBehind, false)),
            };
            let Some(protocol) = self.order.protocol.filter(|_| keeps || is_last) else {
                self.hand_over(event).await.map_err(left)?;
                continue;
            };
            let data = framer::data(framing(protocol), &event);
            let chunk = match &data {
                Some(data) => protocol.read(data),
                None if is_own => continue,
                None => {
                    self.hand_over(event).await.map_err(left)?;
                    continue;
                }
            };
            let fault = |detail: &str| (broken(detail).into_error(), false);
            let chunk = chunk.ok_or_else(|| fault(NO_EVENT))?;
            added.add(&chunk).map_err(fault)?;
            if is_last {
                if !chunk.end {
                    return Err(fault(UNFINISHED));
                }
                let answer = added.answer();
                let (session, ended) = self.conclude(reader, &answer).await;
                ended.map_err(|error| (error, false))?;
                let session = session.or(self.account.session);
                let last = self.rendering.last(&event, &chunk, &answer, &self.account, session);
                return self.hand_over(last).await.map_err(left);
            }
            if chunk.error.is_some() && is_own {
                continue;
            }
            if let Some(piece) = self.rendering.piece(&event, &chunk) {
                self.hand_over(piece).await.map_err(left)?;
            }
        }
    }

    /// Hands over one piece; a client that reads nothing for too long counts as gone.
    async fn hand_over(&mut self, piece: Bytes) -> Result<(), ClientLeft> {
        let mut sending = pin!(self.outlet.send(piece));
        if let Some(sent) = poll_immediate(sending.as_mut()).await {
            return sent;
        }
        match select(sending, pin!(self.service.sleep(self.service.config().timeouts.client))).await {
            Either::Left((sent, _)) => sent,
            Either::Right(((), _)) => Err(ClientLeft),
        }
    }

    /// Closes the account, or lets whoever waits do so.
    pub(super) async fn close(mut self, end: SubscriberEnd) {
        let end = match end {
            SubscriberEnd::Streamed(end) => end,
            SubscriberEnd::Complete(result) => {
                if let Some(head_sender) = self.head_sender.take() {
                    let account = self.account;
                    // The client may have left while the answer was stored.
                    if let Err(HeadReady::Complete(complete)) =
                        head_sender.send(HeadReady::Complete(Box::new((result, account))))
                    {
                        complete.1.close(self.service, Err(&Error::ClientClosed)).await;
                    }
                    return;
                }
                // The head is out already, so that only an event can tell.
                let error = match result {
                    Err(error) => error,
                    Ok(_) => broken("the answer is no event stream").into_error(),
                };
                if error != Error::ClientClosed {
                    let (rendering, protocol) = (self.rendering, self.order.protocol);
                    let event = rendering.failure(&error, protocol, &self.account.request_id);
                    let _ = self.hand_over(event).await;
                }
                Err(error)
            }
        };
        self.account.close(self.service, end.as_ref().map(|()| StatusCode::OK)).await;
    }
}
