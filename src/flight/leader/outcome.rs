//! What becomes of a complete answer: it is kept, or handed over to those who follow elsewhere.
//!
//! An answer is kept only when it is complete and says something.

use bytes::Bytes;
use futures::{future::OptionFuture, join};

use super::Leader;
use crate::{
    api::error::Original,
    cache::{CacheStatus, Delivery, Entry},
    fleet::HostEffect,
    flight::{CachePlan, replay::serves_both},
    host::Platform,
    request::StoreTrouble,
    store::ResponseCache,
    upstream::{answer::Accumulator, slot::Slot},
    wire::{members::Members, protocol},
};

impl<P: Platform> Leader<'_, P> {
    /// The answer as it is kept, where any is. What repeats another request has one slot, whatever its form.
    pub(crate) fn entry(
        &self,
        form: Delivery,
        content_type: &str,
        body: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Entry> {
        let (cache_plan, body) = (self.cache_plan?, body()?);
        let serves_one_delivery = cache_plan.question.is_none() && !serves_both(self.order, form, &body);
        Some(Entry::new(form, content_type, body).serving_one_delivery(serves_one_delivery))
    }

    /// How an answer is kept; `None` when it is too large, or the store is down.
    pub(crate) fn kept(&self, entry: &Entry) -> Option<CachePlan> {
        // What was not looked for in time can be kept all the same.
        let is_down = self.account.store_trouble == StoreTrouble::AtFault;
        let is_reached = self.account.cache != Some(CacheStatus::Bypass) || !is_down;
        let limit = |cache_plan: &CachePlan| {
            self.service.config().cache.max_entry.saturating_mul(cache_plan.size() as u64)
        };
        self.cache_plan.filter(|cache_plan| is_reached && entry.size() as u64 <= limit(cache_plan))
    }

    /// As [`Leader::kept`], for a whole answer; one that is not kept is handed over to those who follow elsewhere.
    pub(crate) fn kept_whole(
        &self,
        entry: Option<Entry>,
        says_something: bool,
    ) -> Option<(CachePlan, Entry)> {
        let entry = entry?;
        let cache_plan = self.kept(&entry).filter(|_| says_something);
        if cache_plan.is_none() {
            self.broadcast.note_unkept(entry);
            return None;
        }
        cache_plan.zip(Some(entry))
    }

    /// Stores what an answer changes and gives its slot back, at the same time, before a client has the end of it:
    /// whoever reads that and goes on at once must find the slot free.
    pub(crate) async fn conclude(&mut self, kept: Option<(CachePlan, Entry)>, slot: Box<Slot>) {
        let store = self.service.store();
        let kept = kept.map(|(cache_plan, entry)| (cache_plan, entry.with_question(cache_plan.question)));
        let put =
            kept.as_ref().map(|(cache_plan, entry)| store.put_answer(&cache_plan.key, entry, cache_plan.ttl));
        let (put, ()) = join!(OptionFuture::from(put), slot.release(self.service, HostEffect::Answered));
        if let Some(result) = put {
            self.account.degrade(self.service, "cache_put", result);
        }
    }

    /// Whether upstream's whole reply is complete and says something that another could use.
    pub(crate) fn says_something(&mut self, original: &Original) -> bool {
        let Some(protocol) = self.order.protocol else {
            return Members::parse(&original.body).is_some_and(|reply| protocol::says_something(&reply));
        };
        let Some(chunk) = protocol.read_whole(&original.body) else { return false };
        self.account.tokens = chunk.tokens;
        let mut heard = Accumulator::new(false);
        heard.add(&chunk).is_ok() && chunk.end && chunk.error.is_none() && !heard.is_empty()
    }
}
