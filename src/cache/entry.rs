//! A cache entry: the bytes of an answer as they were received, in the delivery in which they were received.
//!
//! An entry holds one whole answer. A value that another version wrote is ignored.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::{
    form::Delivery,
    key::{CacheKey, Epochs},
};
use crate::{api::auth::Owner, platform::milliseconds, wire::members::Members};

/// The version of the value that [`Entry::to_bytes`] writes.
const VERSION: u64 = 3;
/// Answers of fewer bytes are not compressed.
const WORTH_PACKING: usize = 512;
/// The largest answer that is decompressed, in bytes, whatever length the value claims.
const UNPACKED_LIMIT: usize = 64 << 20;
/// The longest header line of a value, in bytes.
const HEAD_LIMIT: usize = 1024;

/// A complete answer as it was received. Its `Debug` form shows no content.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    form: Delivery,
    content_type: String,
    /// Whether it can serve only requests of its own delivery, because a conversion would lose something.
    serves_one_delivery: bool,
    /// For an `Idempotency-Key`: what was asked under it.
    asked: Option<Asked>,
    /// The length of the answer in bytes.
    length: usize,
    is_packed: bool,
    data: Bytes,
    /// Whose share it uses; no part of the stored value.
    owner: Owner,
}

/// What was asked under an `Idempotency-Key`, which does not cover it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The key of the question.
    pub question: CacheKey,
    /// The epochs of the model's answers when it was asked.
    pub epochs: Epochs,
}

/// What a stored answer is to a request with the same `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repetition {
    /// Its answer.
    Same,
    /// The answer to another question.
    Other,
    /// An answer that was purged since.
    Forgotten,
}

/// An entry with the time since it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The answer.
    pub entry: Entry,
    /// How long ago it was stored.
    pub age: Duration,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Entry({:?}, {} of {} bytes)", self.form, self.data.len(), self.length)
    }
}

/// The header line of a stored value, which stands before the answer.
#[derive(Serialize)]
struct EntryHead<'a> {
    v: u64,
    form: &'static str,
    #[serde(rename = "type")]
    content_type: &'a str,
    ttl_ms: u64,
    length: usize,
    packed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    alone: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epochs: Option<[u64; 2]>,
}

impl Entry {
    /// An entry with this answer; it is compressed when that saves a quarter.
    pub fn new(form: Delivery, content_type: &str, body: Bytes) -> Self {
        let length = body.len();
        let packed = (length >= WORTH_PACKING).then(|| lz4_flex::block::compress(&body));
        let packed = packed.filter(|packed| packed.len() <= length - length / 4);
        let (is_packed, data) = packed.map_or((false, body), |packed| (true, packed.into()));
        let content_type = content_type.to_owned();
        Self {
            form,
            content_type,
            serves_one_delivery: false,
            asked: None,
            length,
            is_packed,
            data,
            owner: Owner::UNVERIFIED,
        }
    }

    /// The entry, marked as serving one delivery or both.
    #[must_use]
    pub fn serving_one_delivery(self, serves_one_delivery: bool) -> Self {
        Self { serves_one_delivery, ..self }
    }

    /// The entry with what was asked under its `Idempotency-Key`.
    #[must_use]
    pub(crate) fn with_asked(self, asked: Option<Asked>) -> Self {
        Self { asked, ..self }
    }

