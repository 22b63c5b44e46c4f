//! A whole reply of upstream's that passes to one client as it comes, because it is too long to wait for.
//!
//! It is never read, except for a session: there it is held until its turn is stored, for as long as it is short enough for
//! a turn. A reply that breaks off ends its body with an error, so that no client takes it for the whole.

use std::pin::pin;

use bytes::Bytes;

use super::{Subscriber, SubscriberEnd, TurnFate};
use crate::{
    api::error::{Error, Original},
    cache::CachedAnswer,
    fleet::broken,
    flight::HeadReady,
    host::Platform,
    process::{
        WholeHead,
        broadcast::{Item, Receiver},
    },
    session::SessionStatus,
    upstream::answer::ANSWER_LIMIT,
};

/// What was held for a session.
enum Held {
    /// The whole reply.
    Whole(Bytes),
    /// The beginning of a reply that is too long for a turn.
    Start(Bytes),
}

impl<P: Platform> Subscriber<'_, P> {
    /// Passes a whole reply on.
    pub(super) async fn pass(&mut self, receiver: &Receiver, head: WholeHead) -> SubscriberEnd {
        // Hold what a session is to have, because the head of the reply tells what became of the turn.
        let mut start = Bytes::new();
        if self.session.is_some() {
            match self.hold(receiver).await {
                Ok(Held::Whole(body)) => {
                    let WholeHead { status, content_type, .. } = head;
                    return self.whole(receiver, Original { status, content_type, body }).await;
                }
                Ok(Held::Start(begun)) => start = begun,
                Err(error) => return SubscriberEnd::Complete(Err(error)),
            }
            self.session = None;
            self.notes.session = Some(SessionStatus::Unavailable);
            if self.service.config().sessions.is_required {
                return SubscriberEnd::Complete(Err(Error::SessionUnavailable));
            }
        }

        // Pass the reply on, if the client has no other head yet.
        let Some(head_sender) = self.head_sender.take() else {
            return SubscriberEnd::Complete(Err(broken("the answer is no event stream").into_error()));
        };
        let notes = Box::new(self.notes.clone());
        // This fails when the client has left, which the subscriber notices by itself.
        let _ = head_sender.send(HeadReady::Passing { head, notes });
        self.is_passing = true;
        SubscriberEnd::Streamed(self.pass_pieces(receiver, start).await)
    }

    /// Hands the pieces over, the last one after the answer is stored.
    async fn pass_pieces(&mut self, receiver: &Receiver, start: Bytes) -> Result<(), Error> {
        if !start.is_empty() {
            self.hand_over(start).await?;
        }
        loop {
            match self.next_piece(receiver).await? {
                (piece, false) => self.hand_over(piece).await?,
                (piece, true) => {
                    self.conclude(receiver, &CachedAnswer::default(), TurnFate::Kept).await.1?;
                    return Ok(self.hand_over(piece).await?);
                }
            }
        }
    }

    /// Holds a reply up to its end, or up to the longest answer that a turn may have.
    async fn hold(&mut self, receiver: &Receiver) -> Result<Held, Error> {
        let mut held = Vec::new();
        while held.len() <= ANSWER_LIMIT {
            let (piece, is_last) = self.next_piece(receiver).await?;
            held.extend_from_slice(&piece);
            if is_last {
                return Ok(Held::Whole(held.into()));
            }
        }
        Ok(Held::Start(held.into()))
    }

    /// The next piece, and whether it is the last.
    async fn next_piece(&mut self, receiver: &Receiver) -> Result<(Bytes, bool), Error> {
        match self.presence.during(pin!(receiver.next())).await? {
            Item::Event(piece) => Ok((piece, false)),
            Item::Last(piece) => Ok((piece, true)),
            Item::Stopped => Err(broken("the answer is no whole one").into_error()),
            Item::Broken(error, _) => Err(error),
            Item::Behind => Err(Error::FellBehind),
        }
    }
}
