//! What is kept in which table, and how keys and values are written: pure.
//!
//! The name of a table carries the version of its layout, and a value its own: what another version wrote is read or
//! passed over. It must never be an error.

use redb::TableDefinition;

/// The name of an answer or of a session.
pub(super) type Key = [u8; 32];
/// A key with a time ahead of it, or with a number behind it.
pub(super) type LongKey = [u8; 40];

/// Answers: when each ends, in ms, and its bytes.
pub(super) const ANSWERS: TableDefinition<'_, &Key, (u64, &[u8])> = TableDefinition::new("answers:1");
/// Answers by their end, with what each costs.
pub(super) const ANSWER_ENDS: TableDefinition<'_, &LongKey, u64> = TableDefinition::new("answer-ends:1");
/// The [`Head`] of each session.
pub(super) const SESSIONS: TableDefinition<'_, &Key, &[u8]> = TableDefinition::new("sessions:1");
/// Turns by their session and their number in it.
pub(super) const TURNS: TableDefinition<'_, &LongKey, &[u8]> = TableDefinition::new("turns:1");
/// Sessions by their end.
pub(super) const SESSION_ENDS: TableDefinition<'_, &LongKey, ()> = TableDefinition::new("session-ends:1");

/// The first byte of a head and of a turn.
const VERSION: u8 = 1;
/// A page of the database, in bytes.
const PAGE: u64 = 4096;
/// What an entry takes beside its value: its key, its place in the table, its line in the order of ends.
const ENTRY: u64 = 128;

fn long(parts: [&[u8]; 2]) -> LongKey {
    let mut key = [0; 40];
    for (to, from) in key.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    key
}

/// The place of a key in the order of ends.
pub(super) fn ending(end: u64, key: &Key) -> LongKey {
    long([&end.to_be_bytes(), key])
}

/// The end and the key of such a place.
pub(super) fn ended(place: &LongKey) -> (u64, Key) {
    let (end, key) = place.split_first_chunk().unwrap_or((&[0; 8], &[]));
    (u64::from_be_bytes(*end), key.first_chunk().copied().unwrap_or_default())
}

/// The key of a turn.
pub(super) fn numbered(key: &Key, number: u64) -> LongKey {
    long([key, &number.to_be_bytes()])
}

/// What a value of that many bytes takes on disk, roughly and rather too much: small ones fill two thirds of a page,
/// a large one has a run of pages of its own, of which there are 1, 2, 4 and so on.
pub(super) fn cost(bytes: usize) -> u64 {
    let bytes = bytes as u64 + ENTRY;
    if bytes * 2 > PAGE { bytes.next_power_of_two().max(PAGE) } else { bytes * 3 / 2 }
}

/// What is known of a session beside its turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// When it ends, in ms.
    pub(super) end: u64,
    /// The number of its first turn.
    pub(super) first: u64,
    /// The number of the turn that comes next.
    pub(super) next: u64,
    /// What its turns take on disk.
    pub(super) cost: u64,
}

impl Head {
    /// `None` for what another version wrote. What follows is for later versions.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (end, rest) = rest.split_first_chunk()?;
        let (first, rest) = rest.split_first_chunk()?;
        let (next, rest) = rest.split_first_chunk()?;
        let (cost, _) = rest.split_first_chunk()?;
        let [end, first, next, cost] = [end, first, next, cost].map(|number| u64::from_be_bytes(*number));
        Some(Self { end, first, next, cost })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let Self { end, first, next, cost } = self;
        let numbers = [end, first, next, cost].map(u64::to_be_bytes);
        [&[VERSION], numbers.as_flattened()].concat()
    }
}

/// A turn as it is stored: its id ahead of it, so that it is found without being read.
pub(super) fn turn_to_bytes(id: &str, json: &[u8]) -> Vec<u8> {
    let length = (id.len() as u64).to_be_bytes();
    [&[VERSION], length.as_slice(), id.as_bytes(), json].concat()
}

/// The id and the JSON of a turn; `None` for what another version wrote.
pub(super) fn turn_from_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.strip_prefix(&[VERSION])?.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_by_end_and_by_number() {
        let key = [7; 32];
        assert!(ending(255, &[9; 32]) < ending(256, &key));
        assert_eq!(ended(&ending(256, &key)), (256, key));
        assert!(numbered(&key, 255) < numbered(&key, 256));
        assert!(numbered(&key, u64::MAX) < numbered(&[8; 32], 0));
    }

    #[test]
    fn a_value_is_read_as_it_was_written_and_another_version_is_none() {
        let head = Head { end: 1, first: 2, next: u64::MAX, cost: 4 };
        let written = head.to_bytes();
        assert_eq!(Head::from_bytes(&written), Some(head));
        assert_eq!(Head::from_bytes(&[&written[..], b"of a later version"].concat()), Some(head));
        let turn = turn_to_bytes("id", b"{}");
        assert_eq!(turn_from_bytes(&turn), Some((&b"id"[..], &b"{}"[..])));
        let mut other = [written.clone(), turn.clone()];
        for bytes in &mut other {
            bytes[0] = 2;
        }
        let short = [&written[..written.len() - 1], &turn[..10], &[VERSION], b"", &[VERSION, 255, 255]];
        for bytes in other.iter().map(Vec::as_slice).chain(short) {
            assert!(Head::from_bytes(bytes).is_none() && turn_from_bytes(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn the_cost_is_what_pages_take() {
        for (bytes, expected) in
            [(0, 192), (1_000, 1_692), (2_000, 4_096), (3_968, 4_096), (3_969, 8_192), (1 << 20, 2 << 20)]
        {
            assert_eq!(cost(bytes), expected, "{bytes}");
        }
    }
}
