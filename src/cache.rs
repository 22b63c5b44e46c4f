//! The response cache: its key and its value.
//!
//! The key covers everything that can change the answer, and who asks. It must never be shortened, and a field
//! of [`Question`] that it does not consider does not compile.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    caller::Scope,
    metrics::Tokens,
    wire::{
        dialect::{Dialect, RawMessage},
        members::{self, Members},
        protocol::{Durations, Protocol},
        spoken::Spoken,
    },
};

/// How deep a value may be for the order of its members not to matter.
const DEPTH: usize = 16;

/// What the cache did for a request; the header `X-Cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheStatus {
    /// Answered from the cache.
    Hit,
    /// Looked up, not found, asked upstream.
    Miss,
    /// Not looked up: switched off, or the store is down.
    Bypass,
}

impl CacheStatus {
    /// The value of the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// Everything that can change an answer.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who asks.
    pub scope: &'a Scope,
    /// The model, as the caller spelled it.
    pub model: &'a str,
    /// The whole message list in Ollama's dialect, history, system message and images included.
    pub messages: &'a [&'a str],
    /// The form that the answer must have, as it was written: a grammar follows the order of a schema's members.
    pub format: Option<&'a str>,
    /// The options of the run.
    pub options: Option<&'a RawValue>,
    /// Whether and how hard the model thinks first.
    pub think: Option<&'a RawValue>,
    /// The tools that the model may call.
    pub tools: Option<&'a RawValue>,
}

/// The 256-bit name of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl std::fmt::Debug for CacheKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CacheKey(..)")
    }
}

impl CacheKey {
    /// SHA-256 over a canonical encoding: a version, then each field in a fixed order, each string behind its
    /// length as 64 bits and each list behind its count, so that no two questions have the same encoding.
    pub fn of(question: &Question<'_>) -> Self {
        let Question { scope, model, messages, format, options, think, tools } = question;
        let mut encoding = Encoding(Sha256::new());
        encoding.string("paddock /chat 2");
        encoding.0.update(scope.as_bytes());
        encoding.string(model);
        encoding.count(messages.len());
        for message in *messages {
            encoding.string(message);
        }
        encoding.string(format.unwrap_or_default());
        for value in [options, think, tools] {
            encoding.value(value.unwrap_or(RawValue::NULL), DEPTH);
        }
        Self(encoding.0.finalize().into())
    }

    /// The 256 bits of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

struct Encoding(Sha256);

impl Encoding {
    fn count(&mut self, count: usize) {
        self.0.update((count as u64).to_le_bytes());
    }

    fn string(&mut self, string: &str) {
        self.count(string.len());
        self.0.update(string);
    }

    /// A value behind a letter for its kind, an object's members in the order of their names. What is not read is
    /// taken as it was written, and so is what lies deeper than `depth`.
    fn value(&mut self, value: &RawValue, depth: usize) {
        if let Some(string) = members::string(value) {
            self.0.update(b"s");
            self.string(&string);
        } else if let Some(values) = members::elements(value).filter(|_| depth > 0) {
            self.0.update(b"a");
            self.count(values.len());
            for value in values {
                self.value(value, depth - 1);
            }
        } else if let Some(members) = Members::of(value).filter(|_| depth > 0) {
            self.0.update(b"o");
            let mut sorted = BTreeMap::new();
            for (name, value) in members.iter() {
                sorted.insert(&**name, *value);
            }
            self.count(sorted.len());
            for (name, value) in sorted {
                self.string(name);
                self.value(value, depth - 1);
            }
        } else {
            self.0.update(b"d");
            self.string(value.get());
        }
    }
}

/// A complete answer, as it is stored. Only successful, non-empty ones are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CachedAnswer {
    /// What the model said.
    pub spoken: Spoken,
    /// Tokens, by Ollama's count.
    pub tokens: Tokens,
    /// How long Ollama took.
    pub durations: Durations,
}

/// An answer as Ollama itself gives it in one piece, as far as it is read again.
#[derive(Serialize)]
struct Written<'a> {
    message: RawMessage,
    done: bool,
    done_reason: Option<&'a str>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u64,
    prompt_eval_duration: u64,
    eval_count: u64,
    eval_duration: u64,
}

impl CachedAnswer {
    /// An answer with its counts.
    pub fn new(spoken: Spoken, tokens: Tokens, durations: Durations) -> Self {
        Self { spoken, tokens, durations }
    }

