//! Conversations: what a turn is, whose it is, and how a history is trimmed to a budget.
//!
//! Pure rules over plain values; loading and appending are the store's.

use std::{borrow::Cow, time::Duration};

use serde::Serialize;
use sha2::{Digest, Sha256};

pub use crate::wire::dialect::{Dialect, RawMessage};
use crate::{
    caller::Scope,
    error::Error,
    window,
    wire::{
        dialect::{self, MessageRole, Weight},
        members::Members,
    },
};

/// The longest session id, in characters.
pub const SESSION_ID_LIMIT: usize = 128;

/// Whether the turn is in the session's history; the header `X-Session`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SessionStatus {
    /// The turn is stored. Only this acknowledges it.
    Stored,
    /// The store is down: the history was not read, or the turn not written.
    Unavailable,
}

impl SessionStatus {
    /// The value of the header.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What is appended to a session at once and dropped from it at once: what was asked with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// Makes a repeated append of the same turn harmless.
    pub id: String,
    /// How its messages are written: as the surface had them that the turn came by.
    pub dialect: Dialect,
    /// The system message that holds from this turn on, unless a later turn has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The messages, in the order they were said.
    pub messages: Vec<RawMessage>,
}

impl Turn {
    /// A turn as it was written; `None` for anything else.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let turn = Members::parse(json)?;
        Some(Self {
            id: turn.string("id")?.into_owned(),
            dialect: Dialect::named(&turn.string("dialect")?)?,
            system: turn.string("system").map(Cow::into_owned),
            messages: turn.array("messages")?.into_iter().map(RawMessage::from_raw).collect(),
        })
    }

    /// The turn as JSON, its id first.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and JSON alone: writing them cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What its messages have of what a model reads.
    pub(crate) fn weight(&self) -> Weight {
        self.messages.iter().map(|message| Weight::of(message.as_raw())).sum()
    }

    /// Whether it begins with the result of a tool, which says nothing without the call before it.
    fn answers_a_call(&self) -> bool {
        self.messages.first().is_some_and(|message| dialect::role(message.as_raw()) == MessageRole::Tool)
    }

    /// The size of its messages as JSON, in bytes.
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.as_str().len()).sum()
    }
}

/// What a session was given when it was made; a session that its first turn made was given nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionHead {
    /// The system message that holds until a turn has one.
    pub system: Option<String>,
    /// The model of its turns that name none, where naming none is possible.
    pub model: Option<String>,
    /// How long it is kept after its last use, in whole seconds.
    pub ttl: Option<Duration>,
}

#[derive(Serialize)]
struct StoredHead<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

impl SessionHead {
    /// The head as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let stored = StoredHead {
            system: self.system.as_deref(),
            model: self.model.as_deref(),
            ttl: self.ttl.map(|ttl| ttl.as_secs()),
        };
        // Strings and a number alone: writing them cannot fail.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// A head as it was written; `None` for anything else. What a later version added is left out.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let head = Members::parse(json)?;
        let text = |name| head.string(name).map(Cow::into_owned);
        Some(Self {
            system: text("system"),
            model: text("model"),
            ttl: head.number("ttl").filter(|seconds| *seconds > 0).map(Duration::from_secs),
        })
    }
}

/// A session as it is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// What it was given when it was made.
    pub head: SessionHead,
    /// How long ago it was made.
    pub age: Duration,
    /// Its turns, oldest first.
    pub turns: Vec<Turn>,
}

impl Session {
    /// The system message that holds: the newest of a turn, else the head's.
    pub fn system(&self) -> Option<&str> {
        let said = self.turns.iter().rev().find_map(|turn| turn.system.as_deref());
        said.or(self.head.system.as_deref())
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
    /// Messages at most, the system message included.
    pub messages: usize,
    /// Bytes of messages as JSON at most, the system message included.
    pub bytes: usize,
    /// Tokens at most, by estimate, the system message included.
    pub tokens: usize,
}

impl Budget {
    /// How many turns can be of use: a turn has two messages at least.
    pub fn turns(&self) -> usize {
        self.messages.div_ceil(2).max(1)
    }
}

/// What a session remembers, within the budget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History<'a> {
    /// The system message that holds.
    pub system: Option<&'a str>,
    /// How many turns ago it was said; `None` for the one of the session's head, which is never dropped.
    system_age: Option<usize>,
    /// The newest turns, oldest first.
    pub turns: &'a [Turn],
    /// How many older turns of the session did not fit.
    pub left_out: usize,
}

