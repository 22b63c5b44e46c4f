//! The response cache: its key and its value.
//!
//! The key covers everything that can change the answer, and who asks. It must never be shortened, and a field
//! of [`Question`] that it does not consider does not compile.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    caller::Scope,
    metrics::Tokens,
    wire::{
        dialect::{Dialect, RawMessage},
        protocol::Durations,
        spoken::Spoken,
    },
};

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
    pub options: Option<&'a Value>,
    /// Whether and how hard the model thinks first.
    pub think: Option<&'a Value>,
    /// The tools that the model may call.
    pub tools: Option<&'a Value>,
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
            encoding.value(value.unwrap_or(&Value::Null));
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

    /// A value behind a letter for its kind, an object's members in the order of their names.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.0.update(b"n"),
            Value::Bool(yes) => self.0.update(if *yes { b"t" } else { b"f" }),
            Value::Number(number) => {
                self.0.update(b"d");
                self.string(&number.to_string());
            }
            Value::String(string) => {
                self.0.update(b"s");
                self.string(string);
            }
            Value::Array(values) => {
                self.0.update(b"a");
                self.count(values.len());
                for value in values {
                    self.value(value);
                }
            }
            Value::Object(members) => {
                self.0.update(b"o");
                self.count(members.len());
                let mut members: Vec<_> = members.iter().collect();
                members.sort_unstable_by_key(|(name, _)| *name);
                for (name, value) in members {
                    self.string(name);
                    self.value(value);
                }
            }
        }
    }
}

/// A complete answer, as it is stored. Only successful, non-empty ones are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedAnswer {
    /// What the model said.
    pub spoken: Spoken,
    /// Tokens, by Ollama's count.
    #[serde(default)]
    pub tokens: Tokens,
    /// How long Ollama took.
    #[serde(default)]
    pub durations: Durations,
}

impl CachedAnswer {
    /// An answer with its counts.
    pub fn new(spoken: Spoken, tokens: Tokens, durations: Durations) -> Self {
        Self { spoken, tokens, durations }
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
    use serde_json::json;

    use super::*;

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
        let (one, two) = (json!({"seed": 1, "top_k": 2}), json!({"seed": 2, "top_k": 2}));
        let others = [
            ("caller", Question { scope: &ann, ..base }),
            ("model", Question { model: "llama3.1", ..base }),
            ("content", Question { messages: &["hi "], ..base }),
            ("history", Question { messages: &["a", "b", "hi"], ..base }),
            ("format", Question { format: Some("\"json\""), ..base }),
            ("options", Question { options: Some(&one), ..base }),
            ("other options", Question { options: Some(&two), ..base }),
            ("think", Question { think: Some(&Value::Bool(false)), ..base }),
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
        let of = |text: &str| {
            let options = serde_json::from_str(text).unwrap();
            CacheKey::of(&Question { options: Some(&options), ..base })
        };
        assert_eq!(of(r#"{"a":1,"b":[2,{"c":3,"d":4}]}"#), of(r#"{"b":[2, {"d":4,"c":3}], "a":1}"#));
        assert_ne!(of(r#"{"a":[1,2]}"#), of(r#"{"a":[2,1]}"#));
        assert_ne!(of(r#"{"a":"1"}"#), of(r#"{"a":1}"#));
        assert_ne!(of(r#"{"a":null}"#), of("{}"));
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