    /// The entry in the share of this owner.
    #[must_use]
    pub fn owned_by(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// Whose share the entry uses.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The delivery in which the answer was received.
    pub fn form(&self) -> Delivery {
        self.form
    }

    /// Whether it serves only requests of its own delivery.
    pub(crate) fn serves_one_delivery(&self) -> bool {
        self.serves_one_delivery
    }

    /// The key of the entry in the store for the answer key `key`. Entries that serve one delivery have a key for each
    /// delivery.
    pub fn storage_key(&self, key: &CacheKey) -> CacheKey {
        if self.serves_one_delivery { key.in_form(self.form) } else { *key }
    }

    /// The content type of the answer.
    pub(crate) fn content_type(&self) -> &str {
        &self.content_type
    }

    /// What the entry is to a request that now asks this under the same `Idempotency-Key`. Which model another question
    /// was for is not known, so only a purge of all answers makes such an entry forgotten; one without epochs was written
    /// by an older version, and nobody can say what was purged since.
    pub(crate) fn repetition(&self, asks: Asked) -> Repetition {
        match self.asked {
            None => Repetition::Forgotten,
            Some(asked) if asked.epochs.all != asks.epochs.all => Repetition::Forgotten,
            Some(asked) if asked.question != asks.question => Repetition::Other,
            Some(asked) if asked.epochs != asks.epochs => Repetition::Forgotten,
            Some(_) => Repetition::Same,
        }
    }

    /// The answer; `None` when the value is damaged.
    pub fn body(&self) -> Option<Bytes> {
        if !self.is_packed {
            return Some(self.data.clone());
        }
        let body = lz4_flex::block::decompress(&self.data, self.length).ok()?;
        (body.len() == self.length).then(|| body.into())
    }

    /// The memory that the entry takes, in bytes.
    pub fn size(&self) -> usize {
        self.data.len() + self.content_type.len()
    }

    /// The value to store for `ttl`: a header line of JSON, then the answer.
    pub fn to_bytes(&self, ttl: Duration) -> Vec<u8> {
        let head = EntryHead {
            v: VERSION,
            form: self.form.letter(),
            content_type: &self.content_type,
            ttl_ms: milliseconds(ttl),
            length: self.length,
            packed: self.is_packed,
            alone: self.serves_one_delivery.then_some(true),
            question: self.asked.map(|asked| asked.question.to_hex()),
            epochs: self.asked.map(|asked| [asked.epochs.all, asked.epochs.model]),
        };
        let mut value = serde_json::to_vec(&head).unwrap_or_default();
        value.reserve_exact(self.data.len() + 1);
        value.push(b'\n');
        value.extend_from_slice(&self.data);
        value
    }

    /// Reads what [`Entry::to_bytes`] wrote: the entry and its time to live; `None` for anything else.
    pub fn from_bytes(value: &Bytes) -> Option<(Self, Duration)> {
        let end = memchr::memchr(b'\n', value.get(..HEAD_LIMIT).unwrap_or(value))?;
        let head = Members::parse(value.get(..end)?)?;
        if head.number("v")? != VERSION {
            return None;
        }
        let form = match &*head.string("form")? {
            "s" => Delivery::Stream,
            "w" => Delivery::Whole,
            _ => return None,
        };
        let asked = match (head.string("question"), epochs(&head)) {
            (Some(hex), Some(epochs)) => Some(Asked { question: CacheKey::from_hex(&hex)?, epochs }),
            (Some(_), None) | (None, _) => None,
        };
        let (data, is_packed) = (value.slice(end + 1..), head.boolean("packed")?);
        let length = usize::try_from(head.number("length")?).ok()?;
        let is_whole = if is_packed { length <= UNPACKED_LIMIT } else { length == data.len() };
        let content_type = head.string("type")?.into_owned();
        let serves_one_delivery = head.boolean("alone") == Some(true);
        let entry = Self {
            form,
            content_type,
            serves_one_delivery,
            asked,
            length,
            is_packed,
            data,
            owner: Owner::UNVERIFIED,
        };
        is_whole.then_some((entry, Duration::from_millis(head.number("ttl_ms")?)))
    }
}

/// The epochs in the header line of a stored value.
fn epochs(head: &Members<'_>) -> Option<Epochs> {
    match *head.array("epochs")? {
        [all, model] => Some(Epochs { all: all.get().parse().ok()?, model: model.get().parse().ok()? }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_mins(1);

    fn entry(body: &[u8]) -> Entry {
        Entry::new(Delivery::Stream, "text/event-stream", Bytes::copy_from_slice(body))
    }

    #[test]
    fn an_answer_is_compressed_when_that_pays_and_comes_back_as_it_was() {
        let caller = crate::api::auth::CallerId::public();
        let blocks = (0..128u8).map(|number| *CacheKey::of_repetition("", &caller, &[number]).as_bytes());
        let noise: Vec<u8> = blocks.flatten().collect();
        for (body, is_smaller) in [
            (b"{\"done\":true}".to_vec(), false),
            (b"{\"message\":{\"content\":\"a\"},\"done\":false}\n".repeat(100), true),
            (noise, false),
            (Vec::new(), false),
        ] {
            let entry = entry(&body);
            assert_eq!(entry.body().as_deref(), Some(&*body));
            assert_eq!(entry.data.len() < body.len(), is_smaller, "{entry:?}");
        }
    }

    #[test]
    fn what_another_version_wrote_is_no_entry() {
        let value = entry(b"answer").to_bytes(TTL);
        let text = String::from_utf8(value).unwrap();
        assert!(Entry::from_bytes(&Bytes::from(text.clone())).is_some());
        for (old, new) in [
            ("\"v\":3", "\"v\":4"),
            ("\"v\":3,", ""),
            ("\"form\":\"s\"", "\"form\":\"x\""),
            ("\"length\":6", "\"length\":7"),
            ("\"packed\":false", "\"packed\":9"),
            ("{", "["),
            ("\n", ""),
        ] {
            let changed = text.replacen(old, new, 1);
            assert_ne!(changed, text, "{old}");
            assert_eq!(Entry::from_bytes(&changed.into()), None, "{old} {new}");
        }
        // Members that a newer version adds are ignored.
        let newer = text.replacen('{', "{\"more\":1,", 1);
        assert!(Entry::from_bytes(&newer.into()).is_some());
    }

    #[test]
    fn a_repetition_is_told_from_another_question_and_from_what_was_forgotten() {
        let caller = crate::api::auth::CallerId::public();
        let key = |name: &[u8]| CacheKey::of_repetition("", &caller, name);
        let (same, other) = (key(b"same"), key(b"other"));
        let asked = |question, all, model| Asked { question, epochs: Epochs { all, model } };
        for (stored, expected) in [
            (Some(asked(same, 7, 3)), Repetition::Same),
            (Some(asked(same, 7, 2)), Repetition::Forgotten),
            (Some(asked(same, 6, 3)), Repetition::Forgotten),
            (Some(asked(other, 7, 3)), Repetition::Other),
            (Some(asked(other, 7, 2)), Repetition::Other),
            (Some(asked(other, 6, 3)), Repetition::Forgotten),
            (None, Repetition::Forgotten),
        ] {
            assert_eq!(entry(b"answer").with_asked(stored).repetition(asked(same, 7, 3)), expected);
        }
    }

    #[test]
    fn a_damaged_answer_is_none() {
        let mut value = entry(&b"abc".repeat(1000)).to_bytes(TTL);
        value.truncate(value.len() - 3);
        let (damaged, _) = Entry::from_bytes(&value.into()).unwrap();
        assert_eq!(damaged.body(), None);
        let bomb = format!(
            "{{\"v\":3,\"form\":\"s\",\"type\":\"\",\"ttl_ms\":1,\"length\":{},\"packed\":true}}\nx",
            u64::MAX
        );
        assert_eq!(Entry::from_bytes(&bomb.into()), None);
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(
            body in proptest::collection::vec(0u8..4, 0..2000), kind in "[a-z/;= -]{0,20}", is_asked in any::<bool>(),
            serves_one_delivery in any::<bool>(), all in any::<u64>(), model in any::<u64>(),
        ) {
            let question = CacheKey::of_repetition("/chat", &crate::api::auth::CallerId::public(), &body);
            let asked = is_asked.then_some(Asked { question, epochs: Epochs { all, model } });
            let entry = Entry::new(Delivery::Whole, &kind, body.into()).with_asked(asked).serving_one_delivery(serves_one_delivery);
            let value = Bytes::from(entry.to_bytes(TTL));
            prop_assert_eq!(Entry::from_bytes(&value), Some((entry, TTL)));
        }

        #[test]
        fn nothing_that_is_read_makes_a_panic(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some((entry, _)) = Entry::from_bytes(&value.into()) {
                let _ = entry.body();
            }
        }
    }
}
