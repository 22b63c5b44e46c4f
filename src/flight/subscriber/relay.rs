//! The events of a stream on their way from the broadcast to one client.
//!
//! The terminator is handed over last, and only after the turn is stored.

use std::pin::pin;

use bytes::Bytes;
use futures::future::poll_immediate;

use super::{Subscriber, TurnFate};
use crate::{
    api::{endpoint::framing, error::Error, reply::ClientLeft},
    cache::CacheStatus,
    fleet::{AttemptFailure, NO_EVENT, broken},
    host::Platform,
    platform::{Timer, race},
    process::broadcast::{Item, Receiver},
    upstream::answer::Accumulator,
    wire::{framer, protocol::Chunk},
};

/// Why a stream ended without its terminator.
struct Failure {
    error: Error,
    /// Whether the client has the failure already, as an event of upstream's.
    is_told: bool,
}

impl Failure {
    fn broken(detail: &str) -> Self {
        Self { error: broken(detail).into_error(), is_told: false }
    }
}

impl From<ClientLeft> for Failure {
    fn from(_: ClientLeft) -> Self {
        Self { error: Error::ClientClosed, is_told: true }
    }
}

impl<P: Platform> Subscriber<'_, P> {
    /// Hands the events over, one after the other.
    pub(super) async fn relay(&mut self, receiver: &Receiver) -> Result<(), Error> {
        let Err(failure) = self.relay_events(receiver).await else { return Ok(()) };
        if !failure.is_told {
            self.report_failure(&failure.error).await;
        }
        Err(failure.error)
    }

    /// Reports a failure to a client that has the head of a stream.
    pub(super) async fn report_failure(&mut self, error: &Error) {
        if *error == Error::ClientClosed {
            return;
        }
        let protocol = self.upstream_request.protocol;
        let event = self.rendering.failure(error, protocol, &self.request.request_id);
        let _ = self.hand_over(event).await;
    }

    async fn relay_events(&mut self, receiver: &Receiver) -> Result<(), Failure> {
        let is_own = self.rendering.is_own();
        let keeps = self.session.is_some() || is_own;
        let mut heard = Accumulator::new(keeps);
        let is_hit = self.notes.cache == Some(CacheStatus::Hit);
        let pace = self.service.config().cache.replay_pause.filter(|_| is_hit);
        let mut is_first = true;
        loop {
            // Take the next event, a stored one at the pace of the setting.
            if let Some(pace) = pace.filter(|_| !is_first) {
                self.presence.during(pin!(self.service.sleep(pace))).await?;
            }
            is_first = false;
            let (event, is_last) = match self.presence.during(pin!(receiver.next())).await? {
                Item::Event(event) => (event, false),
                Item::Last(event) => (event, true),
                Item::Stopped => return self.relay_stop(receiver, heard).await,
                Item::Broken(error, is_told) => return Err(Failure { error, is_told: is_told && !is_own }),
                Item::Behind => return Err(Failure { error: Error::FellBehind, is_told: false }),
            };

            // Pass it on unread, where nothing in it matters.
            let Some(protocol) = self.upstream_request.protocol.filter(|_| keeps || is_last) else {
                self.hand_over(event).await?;
                continue;
            };
            let data = framer::data(framing(protocol), &event);
            let chunk = match &data {
                Some(data) => protocol.read(data),
                None if is_own => continue,
                None => {
                    self.hand_over(event).await?;
                    continue;
                }
            };

            // Read it, and conclude with the terminator.
            let chunk = chunk.ok_or_else(|| Failure::broken(NO_EVENT))?;
            heard.add(&chunk);
            if is_last {
                return self.relay_last(receiver, &event, &chunk, heard).await;
            }
            if chunk.error.is_some() && is_own {
                continue;
            }
            if let Some(piece) = self.rendering.piece(&event, &chunk) {
                self.hand_over(piece).await?;
            }
        }
    }

    /// Stores the turn, and hands the terminator over.
    async fn relay_last(
        &mut self,
        receiver: &Receiver,
        event: &Bytes,
        chunk: &Chunk<'_>,
        mut heard: Accumulator,
    ) -> Result<(), Failure> {
        if !chunk.end {
            return Err(Failure { error: AttemptFailure::Unfinished.into_error(), is_told: false });
        }
        let answer = heard.answer();
        let fate = if heard.is_too_long() { TurnFate::Lost } else { TurnFate::Kept };
        let (session, ended) = self.conclude(receiver, &answer, fate).await;
        ended.map_err(|error| Failure { error, is_told: false })?;
        let session = session.or(self.notes.session);
        self.has_ended = true;
        let last = self.rendering.last(event, chunk, &answer, &self.notes, session);
        Ok(self.hand_over(last).await?)
    }

    /// Ends a stream that Ollama ended because it repeats itself: as Ollama did, without another byte; only a reply of
    /// `/chat` says why. Nothing of it is stored.
    async fn relay_stop(&mut self, receiver: &Receiver, mut heard: Accumulator) -> Result<(), Failure> {
        // The counts and the reason of an answer are those that were heard so far.
        heard.stop();
        let answer = heard.answer();
        let (session, ended) = self.conclude(receiver, &answer, TurnFate::Dropped).await;
        ended.map_err(|error| Failure { error, is_told: false })?;
        let session = session.or(self.notes.session);
        let Some(last) = self.rendering.stop(&answer, &self.notes, session) else { return Ok(()) };
        Ok(self.hand_over(last).await?)
    }

    /// Hands over one piece. A client that reads nothing for `CLIENT_TIMEOUT` counts as gone.
    pub(super) async fn hand_over(&mut self, piece: Bytes) -> Result<(), ClientLeft> {
        let mut sending = pin!(self.outlet.send(piece));
        // Most pieces are taken at once, and need no timer.
        if let Some(sent) = poll_immediate(sending.as_mut()).await {
            return sent;
        }
        race! {
            sent = sending => sent,
            () = self.service.sleep(self.service.config().timeouts.client) => Err(ClientLeft),
        }
    }
}