    /// The answer that [`CachedAnswer::to_json`] wrote; `None` for anything else.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let chunk = Protocol::OllamaChat.read_whole(json).filter(|chunk| chunk.end)?;
        let mut spoken = Spoken::default();
        spoken.add(&chunk);
        Some(Self::new(spoken, chunk.tokens.unwrap_or_default(), chunk.durations.unwrap_or_default()))
    }

    /// The answer in the form of Ollama's own `/api/chat`.
    pub fn to_json(&self) -> Vec<u8> {
        let Self { spoken, tokens, durations } = self;
        let written = Written {
            message: self.message(Dialect::Ollama),
            done: true,
            done_reason: spoken.finish.as_deref(),
            total_duration: durations.total,
            load_duration: durations.load,
            prompt_eval_count: tokens.prompt,
            prompt_eval_duration: durations.prompt_eval,
            eval_count: tokens.completion,
            eval_duration: durations.eval,
        };
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// Whether the model said nothing that is worth keeping.
    pub fn is_empty(&self) -> bool {
        self.spoken.is_empty()
    }

    /// The answer as a message of a conversation.
    pub fn message(&self, dialect: Dialect) -> RawMessage {
        self.spoken.message(dialect)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn key(scope: &Scope, model: &str, messages: &[&str]) -> CacheKey {
        CacheKey::of(&question(scope, model, messages))
    }

    fn question<'a>(scope: &'a Scope, model: &'a str, messages: &'a [&'a str]) -> Question<'a> {
        Question { scope, model, messages, format: None, options: None, think: None, tools: None }
    }

    #[test]
    fn each_field_changes_the_key() {
        let public = Scope::public();
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", HeaderValue::from_static("ann"));
        let ann = Scope::of(&headers, None).unwrap();
        let base = question(&public, "llama3.2", &["hi"]);
        let (one, two) = (raw(r#"{"seed":1,"top_k":2}"#), raw(r#"{"seed":2,"top_k":2}"#));
        let others = [
            ("caller", Question { scope: &ann, ..base }),
            ("model", Question { model: "llama3.1", ..base }),
            ("content", Question { messages: &["hi "], ..base }),
            ("history", Question { messages: &["a", "b", "hi"], ..base }),
            ("format", Question { format: Some("\"json\""), ..base }),
            ("options", Question { options: Some(&one), ..base }),
            ("other options", Question { options: Some(&two), ..base }),
            ("think", Question { think: Some(&raw("false")), ..base }),
            ("the same value elsewhere", Question { think: Some(&one), ..base }),
            ("tools", Question { tools: Some(&one), ..base }),
        ];
        let mut keys = vec![("base", CacheKey::of(&base))];
        keys.extend(others.map(|(what, question)| (what, CacheKey::of(&question))));
        for (index, (what, key)) in keys.iter().enumerate() {
            for (other, earlier) in keys.iter().take(index) {
                assert_ne!(key, earlier, "{what} {other}");
            }
        }
        assert_eq!(CacheKey::of(&base), key(&public, "llama3.2", &["hi"]));
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let public = Scope::public();
        let base = question(&public, "m", &["hi"]);
        let of = |text: &str| CacheKey::of(&Question { options: Some(&raw(text)), ..base });
        assert_eq!(of(r#"{"a":1,"b":[2,{"c":3,"d":4}]}"#), of(r#"{"b":[2, {"d":4,"c":3}], "a":1}"#));
        assert_ne!(of(r#"{"a":[1,2]}"#), of(r#"{"a":[2,1]}"#));
        assert_ne!(of(r#"{"a":"1"}"#), of(r#"{"a":1}"#));
        assert_ne!(of(r#"{"a":null}"#), of("{}"));
        // Deeper than anybody looks, a value is taken as it was written, and no stack runs out.
        let deep = |inner: &str| format!("{{\"a\":{}{inner}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert_ne!(of(&deep("1")), of(&deep("2")));
        assert_eq!(of(&deep("1")), of(&deep("1")));
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let line = br#"{"message":{"content":"a\n\"","thinking":"hm","tool_calls":[{"id":"c","function":{"index":0,"name":"f","arguments":{"x": 1}}}]},"done":true,"done_reason":"stop","total_duration":4,"load_duration":3,"prompt_eval_count":7,"prompt_eval_duration":2,"eval_count":9,"eval_duration":1}"#;
        let answer = CachedAnswer::from_json(line).unwrap();
        assert_eq!((answer.spoken.text.as_str(), answer.spoken.calls.len()), ("a\n\"", 1));
        assert_eq!((answer.tokens, answer.durations.total), (Tokens { prompt: 7, completion: 9 }, 4));
        assert_eq!(CachedAnswer::from_json(&answer.to_json()), Some(answer));
    }

    proptest! {
        #[test]
        fn moving_a_boundary_between_neighbours_changes_the_key(
            text in "[a-z]{2,12}", cut in 1usize..11, other in 1usize..11,
        ) {
            let (cut, other) = (cut.min(text.len() - 1), other.min(text.len() - 1));
            prop_assume!(cut != other);
            let public = Scope::public();
            let split = |at: usize| key(&public, "m", &[&text[..at], &text[at..]]);
            prop_assert_ne!(split(cut), split(other));
            let with_model = |at: usize| key(&public, &text[..at], &[&text[at..]]);
            prop_assert_ne!(with_model(cut), with_model(other));
        }

        #[test]
        fn equal_questions_alone_share_a_key(
            left in proptest::collection::vec("[ab\u{0}]{0,3}", 0..4),
            right in proptest::collection::vec("[ab\u{0}]{0,3}", 0..4),
        ) {
            let public = Scope::public();
            let of = |texts: &[String]| {
                let messages: Vec<_> = texts.iter().map(String::as_str).collect();
                key(&public, "m", &messages)
            };
            prop_assert_eq!(of(&left) == of(&right), left == right);
        }
    }
}
