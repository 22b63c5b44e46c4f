//! The changes of one transaction: answers, sessions, expiry, and the totals.
//!
//! Every function leaves the tables and the totals consistent, or fails; then the whole transaction is aborted.

use paddock::session::{Span, kept};
use redb::{
    ReadTransaction, ReadableTable, ReadableTableMetadata, StorageError, Table, TableError, WriteTransaction,
};

use super::layout::{
    ANSWER_ENDS, ANSWERS, INVENTORIES, Key, LongKey, NUMBERS, SESSION_ENDS, SESSIONS, SessionRow, TURNS,
    cost, ended, ending, numbered, turn_from_bytes, turn_to_bytes,
};

/// The most expired answers, and the most expired sessions, that one transaction deletes. The next one continues.
const SWEEP: usize = 256;

/// The most hosts whose inventory is kept.
const HOSTS: u64 = 256;

/// The size of what is stored, measured by [`cost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) answers: u64,
    pub(super) sessions: u64,
}

/// The value does not fit into the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

/// A turn to be appended.
#[derive(Debug, Clone)]
pub(super) struct Append {
    pub(super) key: Key,
    /// When the session must have been created; `None` for any time.
    pub(super) generation: Option<u64>,
    pub(super) id: String,
    pub(super) json: Vec<u8>,
    /// The system message that the turn brings.
    pub(super) system: Option<String>,
    /// The session's time to live after this use, in ms, unless its head has one.
    pub(super) ttl: u64,
    /// The most turns that stay.
    pub(super) keep: usize,
}

/// The open tables of a transaction.
pub(super) struct Changes<'t> {
    answers: Table<'t, &'static Key, (u64, &'static [u8])>,
    answer_ends: Table<'t, &'static LongKey, u64>,
    sessions: Table<'t, &'static Key, &'static [u8]>,
    turns: Table<'t, &'static LongKey, &'static [u8]>,
    session_ends: Table<'t, &'static LongKey, ()>,
    numbers: Table<'t, &'static str, u64>,
    inventories: Table<'t, &'static str, &'static [u8]>,
    /// The totals after the transaction.
    pub(super) totals: Totals,
    /// The limit of each half, in bytes.
    limit: u64,
    now: u64,
}

impl<'t> Changes<'t> {
    /// Opens the tables, and creates those that do not exist.
    pub(super) fn new(
        transaction: &'t WriteTransaction,
        totals: Totals,
        limit: u64,
        now: u64,
    ) -> Result<Self, TableError> {
        Ok(Self {
            answers: transaction.open_table(ANSWERS)?,
            answer_ends: transaction.open_table(ANSWER_ENDS)?,
            sessions: transaction.open_table(SESSIONS)?,
            turns: transaction.open_table(TURNS)?,
            session_ends: transaction.open_table(SESSION_ENDS)?,
            numbers: transaction.open_table(NUMBERS)?,
            inventories: transaction.open_table(INVENTORIES)?,
            totals,
            limit,
            now,
        })
    }

    /// Stores an answer. The answers that expire soonest are deleted to make room.
    pub(super) fn put_answer(
        &mut self,
        key: &Key,
        end: u64,
        answer: &[u8],
    ) -> Result<Result<(), NoRoom>, StorageError> {
        self.drop_answer(key)?;
        let cost = cost(answer.len());
        if cost > self.limit {
            return Ok(Err(NoRoom));
        }
        while self.totals.answers + cost > self.limit {
            let Some(place) = first(&self.answer_ends)? else { break };
            self.end_answer(&place)?;
        }
        self.answers.insert(key, (end, answer))?;
        self.answer_ends.insert(&ending(end, key), cost)?;
        self.totals.answers += cost;
        Ok(Ok(()))
    }

    /// Deletes all answers.
    pub(super) fn clear_answers(&mut self) -> Result<(), StorageError> {
        self.answers.retain(|_, _| false)?;
        self.answer_ends.retain(|_, _| false)?;
        self.totals.answers = 0;
        Ok(())
    }

    /// Adds 1 to a counter, which begins at 0.
    pub(super) fn count_up(&mut self, name: &str) -> Result<(), StorageError> {
        let number = self.numbers.get(name)?.map_or(0, |number| number.value());
        self.numbers.insert(name, number + 1)?;
        Ok(())
    }

