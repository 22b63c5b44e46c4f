//! The key of an answer: a hash of everything that can change the answer, and of the caller.
//!
//! Nothing may be left out of a key. A new field of [`Chat`] or [`KeyContext`] does not compile until the key covers
//! it.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::form::Delivery;
use crate::{
    api::auth::CallerId,
    fleet::ModelName,
    wire::{
        members::{Members, folded},
        pace::{Pace, at_once, first_step, pause},
        parts::{Part, Parts},
    },
};

/// What follows a string or a literal; it is in no UTF-8.
const END: [u8; 1] = [0xff];

/// What every key covers, whatever the question is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyContext<'a> {
    /// The endpoint's path.
    pub path: &'static str,
    /// The caller id; `None` where all callers share answers.
    pub caller: Option<&'a CallerId>,
    /// A hash of the digests of the model on all hosts.
    pub digest: [u8; 32],
    /// The purge counters.
    pub epochs: Epochs,
}

impl KeyContext<'_> {
    /// The context of a key that depends neither on the caller nor on the model's content.
    pub(crate) fn nowhere(path: &'static str) -> Self {
        Self { path, caller: None, digest: [0; 32], epochs: Epochs::default() }
    }
}

/// The most models that have an epoch of their own.
pub const EPOCHS: usize = 1024;

/// The epochs under which a model's answers are kept: a purge begins a new one, and the answers of the old one are never
/// found again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epochs {
    /// The epoch of all answers.
    pub all: u64,
    /// The epoch of the model's answers; 0 where they were not purged by themselves since that of all began.
    pub model: u64,
}

/// The epochs of all models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllEpochs {
    /// The epoch of all answers.
    pub all: u64,
    /// The epochs of single models, by the model's canonical name.
    pub models: BTreeMap<String, u64>,
}

impl AllEpochs {
    /// The counters for one model.
    pub fn of(&self, model: &str) -> Epochs {
        Epochs { all: self.all, model: self.models.get(model).copied().unwrap_or_default() }
    }

    /// Begins a new epoch for one model's answers, or for all. When too many models have one of their own, all of those end
    /// in a new one of all.
    #[cfg(feature = "memory")]
    pub(crate) fn begin(&mut self, model: Option<&str>) {
        let has_room = |model: &&str| self.models.len() < EPOCHS || self.models.contains_key(*model);
        if let Some(model) = model.filter(has_room) {
            *self.models.entry(model.to_owned()).or_default() += 1;
        } else {
            self.all += 1;
            self.models.clear();
        }
    }
}

/// A question to `/chat`: everything that can change its answer, except the context.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The model, spelled as in the request.
    pub model: &'a str,
    /// The whole message list in Ollama's dialect, history, system message and images included.
    pub messages: &'a [&'a str],
    /// The required format of the answer.
    pub format: Option<&'a RawValue>,
    /// The runner options.
    pub options: Option<&'a RawValue>,
    /// Whether and how hard the model thinks before it answers.
    pub think: Option<&'a RawValue>,
    /// The tools that the model may call.
    pub tools: Option<&'a RawValue>,
}

/// The 256-bit key of an answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey([u8; 32]);

impl std::fmt::Debug for CacheKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CacheKey(..)")
    }
}

