//! The tables of the database, and the encoding of keys and values. Pure.
//!
//! A table's name carries the version of its layout, and a value its own version: a value of another version is read or
//! skipped, and never an error.

use redb::TableDefinition;

/// The key of an answer or of a session.
pub(super) type Key = [u8; 32];
/// A key after a time, or before a number.
pub(super) type LongKey = [u8; 40];
/// Whose share a session uses.
pub(super) type OwnerKey = [u8; 16];
/// A key after its owner and the time of its last use.
pub(super) type UseKey = [u8; 56];

/// Answers: the expiry of each in ms, and its bytes.
pub(super) const ANSWERS: TableDefinition<'_, &Key, (u64, &[u8])> = TableDefinition::new("answers:1");
/// Answers by expiry, with the cost of each.
pub(super) const ANSWER_ENDS: TableDefinition<'_, &LongKey, u64> = TableDefinition::new("answer-ends:1");
/// The owner of each answer that has one of its own.
pub(super) const ANSWER_OWNERS: TableDefinition<'_, &Key, &OwnerKey> =
    TableDefinition::new("answer-owners:1");
/// Answers by owner and expiry.
pub(super) const ANSWER_SHARES: TableDefinition<'_, &UseKey, ()> = TableDefinition::new("answer-shares:1");
/// The cost of all answers of an owner.
pub(super) const ANSWER_COSTS: TableDefinition<'_, &OwnerKey, u64> = TableDefinition::new("answer-costs:1");
/// The [`SessionRow`] of each session.
pub(super) const SESSIONS: TableDefinition<'_, &Key, &[u8]> = TableDefinition::new("sessions:1");
/// Turns by session and number.
pub(super) const TURNS: TableDefinition<'_, &LongKey, &[u8]> = TableDefinition::new("turns:1");
/// Sessions by expiry.
pub(super) const SESSION_ENDS: TableDefinition<'_, &LongKey, ()> = TableDefinition::new("session-ends:1");
/// Sessions by owner and last use.
pub(super) const SESSION_USES: TableDefinition<'_, &UseKey, ()> = TableDefinition::new("session-uses:1");
/// The cost of all sessions of an owner.
pub(super) const SESSION_OWNERS: TableDefinition<'_, &OwnerKey, u64> =
    TableDefinition::new("session-owners:1");

/// Epochs, by the names that [`epoch`] gives.
pub(super) const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers:1");
/// The names of all epochs of single models.
pub(super) const MODEL_EPOCHS: std::ops::Range<&str> = "epoch:".."epoch;";

/// The inventory of each host in the core's encoding, by base URL.
pub(super) const INVENTORIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("inventories:1");

/// The first byte of a turn.
const VERSION: u8 = 1;
/// The first byte of a head in this version, in the one before, which stored no owner, and in the one before that, which
/// stored no system message either.
const HEAD_VERSIONS: [u8; 3] = [3, 2, 1];
/// The length that stands for an absent text.
const NOTHING: u64 = u64::MAX;
/// A page of the database, in bytes.
const PAGE: u64 = 4096;
/// The cost of an entry beside its value: its key, and its entry in the order of expiry.
const ENTRY: u64 = 128;

/// The name of the epoch of all answers, or of a model's.
pub(super) fn epoch(model: Option<&str>) -> String {
    model.map_or_else(|| "epoch".to_owned(), |model| format!("epoch:{model}"))
}

fn long<const PARTS: usize, const LENGTH: usize>(parts: [&[u8]; PARTS]) -> [u8; LENGTH] {
    let mut key = [0; LENGTH];
    for (to, from) in key.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    key
}

/// The key of an entry in the order of expiry.
pub(super) fn ending(end: u64, key: &Key) -> LongKey {
    long([&end.to_be_bytes(), key])
}

/// The expiry and the key of such an entry.
pub(super) fn ended(place: &LongKey) -> (u64, Key) {
    let (end, key) = place.split_first_chunk().unwrap_or((&[0; 8], &[]));
    (u64::from_be_bytes(*end), key.first_chunk().copied().unwrap_or_default())
}

/// The key of a session in the order of its owner's uses, or of an answer in that of its owner's expiries.
pub(super) fn used(owner: &OwnerKey, at: u64, key: &Key) -> UseKey {
    long([owner, &at.to_be_bytes(), key])
}

/// The key of the session or the answer of such an entry.
pub(super) fn key_of_use(place: &UseKey) -> Key {
    place.last_chunk().copied().unwrap_or_default()
}

/// The key of a turn.
pub(super) fn numbered(key: &Key, number: u64) -> LongKey {
    long([key, &number.to_be_bytes()])
}

/// The estimated size on disk of a value of that many bytes, rather too high: small values fill two thirds of a page, a
/// large value takes a run of 1, 2, 4 or more pages of its own.
pub(super) fn cost(bytes: usize) -> u64 {
    let bytes = bytes as u64 + ENTRY;
    if bytes * 2 > PAGE { bytes.next_power_of_two().max(PAGE) } else { bytes * 3 / 2 }
}

