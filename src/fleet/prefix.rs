//! What one prompt shares with another: hashes of its beginnings, and how much of a prompt a conversation that came before
//! has in common with it.
//!
//! A prompt cache can be used as far as two prompts are the same from the start. Beginnings of 1 KiB, 2 KiB and so on to
//! 256 KiB find what different conversations share, such as the instructions of an agent. A later turn of a conversation holds
//! the whole prompt of the turn before, so the ends of messages find that to the byte.

use super::hash::{FNV_START, fnv_on, split_mix};

/// The shortest beginning that is hashed, in bytes.
const SHORTEST: u64 = 1 << 10;
/// The longest.
const LONGEST: u64 = 256 << 10;
/// As many ends of messages of a request are compared: more than a turn with its tool calls adds.
const ENDS: usize = 32;
/// As many ends of messages of a conversation are remembered: the last message of an agent often changes once more.
const ENDS_REMEMBERED: usize = 2;
/// What an image or a file counts at most, in bytes. A vision model makes some hundred to two thousand tokens of an image, whatever
/// the length of its base64.
const ATTACHMENT: u64 = 4 << 10;

/// The end of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    /// Bytes from the start of the prompt.
    length: u64,
    hash: u32,
}

/// The beginnings of one prompt.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// Hashes of the first 1 KiB, 2 KiB and so on.
    doubled: Vec<u32>,
    /// The last ends of messages, the latest last.
    ends: Vec<End>,
    length: u64,
    opening: u64,
}

impl Prefixes {
    /// Of a prompt that cannot be read.
    pub fn none() -> &'static Self {
        static NONE: Prefixes = Prefixes { doubled: Vec::new(), ends: Vec::new(), length: 0, opening: 0 };
        &NONE
    }

    /// The length of the prompt in bytes, of which an image counts 4 KiB at most.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// A hash of the prompt up to the end of its first question, which all turns of a conversation have in common.
    pub fn opening(&self) -> u64 {
        self.opening
    }

    fn is_empty(&self) -> bool {
        self.doubled.is_empty() && self.ends.is_empty()
    }
}

/// Makes the [`Prefixes`] of a prompt that is given piece by piece.
#[derive(Debug)]
pub struct PrefixReader {
    hash: u64,
    /// The length at which the next beginning is hashed.
    next: u64,
    /// How many letters of base64 came last.
    run: u64,
    prefixes: Prefixes,
}

impl Default for PrefixReader {
    fn default() -> Self {
        Self { hash: FNV_START, next: SHORTEST, run: 0, prefixes: Prefixes::default() }
    }
}

impl PrefixReader {
    /// The next piece of the prompt.
    pub fn text(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            self.run = if is_base64(*byte) { self.run + 1 } else { 0 };
            if self.run > ATTACHMENT {
                // No words are as long: the rest of the string is left out.
                let end = memchr::memchr2(b'"', b' ', rest).unwrap_or(rest.len());
                rest = rest.get(end..).unwrap_or_default();
                continue;
            }
            self.hash = fnv_on(self.hash, *byte);
            self.prefixes.length += 1;
            if self.prefixes.length == self.next && self.next <= LONGEST {
                self.prefixes.doubled.push(short(self.hash));
                self.next *= 2;
            }
        }
    }

    /// A message with a question, an answer or the result of a tool ends here.
    pub fn end_message(&mut self) {
        self.open();
        if self.prefixes.ends.len() >= ENDS {
            self.prefixes.ends.remove(0);
        }
        self.prefixes.ends.push(End { length: self.prefixes.length, hash: short(self.hash) });
    }

    /// What came until now is what all turns of the conversation begin with; only the first call counts.
    pub fn open(&mut self) {
        if self.prefixes.opening == 0 {
            self.prefixes.opening = split_mix(self.hash);
        }
    }

    /// The prefixes of what was given.
    pub fn finish(mut self) -> Prefixes {
        self.open();
        self.prefixes
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_')
}

