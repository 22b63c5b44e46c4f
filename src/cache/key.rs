//! The key of an answer: everything that can change it, and who asks.
//!
//! It must never be shortened, and a field of [`Chat`] or [`KeyContext`] that it does not consider does not compile.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::form::Delivery;
use crate::{
    api::auth::CallerId,
    fleet::ModelName,
    wire::members::{self, Members},
};

/// How deep a value may be for the order of its members not to matter.
const DEPTH: usize = 16;
/// Members whose own members count in their order: a grammar follows the order of a schema.
const ORDERED: [&str; 3] = ["format", "response_format", "text"];

/// What counts for every question, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyContext<'a> {
    /// The surface that it came by.
    pub surface: &'static str,
    /// Who asks; `None` where all callers share their answers.
    pub caller: Option<&'a CallerId>,
    /// What is known of the model's content: see [`digest_of`].
    pub digest: [u8; 32],
    /// How often the cache had been emptied.
    pub epochs: Epochs,
}

impl KeyContext<'_> {
    /// What tells apart what one caller asks on a surface, whatever is known of the model.
    pub(crate) fn nowhere(surface: &'static str) -> Self {
        Self { surface, caller: None, digest: [0; 32], epochs: Epochs::default() }
    }
}

/// How often the cache was emptied: of everything, and of one model's answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Of everything.
    pub all: u64,
    /// Of one model's answers.
    pub model: u64,
}

/// How often the cache was emptied, for every model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllEpochs {
    /// Of everything.
    pub all: u64,
    /// Of a model's answers, by its name in the canonical spelling; none where that never happened.
    pub models: BTreeMap<String, u64>,
}

impl AllEpochs {
    /// Those of one model.
    pub fn of(&self, model: &str) -> Epochs {
        Epochs { all: self.all, model: self.models.get(model).copied().unwrap_or_default() }
    }
}

/// A question to `/chat`: everything that can change its answer.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The model, as the caller spelled it.
    pub model: &'a str,
    /// The whole message list in Ollama's dialect, history, system message and images included.
    pub messages: &'a [&'a str],
    /// The form that the answer must have.
    pub format: Option<&'a RawValue>,
    /// The options of the run.
    pub options: Option<&'a RawValue>,
    /// Whether and how hard the model thinks first.
    pub think: Option<&'a RawValue>,
    /// The tools that the model may call.
    pub tools: Option<&'a RawValue>,
}

/// The 256-bit name of an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey([u8; 32]);

impl std::fmt::Debug for CacheKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CacheKey(..)")
    }
}

/// A hash of the sorted distinct digests that the hosts gave for one model: pulling the model anew changes it, and which
/// of them are there does not.
pub fn digest_of<'a>(digests: impl IntoIterator<Item = &'a str>) -> [u8; 32] {
    let mut known: Vec<_> = digests.into_iter().collect();
    known.sort_unstable();
    known.dedup();
    let mut encoding = Encoding(Sha256::new());
    for digest in known {
        encoding.string(digest);
    }
    encoding.0.finalize().into()
}

impl CacheKey {
    /// SHA-256 over a canonical encoding: a version, then each field in a fixed order, each string behind its
    /// length as 64 bits and each list behind its count, so that no two questions have the same encoding.
    pub fn of_chat(context: &KeyContext<'_>, question: &Chat<'_>) -> Self {
        let Chat { model, messages, format, options, think, tools } = question;
        let mut encoding = Encoding::of(context);
        encoding.string(model);
        encoding.count(messages.len());
        for message in *messages {
            encoding.string(message);
        }
        encoding.value(format.unwrap_or(RawValue::NULL), DEPTH, MemberOrder::AsWritten);
        for value in [options, think, tools] {
            encoding.value(value.unwrap_or(RawValue::NULL), DEPTH, MemberOrder::ByName);
        }
        Self(encoding.0.finalize().into())
    }

    /// The key of a request that goes upstream as it is: every member counts, but for `stream`.
    pub fn of_request(context: &KeyContext<'_>, request: &Members<'_>) -> Self {
        let mut encoding = Encoding::of(context);
        let mut list = sorted(request);
        list.retain(|(name, _)| folded(name) != "stream");
        encoding.count(list.len());
        for (name, value) in list {
            encoding.string(name);
            let is_ordered = ORDERED.contains(&&*folded(name));
            encoding.value(
                value,
                DEPTH,
                if is_ordered { MemberOrder::AsWritten } else { MemberOrder::ByName },
            );
        }
        Self(encoding.0.finalize().into())
    }

