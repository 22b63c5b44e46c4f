//! An answer as it is kept: the bytes that were received, in the form in which they were.
//!
//! Never holds more than one answer, and never a part of one. What another version wrote is no entry.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::{form::Delivery, key::CacheKey};
use crate::wire::members::Members;

/// The version of the value that [`Entry::to_bytes`] writes.
const VERSION: u64 = 3;
/// Shorter answers, in bytes, are not worth compressing.
const WORTH_PACKING: usize = 512;
/// The longest answer that is ever unpacked, in bytes, whatever a value says of itself.
const UNPACKED_LIMIT: usize = 64 << 20;
/// The longest head of a value, in bytes.
const HEAD_LIMIT: usize = 1024;

/// A complete answer as it was received. Its `Debug` form shows no content.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    form: Delivery,
    content_type: String,
    /// Whether it serves no other form than its own, because nothing else can be built of it without a loss.
    serves_one_delivery: bool,
    /// Of a repetition, what was asked: the same `Idempotency-Key` must not stand for something else.
    question: Option<CacheKey>,
    /// The length of the answer in bytes.
    length: usize,
    is_packed: bool,
    data: Bytes,
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

/// What stands ahead of the answer in a stored value.
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
}

impl Entry {
    /// Keeps an answer; it is compressed when that saves a quarter of it.
    pub fn new(form: Delivery, content_type: &str, body: Bytes) -> Self {
        let length = body.len();
        let packed = (length >= WORTH_PACKING).then(|| lz4_flex::block::compress(&body));
        let packed = packed.filter(|packed| packed.len() <= length - length / 4);
        let (is_packed, data) = packed.map_or((false, body), |packed| (true, packed.into()));
        let content_type = content_type.to_owned();
        Self { form, content_type, serves_one_delivery: false, question: None, length, is_packed, data }
    }

    /// The same as one that serves no other form than its own, or both.
    #[must_use]
    pub fn serving_one_delivery(self, serves_one_delivery: bool) -> Self {
        Self { serves_one_delivery, ..self }
    }

    /// The same with the question that it answers.
    #[must_use]
    pub fn to_question(self, question: Option<CacheKey>) -> Self {
        Self { question, ..self }
    }

    /// The form in which it was received.
    pub fn form(&self) -> Delivery {
        self.form
    }

    /// Whether it serves no other form than its own.
    pub fn serves_one_delivery(&self) -> bool {
        self.serves_one_delivery
    }

    /// The key under which it is kept as an answer to `key`: those that serve one form alone stand beside each other.
    pub fn place(&self, key: &CacheKey) -> CacheKey {
        if self.serves_one_delivery { key.in_form(self.form) } else { *key }
    }

    /// The type of its content.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// What was asked, where that is not in its key.
    pub fn question(&self) -> Option<CacheKey> {
        self.question
    }

    /// The answer; `None` when the value was damaged.
    pub fn body(&self) -> Option<Bytes> {
        if !self.is_packed {
            return Some(self.data.clone());
        }
        let body = lz4_flex::block::decompress(&self.data, self.length).ok()?;
        (body.len() == self.length).then(|| body.into())
    }

    /// What it takes in memory, in bytes.
    pub fn size(&self) -> usize {
        self.data.len() + self.content_type.len()
    }

    /// The value that is stored for `ttl`: a line of JSON that says what follows, and the answer.
    pub fn to_bytes(&self, ttl: Duration) -> Vec<u8> {
        let head = EntryHead {
            v: VERSION,
            form: self.form.letter(),
            content_type: &self.content_type,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            length: self.length,
            packed: self.is_packed,
            alone: self.serves_one_delivery.then_some(true),
            question: self.question.map(|question| question.to_hex()),
        };
        let mut value = serde_json::to_vec(&head).unwrap_or_default();
        value.reserve_exact(self.data.len() + 1);
        value.push(b'\n');
        value.extend_from_slice(&self.data);
        value
    }

    /// The entry that [`Entry::to_bytes`] wrote and its time to live; `None` for anything else.
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
        let question = match head.string("question") {
            Some(hex) => Some(CacheKey::from_hex(&hex)?),
            None => None,
        };
        let (data, is_packed) = (value.slice(end + 1..), head.boolean("packed")?);
        let length = usize::try_from(head.number("length")?).ok()?;
        let is_whole = if is_packed { length <= UNPACKED_LIMIT } else { length == data.len() };
        let content_type = head.string("type")?.into_owned();
        let serves_one_delivery = head.boolean("alone") == Some(true);
        let entry = Self { form, content_type, serves_one_delivery, question, length, is_packed, data };
        is_whole.then_some((entry, Duration::from_millis(head.number("ttl_ms")?)))
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
        // A member that a newer version adds says nothing to this one.
        let newer = text.replacen('{', "{\"more\":1,", 1);
        assert!(Entry::from_bytes(&newer.into()).is_some());
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
            serves_one_delivery in any::<bool>(),
        ) {
            let question = is_asked.then(|| CacheKey::of_repetition("/chat", &crate::api::auth::CallerId::public(), &body));
            let entry = Entry::new(Delivery::Whole, &kind, body.into()).to_question(question).serving_one_delivery(serves_one_delivery);
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
