//! Conversations: what a turn is, whose it is, and how a history is trimmed to a budget.
//!
//! Pure rules over plain values; loading and appending are the store's.

pub(crate) mod window;

use std::{borrow::Cow, iter::repeat, time::Duration};

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

pub use crate::wire::dialect::{Dialect, RawMessage};
use crate::{
    api::{auth::CallerId, error::Error},
    session::window::Rate,
    wire::{
        dialect::{self, MessageRole, Thread, Weight},
        members::Members,
    },
};

/// The longest session id, in characters.
pub const SESSION_ID_LIMIT: usize = 128;

/// How many turns of a session are kept at most; the oldest go first.
pub const KEPT_TURNS: usize = 1000;
/// How many bytes the turns of a session have at most, as JSON; the oldest go first. The newest is kept whatever it has.
pub const KEPT_BYTES: usize = 4 << 20;

/// How many of the newest turns stay when `turns` are kept at most; `sizes` are their bytes, newest first.
pub fn kept(sizes: impl IntoIterator<Item = usize>, turns: usize) -> usize {
    let mut total = 0_usize;
    let fits = |(count, size): &(usize, usize)| {
        total = total.saturating_add(*size);
        *count == 0 || (*count < turns && total <= KEPT_BYTES)
    };
    sizes.into_iter().enumerate().take_while(fits).count()
}

/// Which turns of a session are read: the newest, or the newest before one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<'a> {
    /// The id of the turn before which they are; before one that is not there is nothing.
    pub before: Option<&'a str>,
    /// How many at most.
    pub turns: usize,
    /// The first turn that brings their JSON over so many bytes is the last that is read.
    pub bytes: usize,
}

impl Span<'_> {
    /// All that are kept.
    pub const ALL: Span<'static> = Span { before: None, turns: usize::MAX, bytes: usize::MAX };

    /// How many turns are read of those that have so many bytes, newest first.
    pub fn count(&self, sizes: impl IntoIterator<Item = usize>) -> usize {
        let mut left = Some(self.bytes);
        let reads = |size: &usize| left.map(|bytes| left = bytes.checked_sub(*size)).is_some();
        sizes.into_iter().take(self.turns).take_while(reads).count()
    }
}

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
    /// What Ollama made of the prompt that it answered, when it said so and there were no images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptCount>,
}

/// How many tokens Ollama counted in a prompt of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptCount {
    /// By Ollama's count.
    pub tokens: u64,
    /// Of text, as history is estimated by.
    pub bytes: u64,
}

impl PromptCount {
    /// The count of a prompt of that weight; `None` where it says nothing of text.
    pub(crate) fn of(tokens: u64, weight: Weight) -> Option<Self> {
        let bytes = u64::try_from(weight.bytes).ok().filter(|bytes| *bytes > 0)?;
        (tokens > 0 && weight.images == 0).then_some(Self { tokens, bytes })
    }
}

impl Serialize for PromptCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.tokens, self.bytes).serialize(serializer)
    }
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
            prompt: turn.array("prompt").and_then(|count| match *count {
                [tokens, bytes] => {
                    Some(PromptCount { tokens: tokens.get().parse().ok()?, bytes: bytes.get().parse().ok()? })
                }
                _ => None,
            }),
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
    /// When it was made, as its store counts; tells it from another of the same key, if the store knows it.
    pub generation: Option<u64>,
    /// The system message of the newest turn that had one, whether that turn is still kept or not; `None` when no turn had
    /// one, or an older version stored it.
    pub system: Option<String>,
    /// How many turns it had before those that were read, counting those that are kept no more.
    pub skipped: usize,
    /// The turns that were read, oldest first.
    pub turns: Vec<Turn>,
}

impl Session {
    /// Puts the turns of an earlier part of the same session ahead.
    pub(crate) fn prepend(&mut self, earlier: Self) {
        self.skipped = earlier.skipped;
        self.turns.splice(..0, earlier.turns);
    }

    /// The system message that holds: the newest of a turn, else the head's.
    pub fn system(&self) -> Option<&str> {
        let said = || self.turns.iter().rev().find_map(|turn| turn.system.as_deref());
        self.system.as_deref().or_else(said).or(self.head.system.as_deref())
    }

    /// Whether the newest turn ended with calls of tools, whose results are not there yet.
    pub(crate) fn awaits_results(&self) -> bool {
        let last = self.turns.last().and_then(|turn| turn.messages.last());
        last.is_some_and(|message| dialect::calls_tools(message.as_raw()))
    }

    /// How many of the newest turns belong together: each but the oldest begins with the result of a call before it.
    fn exchange(&self) -> usize {
        let answering = self.turns.iter().rev().take_while(|turn| turn.answers_a_call()).count();
        (answering + 1).min(self.turns.len())
    }

