//! Pure rules of conversations: what a turn is, whose session it is, and which part of a history fits.
//!
//! Nothing here loads or appends turns: the store does, for `handlers/ask/conversation.rs` (loading) and
//! `flight/subscriber.rs` (appending).

mod id;
pub(crate) mod window;

use std::{borrow::Cow, iter::repeat, time::Duration};

use serde::{Serialize, Serializer};

pub use crate::wire::dialect::{Dialect, RawMessage};
use crate::{
    session::window::Rate,
    wire::{
        dialect::{self, MessageRole, Thread, Weight},
        members::Members,
    },
};
pub(crate) use id::RequestedSession;
pub use id::{SessionId, SessionKey};

/// The most turns that a session keeps; older ones are dropped.
pub const KEPT_TURNS: usize = 1000;
/// The most bytes that the turns of a session take as JSON; older ones are dropped. The newest turn is always kept.
pub(crate) const KEPT_BYTES: usize = 4 << 20;

/// How many of the newest turns are kept when at most `turns` may be; `sizes` are their bytes, newest first.
pub fn kept(sizes: impl IntoIterator<Item = usize>, turns: usize) -> usize {
    let mut total = 0_usize;
    let fits = |(count, size): &(usize, usize)| {
        total = total.saturating_add(*size);
        *count == 0 || (*count < turns && total <= KEPT_BYTES)
    };
    sizes.into_iter().enumerate().take_while(fits).count()
}

/// Which turns of a session are read: the newest, or the newest before a given turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<'a> {
    /// The id of the turn before which to read. When no turn has this id, nothing is read.
    pub before: Option<&'a str>,
    /// The most turns to read.
    pub turns: usize,
    /// Reading stops with the first turn that brings the bytes of the turns read, as JSON, over this number.
    pub bytes: usize,
}

impl Span<'_> {
    /// All kept turns.
    pub const ALL: Span<'static> = Span { before: None, turns: usize::MAX, bytes: usize::MAX };

    /// How many turns of these sizes (newest first) are read.
    pub fn count(&self, sizes: impl IntoIterator<Item = usize>) -> usize {
        let mut left = Some(self.bytes);
        let reads = |size: &usize| left.map(|bytes| left = bytes.checked_sub(*size)).is_some();
        sizes.into_iter().take(self.turns).take_while(reads).count()
    }
}

/// Whether the turn was stored; the header `X-Session`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SessionStatus {
    /// The turn is stored. No other value acknowledges it.
    Stored,
    /// The session store is down: the history was not read, or the turn was not stored.
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

/// A question with its answer. A turn is appended and dropped as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// A unique id, so that appending the same turn twice has no effect.
    pub id: String,
    /// The dialect of its messages: that of the endpoint that the request used.
    pub dialect: Dialect,
    /// The system message from this turn on, until a later turn has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The messages in their order.
    pub messages: Vec<RawMessage>,
    /// Ollama's token count of the prompt, if Ollama sent one and the prompt had no images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptCount>,
}

/// Ollama's token count of a prompt, with the prompt's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptCount {
    /// Tokens as Ollama counted them.
    pub tokens: u64,
    /// Bytes of text, measured as for the estimate of history.
    pub bytes: u64,
}

impl PromptCount {
    /// The count of a prompt; `None` when the prompt has no text or has images.
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
    /// Reads what [`Turn::to_json`] wrote; `None` for anything else.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let turn = Members::parse(json)?;
        Some(Self {
            id: turn.string("id")?.into_owned(),
            dialect: Dialect::by_name(&turn.string("dialect")?)?,
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
        // Serialising strings and JSON cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The weight of its messages.
    pub(crate) fn weight(&self) -> Weight {
        self.messages.iter().map(|message| Weight::of(message.as_raw())).sum()
    }

    /// Whether it begins with the result of a tool, which is useless without the call in the turn before.
    fn answers_a_call(&self) -> bool {
        self.messages.first().is_some_and(|message| dialect::role(message.as_raw()) == MessageRole::Tool)
    }

    /// The size of its messages as JSON, in bytes.
    pub fn bytes(&self) -> usize {
        self.messages.iter().map(|message| message.as_str().len()).sum()
    }
}

/// The properties that a session got from `POST /sessions`. A session that began with a turn has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionHead {
    /// The system message until a turn has one.
    pub system: Option<String>,
    /// The model for turns that name none, on endpoints that allow that.
    pub model: Option<String>,
    /// The time to live after each use, in whole seconds.
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
        // Serialising strings and a number cannot fail.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`SessionHead::to_json`] wrote; `None` for anything else. Members that a later version added are
    /// ignored.
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

/// A session as it was read from the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Its properties from `POST /sessions`.
    pub head: SessionHead,
    /// The time since it was created.
    pub age: Duration,
    /// The time of its creation as the store counts; it distinguishes the session from a later one with the same key.
    /// `None` where the store does not know it.
    pub generation: Option<u64>,
    /// The system message of the newest turn that had one, even if that turn was dropped. `None` when no turn had one,
    /// or when an older version stored the session.
    pub system: Option<String>,
    /// How many turns precede those that were read, dropped ones included.
    pub skipped: usize,
    /// The turns that were read, the oldest first.
    pub turns: Vec<Turn>,
}

impl Session {
    /// Puts the turns of an earlier part of the same session before the others.
    pub(crate) fn prepend(&mut self, earlier: Self) {
        self.skipped = earlier.skipped;
        self.turns.splice(..0, earlier.turns);
    }

