//! Conversations: what a turn is, whose it is, and how a history is trimmed to a budget.
//!
//! Pure rules over plain values; loading and appending are the store's.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{caller::Scope, error::Error};

/// The longest session id, in characters.
pub const SESSION_ID_LIMIT: usize = 128;

/// Who speaks, in Ollama's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The caller.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The word that Ollama uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of the given role.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// What is appended to a session at once and dropped from it at once: a question with its answer, or a system
/// message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Makes a repeated append of the same turn harmless.
    pub id: String,
    /// The messages, in the order they were said.
    pub messages: Vec<Message>,
}

impl Turn {
    /// A question with its answer.
    pub fn exchange(id: String, question: Message, answer: Message) -> Self {
        Self { id, messages: vec![question, answer] }
    }

    fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.content.len()).sum()
    }

    fn is_system(&self) -> bool {
        self.messages.iter().any(|message| message.role == Role::System)
    }
}

/// The name of a session in the store: a hash of the caller's scope and the id, so that ids never appear there
/// and a foreign id is an empty session of one's own.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; 32]);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SessionKey(..)")
    }
}

impl SessionKey {
    /// The key of the session `id` in `scope`.
    ///
    /// # Errors
    /// [`Error::InvalidSessionId`] for an id longer than [`SESSION_ID_LIMIT`] or with control characters.
    pub fn of(scope: &Scope, id: &str) -> Result<Self, Error> {
        if id.chars().count() > SESSION_ID_LIMIT || id.chars().any(char::is_control) {
            return Err(Error::InvalidSessionId);
        }
        let mut hash = Sha256::new();
        hash.update(b"paddock session 1\0");
        hash.update(scope.as_bytes());
        hash.update(id.as_bytes());
        Ok(Self(hash.finalize().into()))
    }

    /// The 256 bits of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// How much history goes ahead of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Messages at most, system messages included.
    pub messages: usize,
    /// Bytes of content at most, system messages included.
    pub bytes: usize,
}

/// The messages of `turns` that fit the budget, in their order.
///
/// System turns always stay, even over the budget. Of the others the newest stay, whole and without a gap: the
/// first that does not fit ends the history.
pub fn trim(turns: &[Turn], budget: Budget) -> Vec<&Message> {
    let mut messages = 0;
    let mut bytes = 0;
    for turn in turns.iter().filter(|turn| turn.is_system()) {
        messages += turn.messages.len();
        bytes += turn.bytes();
    }
    let mut oldest_kept = turns.len();
    for (index, turn) in turns.iter().enumerate().rev() {
        if turn.is_system() {
            continue;
        }
        messages += turn.messages.len();
        bytes += turn.bytes();
        if messages > budget.messages || bytes > budget.bytes {
            break;
        }
        oldest_kept = index;
    }
    turns
        .iter()
        .enumerate()
        .filter(|(index, turn)| *index >= oldest_kept || turn.is_system())
        .flat_map(|(_, turn)| &turn.messages)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exchange(text: &str) -> Turn {
        Turn::exchange(
            text.into(),
            Message::new(Role::User, format!("q{text}")),
            Message::new(Role::Assistant, format!("a{text}")),
        )
    }

    fn system(text: &str) -> Turn {
        Turn { id: text.into(), messages: vec![Message::new(Role::System, text)] }
    }

    #[track_caller]
    fn check(turns: &[Turn], messages: usize, bytes: usize, kept: &[&str]) {
        let history = trim(turns, Budget { messages, bytes });
        let contents: Vec<_> = history.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(contents, kept);
    }

    #[test]
    fn the_newest_turns_that_fit_are_kept_whole() {
        let turns = [exchange("1"), exchange("2"), exchange("3")];
        check(&turns, 10, 100, &["q1", "a1", "q2", "a2", "q3", "a3"]);
        check(&turns, 4, 100, &["q2", "a2", "q3", "a3"]);
        check(&turns, 3, 100, &["q3", "a3"]);
        check(&turns, 10, 7, &["q3", "a3"]);
        check(&turns, 1, 100, &[]);
        check(&[], 1, 1, &[]);
    }

    #[test]
    fn a_system_message_stays_whatever_the_budget() {
        let turns = [system("s"), exchange("1"), exchange("2")];
        check(&turns, 3, 100, &["s", "q2", "a2"]);
        check(&turns, 0, 0, &["s"]);
    }

    #[test]
    fn an_id_is_bounded_and_a_foreign_id_is_another_session() {
        let ann = Scope::public();
        assert!(SessionKey::of(&ann, &"é".repeat(128)).is_ok());
        assert_eq!(SessionKey::of(&ann, &"é".repeat(129)), Err(Error::InvalidSessionId));
        assert_eq!(SessionKey::of(&ann, "a\nb"), Err(Error::InvalidSessionId));
        let mut headers = http::HeaderMap::new();
        headers.insert("x-api-key", http::HeaderValue::from_static("bob"));
        let bob = Scope::of(&headers, None).unwrap();
        assert_ne!(SessionKey::of(&ann, "s"), SessionKey::of(&bob, "s"));
    }

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let turn = (any::<bool>(), "[a-z]{0,20}")
            .prop_map(|(is_system, text)| if is_system { system(&text) } else { exchange(&text) });
        proptest::collection::vec(turn, 0..30)
    }

    proptest! {
        #[test]
        fn trimming_keeps_system_messages_whole_pairs_and_the_budget(
            turns in turns(), messages in 0usize..40, bytes in 0usize..400,
        ) {
            let budget = Budget { messages, bytes };
            let kept = trim(&turns, budget);
            let system_turns: Vec<_> = turns.iter().filter(|turn| turn.is_system()).collect();
            let kept_system = kept.iter().filter(|message| message.role == Role::System).count();
            prop_assert_eq!(kept_system, system_turns.len());
            let spoken: Vec<_> = kept.iter().filter(|message| message.role != Role::System).collect();
            prop_assert_eq!(spoken.len() % 2, 0);
            for pair in spoken.chunks(2) {
                prop_assert_eq!(&pair[0].content[1..], &pair[1].content[1..]);
            }
            // The pairs kept are the newest ones, without a gap.
            let all: Vec<_> = turns.iter().filter(|turn| !turn.is_system()).flat_map(|turn| &turn.messages).collect();
            let newest = &all[all.len() - spoken.len()..];
            prop_assert!(newest.iter().zip(&spoken).all(|(left, right)| left == *right));
            if !spoken.is_empty() {
                prop_assert!(kept.len() <= messages);
                prop_assert!(kept.iter().map(|message| message.content.len()).sum::<usize>() <= bytes);
            }
        }
    }
}