    /// Stores a host's inventory, up to a limit, because hosts with changing addresses would accumulate.
    pub(super) fn put_inventory(&mut self, host: &str, inventory: &[u8]) -> Result<(), StorageError> {
        if self.inventories.get(host)?.is_none() && self.inventories.len()? >= HOSTS {
            self.inventories.retain(|_, _| false)?;
        }
        self.inventories.insert(host, inventory)?;
        Ok(())
    }

    fn drop_answer(&mut self, key: &Key) -> Result<(), StorageError> {
        let end = self.answers.get(key)?.map(|answer| answer.value().0);
        if let Some(end) = end {
            self.end_answer(&ending(end, key))?;
        }
        Ok(())
    }

    fn end_answer(&mut self, place: &LongKey) -> Result<(), StorageError> {
        let (_, key) = ended(place);
        let cost = self.answer_ends.remove(place)?.map_or(0, |cost| cost.value());
        self.answers.remove(&key)?;
        self.totals.answers = self.totals.answers.saturating_sub(cost);
        Ok(())
    }

    /// Appends a turn unless it is stored already, deletes the oldest turns beyond those that [`kept`] allows, and
    /// moves the session's expiry. Creates the session when there is none. Returns whether the session has the expected
    /// generation.
    pub(super) fn append(&mut self, append: &Append) -> Result<Result<bool, NoRoom>, StorageError> {
        let Append { key, generation, id, json, system, ttl, keep } = append;
        let living = self.living(key)?;
        if generation.is_some() && living.as_ref().map(|head| head.began) != *generation {
            return Ok(Ok(false));
        }
        let (mut head, mut added) = match living {
            Some(head) => (head, 0),
            None => self.begun(0, Vec::new()),
        };
        let end = head.end_after(self.now, *ttl);
        let Some(sizes) = self.sizes_without(key, id)? else {
            self.put_head(key, head, end)?;
            return Ok(Ok(true));
        };
        let value = turn_to_bytes(id, json);
        added += cost(value.len());
        let mut dropped = 0;
        if system.is_some() {
            dropped += cost(head.to_bytes().len());
            head.system.clone_from(system);
            added += cost(head.to_bytes().len());
        }
        let stay = kept([json.len()].into_iter().chain(sizes), *keep) as u64;
        let first = (head.next + 1).saturating_sub(stay).max(head.first);
        for turn in self.turns.range::<&LongKey>(&numbered(key, head.first)..&numbered(key, first))? {
            dropped += cost(turn?.1.value().len());
        }
        if !self.make_room(key, added, dropped)? {
            return Ok(Err(NoRoom));
        }
        self.turns
            .retain_in::<&LongKey, _>(&numbered(key, head.first)..&numbered(key, first), |_, _| false)?;
        self.turns.insert(&numbered(key, head.next), value.as_slice())?;
        self.totals.sessions = (self.totals.sessions + added).saturating_sub(dropped);
        head.cost = (head.cost + added).saturating_sub(dropped);
        head.first = first;
        head.next += 1;
        self.put_head(key, head, end)?;
        Ok(Ok(true))
    }

    /// Creates a session unless it exists.
    pub(super) fn create(
        &mut self,
        key: &Key,
        about: &[u8],
        own_ttl: u64,
        ttl: u64,
    ) -> Result<Result<(), NoRoom>, StorageError> {
        if self.living(key)?.is_some() {
            return Ok(Ok(()));
        }
        let (mut head, cost) = self.begun(own_ttl, about.to_owned());
        if !self.make_room(key, cost, 0)? {
            return Ok(Err(NoRoom));
        }
        self.totals.sessions += cost;
        head.cost = cost;
        let end = head.end_after(self.now, ttl);
        self.put_head(key, head, end)?;
        Ok(Ok(()))
    }

    /// Deletes a session; returns whether it existed.
    pub(super) fn delete(&mut self, key: &Key) -> Result<bool, StorageError> {
        let was_there = self.living(key)?.is_some();
        self.drop_session(key)?;
        Ok(was_there)
    }

