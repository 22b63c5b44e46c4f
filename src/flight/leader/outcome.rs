//! What becomes of a complete answer: the cache keeps it, or the publisher hands it over to other processes.
//!
//! An answer is kept only when it is complete and not empty.

use bytes::Bytes;
use futures::{future::OptionFuture, join};

use super::Leader;
use crate::{
    cache::{CacheStatus, Delivery, Entry},
    fleet::HostEffect,
    flight::{CachePlan, replay::serves_both},
    host::Platform,
    request::StoreAccess,
    upstream::slot::Slot,
};

impl<P: Platform> Leader<'_, P> {
    /// The entry that keeps this answer; `None` when nothing is kept. Under an `Idempotency-Key` there is one entry for both
    /// deliveries.
    pub(crate) fn entry(
        &self,
        form: Delivery,
        content_type: &str,
        body: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Entry> {
        let (cache_plan, body) = (self.cache_plan?, body()?);
        let serves_one_delivery =
            cache_plan.asked.is_none() && !serves_both(self.upstream_request, form, &body);
        Some(Entry::new(form, content_type, body).serving_one_delivery(serves_one_delivery))
    }

    /// How an answer is kept; `None` when it is too large, or the store is down.
    pub(crate) fn kept(&self, entry: &Entry) -> Option<CachePlan> {
        // A lookup that came too late says nothing about the store, so the answer can still be kept.
        let is_down = self.request.store.is_at_fault();
        let is_reached = self.report.cache != Some(CacheStatus::Bypass) || !is_down;
        let limit = |cache_plan: &CachePlan| {
            self.service.config().cache.max_entry.saturating_mul(cache_plan.size() as u64)
        };
        self.cache_plan.filter(|cache_plan| is_reached && entry.size() as u64 <= limit(cache_plan))
    }

    /// The same for a whole answer. One that is not kept goes to the publisher, which hands it over to other processes.
    pub(crate) fn kept_whole(
        &self,
        entry: Option<Entry>,
        says_something: bool,
    ) -> Option<(CachePlan, Entry)> {
        let cache_plan = entry.as_ref().and_then(|entry| self.kept(entry)).filter(|_| says_something);
        if cache_plan.is_none() {
            self.broadcast.note_unkept(entry);
            return None;
        }
        cache_plan.zip(entry)
    }

    /// Stores what an answer changes, and gives its slot back at the same time. Both happen before a client has the end of
    /// the answer, because a client that asks again at once must not find its own slot still taken.
    pub(crate) async fn conclude(&mut self, kept: Option<(CachePlan, Entry)>, slot: Box<Slot>) {
        let kept = kept.map(|(cache_plan, entry)| {
            (cache_plan, entry.with_asked(cache_plan.asked).owned_by(cache_plan.owner))
        });
        let put = kept
            .as_ref()
            .map(|(plan, entry)| StoreAccess::put_answer(self.service, &plan.key, entry, plan.ttl));
        let (put, ()) = join!(OptionFuture::from(put), slot.release(self.service, HostEffect::Answered));
        if let Some(reply) = put {
            self.request.store.settle(self.service, reply);
        }
    }
}