    /// The current system message: that of the newest turn that has one, else the head's.
    pub fn system(&self) -> Option<&str> {
        let said = || self.turns.iter().rev().find_map(|turn| turn.system.as_deref());
        self.system.as_deref().or_else(said).or(self.head.system.as_deref())
    }

    /// Whether the newest turn ended with tool calls whose results are still missing.
    pub(crate) fn awaits_results(&self) -> bool {
        let last = self.turns.last().and_then(|turn| turn.messages.last());
        last.is_some_and(|message| dialect::calls_tools(message.as_raw()))
    }

    /// How many of the newest turns form one exchange: each except the oldest begins with the result of a call in the
    /// turn before.
    fn exchange(&self) -> usize {
        let answering = self.turns.iter().rev().take_while(|turn| turn.answers_a_call()).count();
        (answering + 1).min(self.turns.len())
    }

    /// The oldest turn that was read, if the newest exchange began before it.
    pub(crate) fn unread_exchange(&self) -> Option<&Turn> {
        let oldest = self.turns.first().filter(|turn| self.skipped > 0 && turn.answers_a_call())?;
        (self.exchange() == self.turns.len()).then_some(oldest)
    }

    /// Whether the current system message survives when turns are dropped.
    fn keeps_system(&self) -> bool {
        self.system.is_some() || self.turns.iter().all(|turn| turn.system.is_none())
    }
}

/// An upper estimate of the bytes that a stored turn has beside its messages.
const TURN_ENVELOPE: usize = 256;

/// How much history is put before a request's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryLimits {
    /// The most messages, the system message included.
    pub messages: usize,
    /// The most bytes of messages as JSON, the system message included.
    pub bytes: usize,
    /// The most tokens by estimate, the system message included.
    pub tokens: usize,
}

impl HistoryLimits {
    /// The turns that may fit: a turn has at least two messages, and its JSON is larger than they are.
    pub(crate) fn span(&self) -> Span<'static> {
        let turns = self.messages.div_ceil(2).max(1);
        Span { before: None, turns, bytes: self.bytes.saturating_add(turns.saturating_mul(TURN_ENVELOPE)) }
    }
}

/// The part of a session that fits the limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct History<'a> {
    /// The current system message.
    pub(crate) system: Option<&'a str>,
    /// Whether the system message is stored only in its turn, as an older version did, so that it is lost with the
    /// turn.
    system_goes: bool,
    /// The newest turns that fit, the oldest first.
    pub(crate) turns: &'a [Turn],
    /// How many older turns were left out: turns that did not fit, turns that were not read, and dropped turns.
    pub(crate) left_out: usize,
}

impl<'a> History<'a> {
    /// The history that fits the limits.
    ///
    /// The current system message always stays, even when it exceeds the limits. Turns are kept whole from the newest
    /// back, without a gap: the first turn that does not fit ends the history. A turn that begins with the result of a
    /// tool is kept only together with the turn that called the tool.
    pub(crate) fn new(session: &'a Session, limits: HistoryLimits) -> Self {
        Self::of(session, limits, 0)
    }

    /// As [`History::new`], for a request with the results of the newest turn's calls: the newest exchange always
    /// stays, whatever the limits.
    pub(crate) fn with_calls(session: &'a Session, limits: HistoryLimits) -> Self {
        Self::of(session, limits, session.exchange())
    }

    fn of(session: &'a Session, limits: HistoryLimits, least: usize) -> Self {
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
            if messages > limits.messages || bytes > limits.bytes || tokens > limits.tokens {
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

    /// The messages in `dialect`, the oldest first, without the system message.
    pub(crate) fn messages(&self, dialect: Dialect) -> impl Iterator<Item = RawMessage> + use<'a> {
        let messages = self.turns.iter().flat_map(|turn| turn.messages.iter().zip(repeat(turn.dialect)));
        let mut thread = Thread::default();
        messages.flat_map(move |(message, from)| thread.convert(message, from, dialect))
    }

    /// The system message that the next turn must store: a new one, or the current one if it would be lost with its
    /// turn.
    pub(crate) fn system_to_store(&self, fresh: Option<String>) -> Option<String> {
        let is_new = fresh.is_some() && fresh.as_deref() != self.system;
        if is_new || !self.system_goes { fresh.filter(|_| is_new) } else { self.system.map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests;