    /// The turn before which the newest exchange began, where that was not read.
    pub(crate) fn unread_exchange(&self) -> Option<&Turn> {
        let oldest = self.turns.first().filter(|turn| self.skipped > 0 && turn.answers_a_call())?;
        (self.exchange() == self.turns.len()).then_some(oldest)
    }

    /// Whether the system message that holds is kept whatever turns go.
    fn keeps_system(&self) -> bool {
        self.system.is_some() || self.turns.iter().all(|turn| turn.system.is_none())
    }
}

/// The name of a session in the store: a hash of the caller's id and the id, so that ids never appear there
/// and a foreign id is an empty session of one's own.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; 32]);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SessionKey(..)")
    }
}

impl SessionKey {
    /// The key of the session `id` in `caller`.
    ///
    /// # Errors
    /// [`Error::InvalidSessionId`] for an id longer than [`SESSION_ID_LIMIT`] or with control characters.
    pub fn of(caller: &CallerId, id: &str) -> Result<Self, Error> {
        if id.chars().count() > SESSION_ID_LIMIT || id.chars().any(char::is_control) {
            return Err(Error::InvalidSessionId);
        }
        let mut hash = Sha256::new();
        hash.update(b"paddock session 1\0");
        hash.update(caller.as_bytes());
        hash.update(id.as_bytes());
        Ok(Self(hash.finalize().into()))
    }

    /// The 256 bits of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Bytes that a turn as JSON has beside its messages, generously.
const TURN_ENVELOPE: usize = 256;

/// How much history goes ahead of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Messages at most, the system message included.
    pub messages: usize,
    /// Bytes of messages as JSON at most, the system message included.
    pub bytes: usize,
    /// Tokens at most, by estimate, the system message included.
    pub tokens: usize,
}

impl HistoryLimits {
    /// The turns that can be of use: a turn has two messages at least, and as JSON some bytes beside them.
    pub fn span(&self) -> Span<'static> {
        let turns = self.messages.div_ceil(2).max(1);
        Span { before: None, turns, bytes: self.bytes.saturating_add(turns.saturating_mul(TURN_ENVELOPE)) }
    }
}

/// What a session remembers, within the budget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History<'a> {
    /// The system message that holds.
    pub system: Option<&'a str>,
    /// Whether it goes with the turn that brought it, as older versions stored it.
    system_goes: bool,
    /// The newest turns, oldest first.
    pub turns: &'a [Turn],
    /// How many older turns the session had: what did not fit, what need not be read for that, and what is kept no more.
    pub left_out: usize,
}

impl<'a> History<'a> {
    /// The history that fits the budget.
    ///
    /// The newest system message always stays, even over the budget. Of the turns the newest stay, whole and without
    /// a gap: the first that does not fit ends the history. A turn that begins with the result of a tool stays with the
    /// turn that called it, or goes with it.
    pub fn new(session: &'a Session, budget: HistoryLimits) -> Self {
        Self::of(session, budget, 0)
    }

    /// As [`History::new`] for a request that brings results of the newest turn's calls: that turn stays whatever the budget,
    /// and with it those before it which it is the result of.
    pub fn with_calls(session: &'a Session, budget: HistoryLimits) -> Self {
        Self::of(session, budget, session.exchange())
    }

    fn of(session: &'a Session, budget: HistoryLimits, least: usize) -> Self {
        let turns = &*session.turns;
        let system = session.system();
        let mut messages = usize::from(system.is_some());
        let mut bytes = system.map_or(0, str::len);
        let rate = Rate::of(turns);
        let mut tokens = system.map_or(0, |system| rate.tokens(Weight::of_text(system)));
        let mut kept = 0;
        for (count, turn) in (1..).zip(turns.iter().rev()) {
            messages += turn.messages.len();
            bytes += turn.bytes();
            tokens += rate.tokens(turn.weight());
            if messages > budget.messages || bytes > budget.bytes || tokens > budget.tokens {
                break;
            }
            if !turn.answers_a_call() {
                kept = count;
            }
        }
        let cut = turns.len() - kept.max(least);
        Self {
            system,
            system_goes: !session.keeps_system(),
            turns: turns.get(cut..).unwrap_or_default(),
            left_out: session.skipped.saturating_add(cut),
        }
    }

    /// The messages in `dialect`, oldest first, without the system message.
    pub fn messages(&self, dialect: Dialect) -> impl Iterator<Item = RawMessage> + use<'a> {
        let messages = self.turns.iter().flat_map(|turn| turn.messages.iter().zip(repeat(turn.dialect)));
        let mut thread = Thread::default();
        messages.flat_map(move |(message, from)| thread.convert(message, from, dialect))
    }

    /// The system message that the next turn must store: a new one, or the one that holds where it would go with its
    /// turn.
    pub fn system_to_store(&self, fresh: Option<String>) -> Option<String> {
        let is_new = fresh.is_some() && fresh.as_deref() != self.system;
        if is_new || !self.system_goes { fresh.filter(|_| is_new) } else { self.system.map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests;
