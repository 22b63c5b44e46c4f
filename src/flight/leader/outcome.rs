//! What becomes of a complete answer: it is kept, or handed over to those who follow elsewhere.
//!
//! An answer is kept only when it is complete and says something.

use bytes::Bytes;
use futures::{future::OptionFuture, join};

use super::Lead;
use crate::{
    api::error::Original,
    cache::{CacheStatus, Entry, Form},
    fleet::Verdict,
    flight::{Keep, replay::serves_both},
    host::Host,
    request::StoreTrouble,
    store::ResponseCache,
    upstream::{answer::Heard, slot::Place},
    wire::{members::Members, protocol},
};

impl<H: Host> Lead<'_, H> {
    /// The answer as it is kept, where any is. What repeats another request has one place, whatever its form.
    pub(crate) fn entry(
        &self,
        form: Form,
        content_type: &str,
        body: impl FnOnce() -> Option<Bytes>,
    ) -> Option<Entry> {
        let (keep, body) = (self.keep?, body()?);
        let is_alone = keep.question.is_none() && !serves_both(self.order, form, &body);
        Some(Entry::new(form, content_type, body).alone(is_alone))
    }

    /// How an answer is kept; `None` when it is too large, or the store is down.
    pub(crate) fn kept(&self, entry: &Entry) -> Option<Keep> {
        // What was not looked for in time can be kept all the same.
        let is_down = self.account.store_trouble == StoreTrouble::AtFault;
        let is_reached = self.account.cache != Some(CacheStatus::Bypass) || !is_down;
        let limit = |keep: &Keep| self.host.config().cache_max_entry.saturating_mul(keep.size() as u64);
        self.keep.filter(|keep| is_reached && entry.size() as u64 <= limit(keep))
    }

    /// As [`Lead::kept`], for a whole answer; one that is not kept is handed over to those who follow elsewhere.
    pub(crate) fn kept_whole(&self, entry: Option<Entry>, says_something: bool) -> Option<(Keep, Entry)> {
        let entry = entry?;
        let keep = self.kept(&entry).filter(|_| says_something);
        if keep.is_none() {
            self.feed.note_unkept(entry);
            return None;
        }
        keep.zip(Some(entry))
    }

    /// Stores what an answer changes and gives its place back, at the same time, before a client has the end of it:
    /// whoever reads that and goes on at once must find the place free.
    pub(crate) async fn conclude(&mut self, kept: Option<(Keep, Entry)>, place: Box<Place>) {
        let store = self.host.store();
        let kept = kept.map(|(keep, entry)| (keep, entry.to_question(keep.question)));
        let put = kept.as_ref().map(|(keep, entry)| store.put_answer(&keep.key, entry, keep.ttl));
        let (put, ()) = join!(OptionFuture::from(put), place.settle(self.host, Verdict::Answered));
        if let Some(result) = put {
            self.account.tolerate(self.host, "cache_put", result);
        }
    }

    /// Whether upstream's whole reply is complete and says something that another could use.
    pub(crate) fn says_something(&mut self, original: &Original) -> bool {
        let Some(protocol) = self.order.protocol else {
            return Members::parse(&original.body).is_some_and(|reply| protocol::says_something(&reply));
        };
        let Some(chunk) = protocol.read_whole(&original.body) else { return false };
        self.account.tokens = chunk.tokens;
        let mut heard = Heard::new(false);
        heard.add(&chunk).is_ok() && chunk.end && chunk.error.is_none() && !heard.is_empty()
    }
}