    /// The key of whatever has this `Idempotency-Key`.
    pub fn of_repetition(surface: &str, caller: &CallerId, key: &[u8]) -> Self {
        let mut encoding = Encoding(Sha256::new());
        encoding.string("paddock repetition 1");
        encoding.string(surface);
        encoding.0.update(caller.as_bytes());
        encoding.0.update(key);
        Self(encoding.0.finalize().into())
    }

    /// The key of an answer to the same that serves this form alone.
    #[must_use]
    pub fn in_form(&self, form: Delivery) -> Self {
        self.derived("paddock form 1", form.letter())
    }

    /// The key of a flight for the same that those take who came too late for this one.
    pub(crate) fn later(&self) -> Self {
        self.derived("paddock flight 1", "later")
    }

    fn derived(&self, kind: &str, name: &str) -> Self {
        let mut encoding = Encoding(Sha256::new());
        encoding.string(kind);
        encoding.string(name);
        encoding.0.update(self.0);
        Self(encoding.0.finalize().into())
    }

    /// The 256 bits of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key in hexadecimal.
    pub fn to_hex(&self) -> String {
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// The key that [`CacheKey::to_hex`] wrote; `None` for anything else.
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        let mut key = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
        }
        Some(Self(key))
    }
}

/// Whether the members of objects count by name alone or in the order in which they were written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MemberOrder {
    ByName,
    AsWritten,
}

/// The members by their names. Those of one name stay in the order in which they were written, for Ollama takes the last
/// of some and joins others; and it does not tell names apart by case.
fn sorted<'a>(members: &'a Members<'_>) -> Vec<(&'a str, &'a RawValue)> {
    let mut list: Vec<_> = members.iter().map(|(name, value)| (&**name, *value)).collect();
    list.sort_by(|(left, _), (right, _)| folded(left).cmp(&folded(right)));
    list
}

/// A name without its case.
fn folded(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        return Cow::Borrowed(name);
    }
    // By way of upper case, for some letters have two lower ones.
    Cow::Owned(name.to_uppercase().to_lowercase())
}

struct Encoding(Sha256);

impl Encoding {
    fn of(context: &KeyContext<'_>) -> Self {
        let KeyContext { surface, caller, digest, epochs: Epochs { all, model } } = context;
        let mut encoding = Self(Sha256::new());
        encoding.string("paddock answer 3");
        encoding.string(surface);
        // A caller's id is never all zeros.
        encoding.0.update(caller.map_or(&[0; 32], CallerId::as_bytes));
        encoding.0.update(digest);
        encoding.0.update(all.to_le_bytes());
        encoding.0.update(model.to_le_bytes());
        encoding
    }

    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_le_bytes());
    }

    fn string(&mut self, string: &str) {
        self.count(string.len());
        self.0.update(string);
    }

    /// A value behind a letter for its kind. What is not read is taken as it was written, and so is what lies deeper than
    /// `depth`.
    fn value(&mut self, value: &RawValue, depth: usize, order: MemberOrder) {
        if let Some(string) = members::string(value) {
            self.0.update(b"s");
            self.string(&string);
        } else if let Some(values) = members::elements(value).filter(|_| depth > 0) {
            self.0.update(b"a");
            self.count(values.len());
            for value in values {
                self.value(value, depth - 1, order);
            }
        } else if let Some(members) = Members::of(value).filter(|_| depth > 0) {
            self.0.update(b"o");
            let list = match order {
                MemberOrder::ByName => sorted(&members),
                MemberOrder::AsWritten => members.iter().map(|(name, value)| (&**name, *value)).collect(),
            };
            self.count(list.len());
            for (name, value) in list {
                self.string(name);
                self.value(value, depth - 1, order);
            }
        } else {
            self.0.update(b"d");
            self.string(value.get());
        }
    }
}

/// The name under which it is kept how often a model's answers were forgotten.
pub(crate) fn epoch_name(model: &str) -> String {
    ModelName::parse(model).map_or_else(|| model.to_ascii_lowercase(), |name| name.as_str().to_owned())
}

#[cfg(test)]
mod tests;
