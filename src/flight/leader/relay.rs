//! How an answer gets to the broadcast: event by event, or whole.
//!
//! Upstream's events keep their bytes. The terminator is written last, and only after a complete answer. An answer that
//! Ollama ended without one, because it repeats itself, ends as Ollama ended it, and is never kept.

use std::pin::pin;

use bytes::Bytes;
use http_body_util::BodyExt as _;

use super::Leader;
use crate::{
    api::error::{Error, Original},
    cache::Delivery,
    fleet::{AttemptFailure, HostEffect, NO_EVENT, broken},
    host::Platform,
    process::{Head, WholeHead},
    upstream::{
        answer::{Accumulator, Events, NO_OBJECT, Opened, WholeAnswer, is_text},
        slot::Slot,
    },
    wire::framer,
};

/// How a stream ended that did not fail.
enum StreamEnd {
    /// With its terminator.
    Complete(Bytes),
    /// Without, because it repeats itself.
    Stopped,
}

impl<P: Platform> Leader<'_, P> {
    /// Writes an answer to the broadcast. When this returns, everything that the answer changes is stored.
    pub(super) async fn hand_over(&mut self, opened: Opened<P::Body>, slot: Box<Slot>) -> Result<(), Error> {
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
            Opened::Passing { head, start, body } => {
                self.open(Head::Passing(head.clone()));
                let mut slot = Some(slot);
                let (end, effect) = self.pass(&head, start, body, &mut slot).await;
                if let Err(error) = &end {
                    self.broadcast.end(Err(error.clone()));
                }
                if let Some(slot) = slot {
                    slot.release(self.service, effect).await;
                }
                end
            }
            Opened::Spoken(mut heard) => {
                let (answer, is_stopped) = (heard.answer(), heard.is_stopped());
                let json = || Some(answer.to_json().into()).filter(|_| !is_stopped);
                let entry = self.entry(Delivery::Whole, "application/json", json);
                let kept = self.kept_whole(entry, !answer.is_empty());
                self.send_report();
                self.open(Head::Spoken { answer: answer.into(), is_stopped });
                self.conclude(kept, slot).await;
                Ok(())
            }
            Opened::Whole(WholeAnswer { original, tokens, says_something }) => {
                self.report.upstream.tokens = tokens;
                let kind = original.content_type.as_ref().and_then(|kind| kind.to_str().ok());
                let kind = kind.unwrap_or_default();
                let entry = self.entry(Delivery::Whole, kind, || Some(original.body.clone()));
                let kept = self.kept_whole(entry, says_something);
                self.send_report();
                self.open(Head::Whole(original));
                self.conclude(kept, slot).await;
                Ok(())
            }
        }
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
        self.report.upstream.tokens = heard.tokens();
        self.note_end(end.as_ref().err());
        match end {
            Ok(end) => {
                let since = slot.as_ref().and_then(|slot| slot.since_first_byte(self.service));
                self.report.upstream.speed = heard.speed(since);
                // Subscribers store their turns with the terminator, at the same time as the answer is stored.
                self.send_report();
                let is_kept = matches!(end, StreamEnd::Complete(_)) && !heard.is_empty();
                match end {
                    StreamEnd::Complete(last) => self.broadcast.complete(last),
                    StreamEnd::Stopped => self.broadcast.stop(),
                }
                let whole = || if is_kept { self.broadcast.whole() } else { None };
                let entry = self.entry(Delivery::Stream, content_type, whole);
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

    /// Notes how the attempt that answered ended.
    fn note_end(&mut self, failure: Option<&AttemptFailure>) {
        if let Some(attempt) = self.report.upstream.attempts.last_mut() {
            attempt.outcome = failure.map_or("ok", AttemptFailure::word);
        }
    }

    /// Writes a whole answer to the broadcast as it comes, and stores what it changes. It is kept where the broadcast still
    /// has all of it.
    async fn pass(
        &mut self,
        head: &WholeHead,
        start: Bytes,
        body: P::Body,
        slot: &mut Option<Box<Slot>>,
    ) -> (Result<(), Error>, HostEffect) {
        let end = match self.pass_pieces(start, body).await {
            Ok(last) => self.read_passed(head, last),
            Err(failure) => Err(failure),
        };
        self.note_end(end.as_ref().err());
        match end {
            Ok((last, answer)) => {
                self.report.upstream.tokens = answer.as_ref().and_then(|answer| answer.tokens);
                let kind = head.content_type.as_ref().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
                let says_something = answer.as_ref().is_some_and(|answer| answer.says_something);
                let entry = self.entry(Delivery::Whole, kind, || Some(answer?.original.body));
                let kept = self.kept_whole(entry, says_something);
                self.send_report();
                self.broadcast.complete(last);
                if let Some(slot) = slot.take() {
                    self.conclude(kept, slot).await;
                }
                (Ok(()), HostEffect::Answered)
            }
            Err(failure) => {
                let effect = failure.effect();
                (Err(failure.into_error()), effect)
            }
        }
    }

    /// Writes every piece but the last, which it returns, with the last byte of all that is not blank.
    async fn pass_pieces(
        &mut self,
        start: Bytes,
        mut body: P::Body,
    ) -> Result<(Bytes, Option<u8>), AttemptFailure> {
        let last_byte = |piece: &Bytes| piece.trim_ascii_end().last().copied();
        let (mut end, mut piece) = (last_byte(&start), start);
        while let Some(frame) = self.broadcast.during(pin!(body.frame())).await? {
            let Ok(next) = frame?.into_data() else { continue };
            end = last_byte(&next).or(end);
            self.broadcast.write(std::mem::replace(&mut piece, next)).await?;
        }
        Ok((piece, end))
    }

    /// Reads a whole answer that has passed up to its last piece, where the broadcast still has all of it.
    fn read_passed(
        &self,
        head: &WholeHead,
        (last, end): (Bytes, Option<u8>),
    ) -> Result<(Bytes, Option<WholeAnswer>), AttemptFailure> {
        let WholeHead { status, content_type, .. } = head.clone();
        let Some(passed) = self.cache_plan.and_then(|_| self.broadcast.events_since(0)) else {
            // Of an object that passed the end shows whether it was cut off.
            let is_whole = is_text(content_type.as_ref()) || end == Some(b'}');
            return if is_whole { Ok((last, None)) } else { Err(broken(NO_OBJECT)) };
        };
        let mut body = passed.concat();
        body.extend_from_slice(&last);
        let original = Original { status, content_type, body: body.into() };
        let answer = WholeAnswer::read(self.upstream_request.protocol, original)?;
        Ok((last, Some(answer)))
    }

    /// Writes every event but the terminator.
    async fn relay_events(
        &mut self,
        first: Bytes,
        events: &mut Events<P::Body>,
        heard: &mut Accumulator,
    ) -> Result<StreamEnd, AttemptFailure> {
        let mut event = first;
        loop {
            let data = framer::data(events.framing(), &event);
            if let (Some(data), Some(protocol)) = (&data, self.upstream_request.protocol) {
                let chunk = protocol.read(data).ok_or_else(|| broken(NO_EVENT))?;
                heard.add(&chunk);
                if let Some(error) = &chunk.error {
                    let failure = AttemptFailure::told(error);
                    self.broadcast.tell(event.clone()).await?;
                    return Err(failure);
                }
                if chunk.end {
                    return Ok(StreamEnd::Complete(event));
                }
                if events.has_ended() {
                    return Err(AttemptFailure::Unfinished);
                }
            }
            self.broadcast.write(event).await?;
            let next = self.broadcast.during(pin!(events.next())).await??;
            event = match next {
                Some(event) => event,
                None if heard.stop() => return Ok(StreamEnd::Stopped),
                None => return Err(AttemptFailure::Unfinished),
            };
        }
    }
}