/// 32 bits are enough where a mistake costs a second, and are shorter in the store.
fn short(hash: u64) -> u32 {
    u32::try_from(split_mix(hash) >> 32).unwrap_or_default()
}

/// How much of a prompt is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Known {
    /// Whether the prompt continues the conversation, or its session is the same.
    pub(crate) continues: bool,
    /// The bytes from the start that are known.
    pub(crate) bytes: u64,
}

/// A conversation that a host answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    affinity: u64,
    length: u64,
    doubled: Vec<u32>,
    ends: Vec<End>,
}

impl Conversation {
    /// What is remembered of a prompt with this affinity and length.
    pub(crate) fn new(affinity: u64, length: u64, prefixes: &Prefixes) -> Self {
        let Prefixes { doubled, ends, .. } = prefixes;
        let latest = ends.len().saturating_sub(ENDS_REMEMBERED);
        let ends = ends.get(latest..).unwrap_or_default().to_vec();
        Self { affinity, length, doubled: doubled.clone(), ends }
    }

    /// How much is known of a prompt of `length` bytes. Of a prompt that could not be read the affinity says it.
    pub(crate) fn known(&self, affinity: u64, length: u64, prefixes: &Prefixes) -> Known {
        let is_same = self.affinity == affinity;
        if prefixes.is_empty() {
            let bytes = if is_same { u64::MAX } else { 0 };
            return Known { continues: is_same, bytes: bytes.min(length) };
        }
        let shared = self.doubled.iter().zip(&prefixes.doubled).take_while(|(own, its)| own == its).count();
        let shared = if shared == 0 { 0 } else { SHORTEST << (shared - 1) };
        let ended = self.ends.iter().filter(|end| prefixes.ends.contains(end)).map(|end| end.length).max();
        let bytes = shared.max(ended.unwrap_or_default()).min(length);
        Known { continues: is_same || ended.is_some(), bytes }
    }

    /// Whether the prompt holds all of this conversation, so that it takes its place.
    pub(crate) fn is_continued(&self, affinity: u64, prefixes: &Prefixes) -> bool {
        match self.ends.last() {
            Some(end) => prefixes.ends.contains(end),
            None => self.affinity == affinity,
        }
    }

    /// As numbers: the affinity, the length, the ends by length and hash, the beginnings.
    pub(crate) fn to_numbers(&self) -> Vec<u64> {
        let mut numbers = vec![self.affinity, self.length];
        for place in 0..ENDS_REMEMBERED {
            let end = self.ends.get(place);
            numbers.extend(end.map_or([0, 0], |end| [end.length, end.hash.into()]));
        }
        numbers.extend(self.doubled.iter().map(|hash| u64::from(*hash)));
        numbers
    }

    /// What [`Conversation::to_numbers`] made; `None` for anything else.
    pub(crate) fn from_numbers(numbers: &[u64]) -> Option<Self> {
        let hash = |number: &u64| u32::try_from(*number).ok();
        let (head, rest) = numbers.split_at_checked(2)?;
        let (ends, doubled) = rest.split_at_checked(2 * ENDS_REMEMBERED)?;
        let end = |pair: &[u64]| match pair {
            [length, number] => Some(End { length: *length, hash: hash(number)? }),
            _ => None,
        };
        let [affinity, length] = <[u64; 2]>::try_from(head).ok()?;
        let ends: Vec<_> = ends.chunks(2).map(end).collect::<Option<_>>()?;
        Some(Self {
            affinity,
            length,
            ends: ends.into_iter().filter(|end| end.length > 0).collect(),
            doubled: doubled.iter().take(BEGINNINGS).map(hash).collect::<Option<_>>()?,
        })
    }
}

/// How many beginnings there are from the shortest to the longest.
const BEGINNINGS: usize = (LONGEST / SHORTEST).trailing_zeros() as usize + 1;

#[cfg(test)]
mod tests;