    /// The head of a session that is created now, and its cost on disk.
    fn begun(&self, ttl: u64, about: Vec<u8>) -> (SessionRow, u64) {
        let head = SessionRow { began: self.now, ttl, about, ..SessionRow::default() };
        let cost = cost(head.to_bytes().len());
        (head, cost)
    }

    /// The head of a session that has not expired; an expired session is deleted.
    fn living(&mut self, key: &Key) -> Result<Option<SessionRow>, StorageError> {
        let head = self.head(key)?.filter(|head| head.end > self.now);
        if head.is_none() {
            self.drop_session(key)?;
        }
        Ok(head)
    }

    fn head(&self, key: &Key) -> Result<Option<SessionRow>, StorageError> {
        Ok(self.sessions.get(key)?.and_then(|head| SessionRow::from_bytes(head.value())))
    }

    /// The bytes of a session's turns, the newest first; `None` if the turn `id` is among them.
    fn sizes_without(&self, key: &Key, id: &str) -> Result<Option<Vec<usize>>, StorageError> {
        let mut sizes = Vec::new();
        for turn in self.turns.range::<&LongKey>(&numbered(key, 0)..=&numbered(key, u64::MAX))?.rev() {
            let turn = turn?.1;
            match turn_from_bytes(turn.value()) {
                Some((known, _)) if known == id.as_bytes() => return Ok(None),
                Some((_, json)) => sizes.push(json.len()),
                None => sizes.push(turn.value().len()),
            }
        }
        Ok(Some(sizes))
    }

    /// Whether a session can grow by `added` bytes minus `dropped`. Expired sessions are deleted for it, others are
    /// not.
    fn make_room(&mut self, key: &Key, added: u64, dropped: u64) -> Result<bool, StorageError> {
        loop {
            if self.totals.sessions + added <= self.limit + dropped {
                return Ok(true);
            }
            match first(&self.session_ends)? {
                // The growing session itself has not expired: `living` has checked it.
                Some(place) if ended(&place).0 <= self.now && ended(&place).1 != *key => {
                    self.end_session(&place)?;
                }
                _ => return Ok(false),
            }
        }
    }

    fn put_head(&mut self, key: &Key, head: SessionRow, end: u64) -> Result<(), StorageError> {
        self.session_ends.remove(&ending(head.end, key))?;
        self.session_ends.insert(&ending(end, key), ())?;
        self.sessions.insert(key, SessionRow { end, ..head }.to_bytes().as_slice())?;
        Ok(())
    }

    /// Moves the expiry of a session, if it exists.
    pub(super) fn renew(&mut self, key: &Key, end: u64) -> Result<(), StorageError> {
        match self.head(key)? {
            Some(head) => self.put_head(key, head, end),
            None => Ok(()),
        }
    }

    fn drop_session(&mut self, key: &Key) -> Result<(), StorageError> {
        if let Some(head) = self.head(key)? {
            self.session_ends.remove(&ending(head.end, key))?;
            self.totals.sessions = self.totals.sessions.saturating_sub(head.cost);
        }
        self.sessions.remove(key)?;
        self.turns.retain_in::<&LongKey, _>(&numbered(key, 0)..=&numbered(key, u64::MAX), |_, _| false)
    }

    /// Deletes the session of an entry in the order of expiry, unless its expiry has moved meanwhile.
    fn end_session(&mut self, place: &LongKey) -> Result<(), StorageError> {
        let (end, key) = ended(place);
        self.session_ends.remove(place)?;
        match self.head(&key)? {
            Some(head) if head.end != end => Ok(()),
            _ => self.drop_session(&key),
        }
    }

    /// Deletes some expired answers and sessions; returns how many.
    pub(super) fn sweep(&mut self) -> Result<usize, StorageError> {
        let mut swept = 0;
        for _ in 0..SWEEP {
            let place = first(&self.answer_ends)?.filter(|place| ended(place).0 <= self.now);
            let Some(place) = place else { break };
            self.end_answer(&place)?;
            swept += 1;
        }
        for _ in 0..SWEEP {
            let place = first(&self.session_ends)?.filter(|place| ended(place).0 <= self.now);
            let Some(place) = place else { break };
            self.end_session(&place)?;
            swept += 1;
        }
        Ok(swept)
    }
}