/// The properties of a session. Times are in ms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SessionRow {
    /// When it expires.
    pub(super) end: u64,
    /// The number of its oldest kept turn.
    pub(super) first: u64,
    /// The number of its next turn.
    pub(super) next: u64,
    /// Its cost on disk, turns included.
    pub(super) cost: u64,
    /// When it was created.
    pub(super) began: u64,
    /// Its own time to live after each use; 0 if each use brings one.
    pub(super) ttl: u64,
    /// When it was last used, as far as it is on disk.
    pub(super) used: u64,
    /// Whose share it uses.
    pub(super) owner: OwnerKey,
    /// The system message of the newest turn that had one.
    pub(super) system: Option<String>,
    /// The head from `POST /sessions`, in the core's encoding.
    pub(super) about: Vec<u8>,
}

impl SessionRow {
    /// Reads what [`SessionRow::to_bytes`] wrote; `None` for another version.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (numbers, rest) = rest.split_at_checked(6 * 8)?;
        let [end, first, next, cost, began, ttl] = *numbers.as_chunks().0.first_chunk()?;
        let [end, first, next, cost, began, ttl] =
            [end, first, next, cost, began, ttl].map(u64::from_be_bytes);
        let [this, ownerless, oldest] = HEAD_VERSIONS;
        let (used, owner, rest) = if *version == this {
            let (used, rest) = rest.split_first_chunk()?;
            let (owner, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*used), *owner, rest)
        } else {
            (began, OwnerKey::default(), rest)
        };
        let (system, about) = match *version {
            version if version == this || version == ownerless => {
                let (length, rest) = rest.split_first_chunk()?;
                match u64::from_be_bytes(*length) {
                    NOTHING => (None, rest),
                    length => {
                        let (system, about) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                        (Some(String::from_utf8(system.to_owned()).ok()?), about)
                    }
                }
            }
            version if version == oldest => (None, rest),
            _ => return None,
        };
        Some(Self { end, first, next, cost, began, ttl, used, owner, system, about: about.to_owned() })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Self { end, first, next, cost, began, ttl, used, owner, ref system, ref about } = *self;
        let length = system.as_ref().map_or(NOTHING, |system| system.len() as u64).to_be_bytes();
        let numbers = [end, first, next, cost, began, ttl, used].map(u64::to_be_bytes);
        let [version, ..] = HEAD_VERSIONS;
        let system = system.as_deref().unwrap_or_default().as_bytes();
        [&[version], numbers.as_flattened(), &owner, &length, system, about].concat()
    }

    /// The expiry after a use at `now` with the time to live `ttl`.
    pub(super) fn end_after(&self, now: u64, ttl: u64) -> u64 {
        now.saturating_add(if self.ttl > 0 { self.ttl } else { ttl.max(1) })
    }
}

/// A turn as it is stored: its id comes before the JSON, so that a turn is found without parsing it.
pub(super) fn turn_to_bytes(id: &str, json: &[u8]) -> Vec<u8> {
    let length = (id.len() as u64).to_be_bytes();
    [&[VERSION], length.as_slice(), id.as_bytes(), json].concat()
}

/// The id and the JSON of a turn; `None` for another version.
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
        assert!(used(&[1; 16], 255, &[9; 32]) < used(&[1; 16], 256, &key));
        assert!(used(&[1; 16], u64::MAX, &[9; 32]) < used(&[2; 16], 0, &key));
        assert_eq!(key_of_use(&used(&[1; 16], 255, &key)), key);
        assert!(numbered(&key, 255) < numbered(&key, 256));
        assert!(numbered(&key, u64::MAX) < numbered(&[8; 32], 0));
    }

    #[test]
    fn a_value_is_read_as_it_was_written_and_another_version_is_none() {
        let mut head = SessionRow {
            end: u64::MAX,
            first: 2,
            next: 3,
            cost: 4,
            began: 5,
            ttl: 6,
            used: 5,
            owner: [9; 16],
            system: None,
            about: b"{}".to_vec(),
        };
        assert_eq!(SessionRow::from_bytes(&head.to_bytes()), Some(head.clone()));
        assert_eq!((head.end_after(10, 3), SessionRow::default().end_after(10, 3)), (16, 13));
        for system in ["", "be brief"] {
            head.system = Some(system.to_owned());
            assert_eq!(SessionRow::from_bytes(&head.to_bytes()), Some(head.clone()));
        }
        head.system = None;
        let mut before = head.to_bytes();
        before[0] = 2;
        before.drain(49..73);
        let ownerless = SessionRow { owner: [0; 16], ..head.clone() };
        assert_eq!(SessionRow::from_bytes(&before), Some(ownerless.clone()), "it stored no owner");
        before[0] = 1;
        before.drain(49..57);
        assert_eq!(SessionRow::from_bytes(&before), Some(ownerless), "nor a system message");
        head.about.clear();
        let written = head.to_bytes();
        assert_eq!(SessionRow::from_bytes(&written), Some(head));
        let turn = turn_to_bytes("id", b"{}");
        assert_eq!(turn_from_bytes(&turn), Some((&b"id"[..], &b"{}"[..])));
        let mut other = [written.clone(), turn.clone()];
        for bytes in &mut other {
            bytes[0] = 4;
        }
        let short = [&written[..written.len() - 1], &turn[..10], &[VERSION], b"", &[VERSION, 255, 255]];
        for bytes in other.iter().map(Vec::as_slice).chain(short) {
            assert!(SessionRow::from_bytes(bytes).is_none() && turn_from_bytes(bytes).is_none(), "{bytes:?}");
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