/// A hash of the distinct digests that the hosts report for one model, sorted. It changes when the model is pulled
/// anew, but not when a host with a known digest comes or goes.
pub(crate) fn digest_of<'a>(digests: impl IntoIterator<Item = &'a str>) -> [u8; 32] {
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
    /// SHA-256 over a canonical encoding: a version, then each field in a fixed order, each string after its length as
    /// 64 bits and each list after its count, so that two different questions never have the same encoding.
    pub fn of_chat(context: &KeyContext<'_>, question: &Chat<'_>) -> Self {
        at_once(Self::of_chat_in_steps(context, question, &mut Pace::unbroken()))
    }

    /// As [`CacheKey::of_chat`].
    pub(crate) async fn of_chat_in_steps(
        context: &KeyContext<'_>,
        question: &Chat<'_>,
        pace: &mut Pace,
    ) -> Self {
        let Chat { model, messages, format, options, think, tools } = question;
        let mut encoding = Encoding::of(context);
        encoding.string(model);
        encoding.count(messages.len());
        for message in *messages {
            encoding.long_string(message, pace).await;
        }
        for value in [format, options, think, tools] {
            encoding.value(value.unwrap_or(RawValue::NULL), pace).await;
        }
        Self(encoding.0.finalize().into())
    }

    /// The key of a relayed request: every member counts except a `stream` that Ollama can read. The order of the members
    /// does not count, but that of the members within them does: Ollama renders a prompt from tools and calls, and a grammar
    /// from a schema, in the order in which they came (`api.ToolPropertiesMap`, `api.ToolCallFunctionArguments`).
    pub fn of_request(context: &KeyContext<'_>, request: &Members<'_>) -> Self {
        at_once(Self::of_request_in_steps(context, request, &mut Pace::unbroken()))
    }

    /// As [`CacheKey::of_request`].
    pub(crate) async fn of_request_in_steps(
        context: &KeyContext<'_>,
        request: &Members<'_>,
        pace: &mut Pace,
    ) -> Self {
        let mut encoding = Encoding::of(context);
        let list = sorted(request);
        encoding.count(list.len());
        for (_, name, value) in list {
            encoding.long_string(name, pace).await;
            encoding.value(value, pace).await;
        }
        Self(encoding.0.finalize().into())
    }

    /// The key of an `Idempotency-Key` of this caller.
    pub(crate) fn of_repetition(path: &str, caller: &CallerId, key: &[u8]) -> Self {
        let mut encoding = Encoding(Sha256::new());
        encoding.string("paddock repetition 1");
        encoding.string(path);
        encoding.0.update(caller.as_bytes());
        encoding.0.update(key);
        Self(encoding.0.finalize().into())
    }

    /// The key of an entry that serves only this delivery.
    #[must_use]
    pub fn in_form(&self, form: Delivery) -> Self {
        self.derived("paddock form 1", form.letter())
    }

    /// The key of the flight for requests that find the first events of this flight no longer kept.
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
    pub(crate) fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// Reads what [`CacheKey::to_hex`] wrote; `None` for anything else.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key).ok()?;
        Some(Self(key))
    }
}

/// The members that count, with their names folded, and sorted by these. Members of the same name keep their order, because
/// Ollama takes the last of some and joins others.
fn sorted<'a>(members: &'a Members<'_>) -> Vec<(Cow<'a, str>, &'a str, &'a RawValue)> {
    let named = members.iter().map(|(name, value)| (folded(name), &**name, *value));
    let is_form =
        |name: &str, value: &RawValue| name == "stream" && matches!(value.get(), "true" | "false" | "null");
    let mut list: Vec<_> = named.filter(|(folded, _, value)| !is_form(folded, value)).collect();
    list.sort_by(|(left, ..), (right, ..)| left.cmp(right));
    list
}

struct Encoding(Sha256);

impl Encoding {
    fn of(context: &KeyContext<'_>) -> Self {
        let KeyContext { path, caller, digest, epochs: Epochs { all, model } } = context;
        let mut encoding = Self(Sha256::new());
        encoding.string("paddock answer 5");
        encoding.string(path);
        // A caller id is never all zeros.
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

    /// As [`Encoding::string`], for text of any length.
    async fn long_string(&mut self, string: &str, pace: &mut Pace) {
        self.count(string.len());
        let mut rest = string;
        while !rest.is_empty() {
            let (step, after) = first_step(rest);
            pace.count(step.len()).await;
            self.0.update(step);
            rest = after;
        }
    }

    /// Encodes a value part by part, so that space does not count and depth costs nothing. A string or a literal begins with
    /// a letter for its kind and ends in what is in no text, so that no two values have the same encoding.
    async fn value(&mut self, value: &RawValue, pace: &mut Pace) {
        let mut parts = Parts::of(value.get());
        let mut left = parts.left();
        while let Some(part) = parts.next() {
            if pace.is_due(left - parts.left()) {
                pause().await;
            }
            left = parts.left();
            match part {
                Part::Bracket(bracket) => self.0.update([bracket]),
                Part::String => self.0.update(b"s"),
                Part::Literal => self.0.update(b"d"),
                Part::Text(text) => self.0.update(text),
                Part::Letter(letter) => self.0.update(letter.encode_utf8(&mut [0; 4])),
                Part::End => self.0.update(END),
                Part::Space => {}
            }
        }
    }
}

/// The name of the epoch of what is no name of a model; no name can be this.
const UNNAMED: &str = "#unnamed";

/// The name of a model's epoch. What Ollama would take for no name has one epoch together, because it may be of any length
/// and kind, and epochs stay.
pub(crate) fn epoch_name(model: &str) -> String {
    ModelName::parse(model).map_or_else(|| UNNAMED.to_owned(), |name| name.as_str().to_owned())
}

#[cfg(test)]
mod tests;
