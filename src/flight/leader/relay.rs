//! How an answer gets to the broadcast: event by event, or whole.
//!
//! Upstream's events keep their bytes. The terminator is written last, and only after a complete answer.

use std::pin::pin;

use bytes::Bytes;

use super::Leader;
use crate::{
    api::error::Error,
    cache::Delivery,
    fleet::{AttemptFailure, HostEffect, NO_EVENT, UNFINISHED, broken},
    host::Platform,
    process::Head,
    upstream::{
        answer::{Accumulator, Events, Opened},
        slot::Slot,
    },
    wire::framer,
};

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
            Opened::Spoken(mut heard) => {
                let answer = heard.answer();
                let entry = self.entry(Delivery::Whole, "application/json", || Some(answer.to_json().into()));
                let kept = self.kept_whole(entry, !answer.is_empty());
                self.send_report();
                self.open(Head::Spoken(answer.into()));
                self.conclude(kept, slot).await;
                Ok(())
            }
            Opened::Whole(original) => {
                let says = self.says_something(&original);
                let kind = original.content_type.as_ref().and_then(|kind| kind.to_str().ok());
                let kind = kind.unwrap_or_default();
                let entry = self.entry(Delivery::Whole, kind, || Some(original.body.clone()));
                let kept = self.kept_whole(entry, says);
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
        if let Some(attempt) = self.report.upstream.attempts.last_mut() {
            attempt.outcome = end.as_ref().map_or_else(AttemptFailure::word, |_| "ok");
        }
        match end {
            Ok(last) => {
                let since = slot.as_ref().and_then(|slot| slot.since_first_byte(self.service));
                self.report.upstream.speed = heard.speed(since);
                // Subscribers store their turns with the terminator, at the same time as the answer is stored.
                self.send_report();
                self.broadcast.complete(last);
                let entry = self.entry(Delivery::Stream, content_type, || {
                    self.broadcast.whole().filter(|_| !heard.is_empty())
                });
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

    /// Writes every event but the terminator, which it returns.
    async fn relay_events(
        &mut self,
        first: Bytes,
        events: &mut Events<P::Body>,
        heard: &mut Accumulator,
    ) -> Result<Bytes, AttemptFailure> {
        let mut event = first;
        loop {
            let data = framer::data(events.framing(), &event);
            if let (Some(data), Some(protocol)) = (&data, self.upstream_request.protocol) {
                let chunk = protocol.read(data).ok_or_else(|| broken(NO_EVENT))?;
                heard.add(&chunk).map_err(broken)?;
                if let Some(error) = &chunk.error {
                    let failure = AttemptFailure::told(error);
                    self.broadcast.tell(event.clone()).await?;
                    return Err(failure);
                }
                if chunk.end {
                    return Ok(event);
                }
                if events.has_ended() {
                    return Err(broken(UNFINISHED));
                }
            }
            self.broadcast.write(event).await?;
            let next = self.broadcast.during(pin!(events.next())).await??;
            event = next.ok_or_else(|| broken(UNFINISHED))?;
        }
    }
}