impl<'a> History<'a> {
    /// The history that fits the budget.
    ///
    /// The newest system message always stays, even over the budget. Of the turns the newest stay, whole and without
    /// a gap: the first that does not fit ends the history. A turn that begins with the result of a tool stays with the
    /// turn that called it, or goes with it.
    pub fn new(session: &'a Session, budget: Budget) -> Self {
        let turns = &*session.turns;
        let system = session.system();
        let mut messages = usize::from(system.is_some());
        let mut bytes = system.map_or(0, str::len);
        let mut tokens = system.map_or(0, |system| window::tokens(Weight::of_text(system)));
        let mut kept = 0;
        for (count, turn) in (1..).zip(turns.iter().rev()) {
            messages += turn.messages.len();
            bytes += turn.bytes();
            tokens += window::tokens(turn.weight());
            if messages > budget.messages || bytes > budget.bytes || tokens > budget.tokens {
                break;
            }
            if !turn.answers_a_call() {
                kept = count;
            }
        }
        let left_out = turns.len() - kept;
        Self {
            system,
            system_age: turns.iter().rev().position(|turn| turn.system.is_some()),
            turns: turns.get(left_out..).unwrap_or_default(),
            left_out,
        }
    }

    /// The messages in `dialect`, oldest first, without the system message.
    pub fn messages(&self, dialect: Dialect) -> impl Iterator<Item = RawMessage> + use<'a> {
        let turns = self.turns.iter();
        turns.flat_map(move |turn| {
            turn.messages.iter().map(move |message| dialect::convert(message, turn.dialect, dialect))
        })
    }

    /// The system message that the next turn must store, of which `keep` turns are kept: a new one, or the one that
    /// holds before the turn that has it is dropped.
    pub fn system_to_store(&self, fresh: Option<String>, keep: usize) -> Option<String> {
        let holds = self.system.filter(|system| fresh.as_deref().is_none_or(|fresh| fresh == *system));
        match (holds, self.system_age) {
            (Some(_), None) => None,
            (Some(_), Some(age)) if age + 1 < keep.div_ceil(2) => None,
            (Some(system), Some(_)) => Some(system.to_owned()),
            (None, _) => fresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{json, value::to_raw_value};

    use super::*;

    const WIDE: Budget = Budget { messages: 40, bytes: 1000, tokens: usize::MAX };

    fn message(role: &str, text: &str) -> RawMessage {
        RawMessage::from_raw(&to_raw_value(&json!({"role": role, "content": text})).unwrap())
    }

    fn exchange(text: &str) -> Turn {
        Turn {
            id: text.into(),
            dialect: Dialect::Ollama,
            system: None,
            messages: vec![message("user", text), message("assistant", text)],
        }
    }

    fn with_system(text: &str, system: &str) -> Turn {
        Turn { system: Some(system.into()), ..exchange(text) }
    }

    fn ids<'a>(history: &History<'a>) -> Vec<&'a str> {
        history.turns.iter().map(|turn| turn.id.as_str()).collect()
    }

    fn session(turns: &[Turn]) -> Session {
        Session { turns: turns.to_vec(), ..Session::default() }
    }

    #[track_caller]
    fn check(turns: &[Turn], messages: usize, bytes: usize, kept: &[&str]) {
        assert_eq!(ids(&History::new(&session(turns), Budget { messages, bytes, tokens: usize::MAX })), kept);
    }

    #[test]
    fn the_newest_turns_that_fit_are_kept_whole() {
        let turns = [exchange("1"), exchange("2"), exchange("3")];
        let size = turns[0].bytes();
        check(&turns, 10, 1000, &["1", "2", "3"]);
        check(&turns, 4, 1000, &["2", "3"]);
        check(&turns, 3, 1000, &["3"]);
        check(&turns, 10, 2 * size - 1, &["3"]);
        check(&turns, 1, 1000, &[]);
        check(&[], 1, 1, &[]);
    }

    #[test]
    fn turns_are_kept_within_their_tokens_and_those_left_out_are_counted() {
        let session = session(&[exchange("1"), exchange("2"), exchange("3")]);
        let each = window::tokens(session.turns[0].weight());
        for (tokens, kept) in [(3 * each, 3), (3 * each - 1, 2), (2 * each, 2), (each - 1, 0)] {
            let history = History::new(&session, Budget { tokens, ..WIDE });
            assert_eq!((history.turns.len(), history.left_out), (kept, 3 - kept), "{tokens}");
        }
        let head = SessionHead { system: Some("s".repeat(300)), ..SessionHead::default() };
        let session = Session { head, ..session };
        let history = History::new(&session, Budget { tokens: 3 * each, ..WIDE });
        assert!(history.turns.is_empty() && history.system.is_some());
    }

    #[test]
    fn the_result_of_a_tool_stays_with_its_call_or_goes_with_it() {
        let call = Turn { messages: vec![message("user", "q"), message("assistant", "")], ..exchange("2") };
        let result =
            Turn { messages: vec![message("tool", "r"), message("assistant", "a")], ..exchange("3") };
        let session = session(&[exchange("1"), call, result, exchange("4")]);
        for (messages, kept) in [(8, vec!["1", "2", "3", "4"]), (6, vec!["2", "3", "4"]), (4, vec!["4"])] {
            let history = History::new(&session, Budget { messages, ..WIDE });
            assert_eq!(ids(&history), kept, "{messages}");
        }
    }

    #[test]
    fn the_newest_system_message_holds_whatever_the_budget() {
        let session = session(&[with_system("1", "old"), with_system("2", "new"), exchange("3")]);
        let history = History::new(&session, Budget { messages: 3, ..WIDE });
        assert_eq!((history.system, ids(&history)), (Some("new"), vec!["3"]));
        let none = History::new(&session, Budget { messages: 0, bytes: 0, tokens: 0 });
        assert_eq!((none.system, ids(&none)), (Some("new"), vec![]));
    }

    #[test]
    fn a_system_message_is_stored_when_it_is_new_or_about_to_be_dropped() {
        let session = session(&[with_system("1", "s"), exchange("2"), exchange("3")]);
        let history = History::new(&session, WIDE);
        for (fresh, keep, stored) in [
            (None, 20, None),
            (Some("s"), 20, None),
            (Some("t"), 20, Some("t")),
            (None, 6, Some("s")),
            (Some("s"), 6, Some("s")),
            (None, 1, Some("s")),
        ] {
            let found = history.system_to_store(fresh.map(str::to_owned), keep);
            assert_eq!(found.as_deref(), stored, "{fresh:?} {keep}");
        }
        assert_eq!(History::default().system_to_store(Some("t".into()), 20).as_deref(), Some("t"));
        assert_eq!(History::default().system_to_store(None, 20), None);
    }

    #[test]
    fn the_heads_system_message_holds_until_a_turn_has_one_and_is_not_stored_again() {
        let head = SessionHead { system: Some("s".into()), ..SessionHead::default() };
        let budget = Budget { messages: 3, ..WIDE };
        let mut session = Session { head, turns: vec![exchange("1"), exchange("2")], ..Session::default() };
        let history = History::new(&session, budget);
        assert_eq!((history.system, ids(&history)), (Some("s"), vec!["2"]));
        for (fresh, stored) in [(None, None), (Some("s"), None), (Some("t"), Some("t"))] {
            let found = history.system_to_store(fresh.map(str::to_owned), 1);
            assert_eq!(found.as_deref(), stored, "{fresh:?}");
        }
        session.turns.insert(1, with_system("t", "t"));
        let history = History::new(&session, budget);
        assert_eq!(history.system, Some("t"));
        assert_eq!(history.system_to_store(None, 2).as_deref(), Some("t"));
        // Going back to the head's is a change as well.
        assert_eq!(history.system_to_store(Some("s".into()), 2).as_deref(), Some("s"));
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_another_versions_is_none() {
        for (head, json) in [
            (SessionHead::default(), "{}"),
            (
                SessionHead {
                    system: Some("\"s\"".into()),
                    model: Some("m".into()),
                    ttl: Some(Duration::from_secs(90)),
                },
                r#"{"system":"\"s\"","model":"m","ttl":90}"#,
            ),
        ] {
            assert_eq!(head.to_json(), json.as_bytes());
            assert_eq!(SessionHead::from_json(json.as_bytes()), Some(head));
        }
        assert_eq!(SessionHead::from_json(br#"{"ttl":0,"later":[]}"#), Some(SessionHead::default()));
        assert_eq!(SessionHead::from_json(b"later"), None);
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

    proptest! {
        #[test]
        fn what_is_kept_is_the_newest_part_within_the_budget(
            texts in proptest::collection::vec((any::<bool>(), "[a-z]{0,20}"), 0..30),
            messages in 0usize..40, bytes in 0usize..2000,
        ) {
            let turn = |(has, text): &(bool, String)| if *has { with_system(text, text) } else { exchange(text) };
            let turns: Vec<_> = texts.iter().map(turn).collect();
            let session = session(&turns);
            let history = History::new(&session, Budget { messages, bytes, tokens: usize::MAX });
            prop_assert_eq!(history.turns, &turns[turns.len() - history.turns.len()..]);
            let newest = turns.iter().rev().find_map(|turn| turn.system.as_deref());
            prop_assert_eq!(history.system, newest);
            if !history.turns.is_empty() {
                let system = usize::from(newest.is_some());
                prop_assert!(history.turns.len() * 2 + system <= messages);
                let size: usize = history.turns.iter().map(Turn::bytes).sum();
                prop_assert!(size + newest.map_or(0, str::len) <= bytes);
            }
        }
    }
}
