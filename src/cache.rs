//! The response cache: its key and its value.
//!
//! The key covers everything that can change the answer, and who asks. It must never be shortened, and a field
//! of [`Question`] that it does not consider does not compile.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{caller::Scope, session::Message};

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
    /// The whole message list, history included.
    pub messages: &'a [&'a Message],
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
        let Question { scope, model, messages } = question;
        let mut encoding = Encoding(Sha256::new());
        encoding.string("paddock /chat 1");
        encoding.0.update(scope.as_bytes());
        encoding.string(model);
        encoding.count(messages.len());
        for Message { role, content } in *messages {
            encoding.string(role.as_str());
            encoding.string(content);
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
}

/// A stored answer. Only complete, successful, non-empty ones are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CachedAnswer {
    /// The model's whole reply.
    pub response: String,
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;
    use crate::session::Role;

    fn key(scope: &Scope, model: &str, messages: &[Message]) -> CacheKey {
        let messages: Vec<_> = messages.iter().collect();
        CacheKey::of(&Question { scope, model, messages: &messages })
    }

    fn user(content: &str) -> Message {
        Message::new(Role::User, content)
    }

    #[test]
    fn each_field_changes_the_key() {
        let public = Scope::public();
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", HeaderValue::from_static("ann"));
        let ann = Scope::of(&headers, None).unwrap();
        let base = key(&public, "llama3.2", &[user("hi")]);
        assert_eq!(base, key(&public, "llama3.2", &[user("hi")]));
        for (what, other) in [
            ("caller", key(&ann, "llama3.2", &[user("hi")])),
            ("model", key(&public, "llama3.1", &[user("hi")])),
            ("content", key(&public, "llama3.2", &[user("hi ")])),
            ("role", key(&public, "llama3.2", &[Message::new(Role::System, "hi")])),
            (
                "history",
                key(&public, "llama3.2", &[user("a"), Message::new(Role::Assistant, "b"), user("hi")]),
            ),
        ] {
            assert_ne!(base, other, "{what}");
        }
    }

    proptest! {
        #[test]
        fn moving_a_boundary_between_neighbours_changes_the_key(
            text in "[a-z]{2,12}", cut in 1usize..11, other in 1usize..11,
        ) {
            let (cut, other) = (cut.min(text.len() - 1), other.min(text.len() - 1));
            prop_assume!(cut != other);
            let public = Scope::public();
            let split = |at: usize| key(&public, "m", &[user(&text[..at]), user(&text[at..])]);
            prop_assert_ne!(split(cut), split(other));
            let with_model = |at: usize| key(&public, &text[..at], &[user(&text[at..])]);
            prop_assert_ne!(with_model(cut), with_model(other));
        }

        #[test]
        fn equal_questions_alone_share_a_key(
            left in proptest::collection::vec("[ab\u{0}]{0,3}", 0..4),
            right in proptest::collection::vec("[ab\u{0}]{0,3}", 0..4),
        ) {
            let public = Scope::public();
            let of = |texts: &[String]| {
                let messages: Vec<_> = texts.iter().map(|text| user(text)).collect();
                key(&public, "m", &messages)
            };
            prop_assert_eq!(of(&left) == of(&right), left == right);
        }
    }
}