fn first<V: redb::Value + 'static>(
    places: &Table<'_, &'static LongKey, V>,
) -> Result<Option<LongKey>, StorageError> {
    Ok(places.first()?.map(|(place, _)| *place.value()))
}

/// Counts what is stored; `None` where a table does not exist.
pub(super) fn count(transaction: &ReadTransaction) -> Result<Option<Totals>, redb::Error> {
    let tables = (|| {
        transaction.open_table(ANSWERS)?;
        transaction.open_table(SESSION_ENDS)?;
        transaction.open_table(TURNS)?;
        transaction.open_table(NUMBERS)?;
        transaction.open_table(INVENTORIES)?;
        Ok((transaction.open_table(ANSWER_ENDS)?, transaction.open_table(SESSIONS)?))
    })();
    let (answers, sessions) = match tables {
        Ok(tables) => tables,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut totals = Totals::default();
    for answer in answers.iter()? {
        totals.answers += answer?.1.value();
    }
    for session in sessions.iter()? {
        totals.sessions += SessionRow::from_bytes(session?.1.value()).map_or(0, |head| head.cost);
    }
    Ok(Some(totals))
}

/// The answer under a key and its expiry, unless it has expired.
pub(super) fn answer(
    transaction: &ReadTransaction,
    key: &Key,
    now: u64,
) -> Result<Option<(Vec<u8>, u64)>, redb::Error> {
    let answers = transaction.open_table(ANSWERS)?;
    Ok(answers.get(key)?.and_then(|answer| {
        let (end, bytes) = answer.value();
        (end > now).then(|| (bytes.to_vec(), end))
    }))
}

/// The values of some counters, each 0 if it was never incremented.
pub(super) fn numbers<const N: usize>(
    transaction: &ReadTransaction,
    names: [&str; N],
) -> Result<[u64; N], redb::Error> {
    let table = transaction.open_table(NUMBERS)?;
    let mut found = [0; N];
    for (number, name) in found.iter_mut().zip(names) {
        *number = table.get(name)?.map_or(0, |number| number.value());
    }
    Ok(found)
}

/// The inventories of the hosts, by base URL.
pub(super) fn inventories(transaction: &ReadTransaction) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
    let table = transaction.open_table(INVENTORIES)?;
    let entry = |entry: Result<_, StorageError>| {
        let (host, inventory): (redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, &[u8]>) = entry?;
        Ok((host.value().to_owned(), inventory.value().to_vec()))
    };
    table.iter()?.map(entry).collect()
}

/// The head of a session, which may have expired; `None` if there is none.
pub(super) fn head(transaction: &ReadTransaction, key: &Key) -> Result<Option<SessionRow>, redb::Error> {
    let sessions = transaction.open_table(SESSIONS)?;
    Ok(sessions.get(key)?.and_then(|head| SessionRow::from_bytes(head.value())))
}

/// The number of turns before those of the span, and the turns of the span as JSON, the oldest first. Turns that
/// another version wrote are skipped.
pub(super) fn turns(
    transaction: &ReadTransaction,
    key: &Key,
    head: &SessionRow,
    span: Span<'_>,
) -> Result<(u64, Vec<Vec<u8>>), redb::Error> {
    let turns = transaction.open_table(TURNS)?;
    let (mut skipped, mut found, mut sizes) = (head.next, Vec::new(), Vec::new());
    let mut is_before = span.before.is_none();
    for turn in turns.range::<&LongKey>(&numbered(key, head.first)..&numbered(key, head.next))?.rev() {
        if is_before && span.count(sizes.iter().copied().chain([0])) == sizes.len() {
            break;
        }
        let turn = turn?.1;
        let (id, json) = turn_from_bytes(turn.value()).unwrap_or_default();
        skipped -= 1;
        if is_before {
            sizes.push(json.len());
            found.extend((!json.is_empty()).then(|| json.to_vec()));
        } else {
            is_before = span.before.is_some_and(|before| before.as_bytes() == id);
        }
    }
    found.reverse();
    Ok((skipped, found))
}
