//! The changes of one transaction: answers, sessions, expiry, and the totals.
//!
//! Every function leaves the tables and the totals consistent, or fails; then the whole transaction is aborted.

use paddock::{
    cache::EPOCHS,
    session::{Span, kept},
};
use redb::{
    ReadTransaction, ReadableTable, ReadableTableMetadata, StorageError, Table, TableError, WriteTransaction,
};

use super::layout::{
    ANSWER_COSTS, ANSWER_ENDS, ANSWER_OWNERS, ANSWER_SHARES, ANSWERS, INVENTORIES, Key, LongKey,
    MODEL_EPOCHS, NUMBERS, OwnerKey, SESSION_ENDS, SESSION_OWNERS, SESSION_USES, SESSIONS, SessionRow, TURNS,
    UseKey, cost, ended, ending, epoch, key_of_use, numbered, turn_from_bytes, turn_to_bytes, used,
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
    /// Whose share the session uses.
    pub(super) owner: OwnerKey,
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
    answer_owners: Table<'t, &'static Key, &'static OwnerKey>,
    answer_shares: Table<'t, &'static UseKey, ()>,
    answer_costs: Table<'t, &'static OwnerKey, u64>,
    sessions: Table<'t, &'static Key, &'static [u8]>,
    turns: Table<'t, &'static LongKey, &'static [u8]>,
    session_ends: Table<'t, &'static LongKey, ()>,
    session_uses: Table<'t, &'static UseKey, ()>,
    session_owners: Table<'t, &'static OwnerKey, u64>,
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
            answer_owners: transaction.open_table(ANSWER_OWNERS)?,
            answer_shares: transaction.open_table(ANSWER_SHARES)?,
            answer_costs: transaction.open_table(ANSWER_COSTS)?,
            sessions: transaction.open_table(SESSIONS)?,
            turns: transaction.open_table(TURNS)?,
            session_ends: transaction.open_table(SESSION_ENDS)?,
            session_uses: transaction.open_table(SESSION_USES)?,
            session_owners: transaction.open_table(SESSION_OWNERS)?,
            numbers: transaction.open_table(NUMBERS)?,
            inventories: transaction.open_table(INVENTORIES)?,
            totals,
            limit,
            now,
        })
    }

    /// Stores an answer. To make room, those are deleted that expire soonest of the owner that has the most.
    pub(super) fn put_answer(
        &mut self,
        (key, owner): (&Key, &OwnerKey),
        end: u64,
        answer: &[u8],
    ) -> Result<Result<(), NoRoom>, StorageError> {
        self.drop_answer(key)?;
        let cost = cost(answer.len());
        if cost > self.limit {
            return Ok(Err(NoRoom));
        }
        while self.totals.answers + cost > self.limit {
            let expired = first(&self.answer_ends)?.filter(|place| ended(place).0 <= self.now);
            let place = match expired {
                Some(place) => Some(place),
                None => self.next_answer_to_go(owner, cost)?,
            };
            // Answers that an older version stored have no owner: those that expire soonest go.
            let Some(place) = (match place {
                Some(place) => Some(place),
                None => first(&self.answer_ends)?,
            }) else {
                break;
            };
            self.end_answer(&place)?;
        }
        self.answers.insert(key, (end, answer))?;
        self.answer_ends.insert(&ending(end, key), cost)?;
        self.answer_owners.insert(key, owner)?;
        self.answer_shares.insert(&used(owner, end, key), ())?;
        let share = self.answer_costs.get(owner)?.map_or(0, |share| share.value());
        self.answer_costs.insert(owner, share + cost)?;
        self.totals.answers += cost;
        Ok(Ok(()))
    }

    /// The answer that makes room for one of `owner`, in the order of expiry: of the owner that has the most then, the one that
    /// expires soonest.
    fn next_answer_to_go(&self, owner: &OwnerKey, added: u64) -> Result<Option<LongKey>, StorageError> {
        let Some(biggest) = biggest(&self.answer_costs, owner, added)? else { return Ok(None) };
        let all = [used(&biggest, 0, &[0; 32]), used(&biggest, u64::MAX, &[u8::MAX; 32])];
        let [from, to] = &all;
        let place = self.answer_shares.range::<&UseKey>(from..=to)?.next().transpose()?;
        let key = place.map(|(place, _)| key_of_use(place.value()));
        let end = match &key {
            Some(key) => self.answers.get(key)?.map(|answer| answer.value().0),
            None => None,
        };
        Ok(key.zip(end).map(|(key, end)| ending(end, &key)))
    }

    /// Deletes all answers.
    pub(super) fn clear_answers(&mut self) -> Result<(), StorageError> {
        self.answer_owners.retain(|_, _| false)?;
        self.answer_shares.retain(|_, ()| false)?;
        self.answer_costs.retain(|_, _| false)?;
        self.answers.retain(|_, _| false)?;
        self.answer_ends.retain(|_, _| false)?;
        self.totals.answers = 0;
        Ok(())
    }

    /// Begins the epoch of all answers at `first`, unless there is one.
    pub(super) fn begin_epochs(&mut self, first: u64) -> Result<(), StorageError> {
        if self.numbers.get(&*epoch(None))?.is_none() {
            self.numbers.insert(&*epoch(None), first)?;
        }
        Ok(())
    }

    /// Begins a new epoch for the answers of a model, or for all: then all answers are deleted. When too many models have
    /// an epoch of their own, all of those end in a new one of all.
    pub(super) fn begin_epoch(&mut self, model: Option<&str>) -> Result<(), StorageError> {
        let mut name = epoch(model);
        if model.is_some() && self.numbers.get(&*name)?.is_none() {
            let mut own = self.numbers.range::<&str>(MODEL_EPOCHS)?;
            if own.nth(EPOCHS - 1).is_some() {
                name = epoch(None);
            }
        }
        let number = self.numbers.get(&*name)?.map_or(0, |number| number.value());
        self.numbers.insert(&*name, number.wrapping_add(1))?;
        if name == epoch(None) {
            self.numbers.retain_in::<&str, _>(MODEL_EPOCHS, |_, _| false)?;
            self.clear_answers()?;
        }
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
        let (end, key) = ended(place);
        let cost = self.answer_ends.remove(place)?.map_or(0, |cost| cost.value());
        self.answers.remove(&key)?;
        let owner = self.answer_owners.remove(&key)?.map(|owner| *owner.value());
        if let Some(owner) = owner {
            self.answer_shares.remove(&used(&owner, end, &key))?;
            let share = self.answer_costs.get(&owner)?.map_or(0, |share| share.value());
            match share.saturating_sub(cost) {
                0 => drop(self.answer_costs.remove(&owner)?),
                rest => drop(self.answer_costs.insert(&owner, rest)?),
            }
        }
        self.totals.answers = self.totals.answers.saturating_sub(cost);
        Ok(())
    }

    /// Appends a turn unless it is stored already, deletes the oldest turns beyond those that [`kept`] allows, and
    /// moves the session's expiry. Creates the session when there is none. Returns whether the session has the expected
    /// generation.
    pub(super) fn append(&mut self, append: &Append) -> Result<Result<bool, NoRoom>, StorageError> {
        let Append { key, owner, generation, id, json, system, ttl, keep } = append;
        let living = self.living(key)?;
        if generation.is_some() && living.as_ref().map(|head| head.began) != *generation {
            return Ok(Ok(false));
        }
        let (mut head, mut added) = match living {
            Some(head) => (head, 0),
            None => self.begun(*owner, 0, Vec::new()),
        };
        // The version before stored no owner.
        head.owner = *owner;
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
        if !self.make_room((key, owner), added, dropped)? {
            return Ok(Err(NoRoom));
        }
        self.turns
            .retain_in::<&LongKey, _>(&numbered(key, head.first)..&numbered(key, first), |_, _| false)?;
        self.turns.insert(&numbered(key, head.next), value.as_slice())?;
        head.cost = (head.cost + added).saturating_sub(dropped);
        head.first = first;
        head.next += 1;
        self.put_head(key, head, end)?;
        Ok(Ok(true))
    }

    /// Creates a session unless it exists.
    pub(super) fn create(
        &mut self,
        (key, owner): (&Key, &OwnerKey),
        about: &[u8],
        own_ttl: u64,
        ttl: u64,
    ) -> Result<Result<(), NoRoom>, StorageError> {
        if self.living(key)?.is_some() {
            return Ok(Ok(()));
        }
        let (mut head, cost) = self.begun(*owner, own_ttl, about.to_owned());
        if !self.make_room((key, owner), cost, 0)? {
            return Ok(Err(NoRoom));
        }
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
    fn begun(&self, owner: OwnerKey, ttl: u64, about: Vec<u8>) -> (SessionRow, u64) {
        let head = SessionRow { began: self.now, ttl, owner, about, ..SessionRow::default() };
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

    /// Whether a session can grow by `added` bytes minus `dropped`. For it expired sessions are deleted, and where that is
    /// not enough, those that were used longest ago of the owner that has the most.
    fn make_room(
        &mut self,
        (key, owner): (&Key, &OwnerKey),
        added: u64,
        dropped: u64,
    ) -> Result<bool, StorageError> {
        loop {
            if self.totals.sessions + added <= self.limit + dropped {
                return Ok(true);
            }
            // The growing session itself has not expired: `living` has checked it.
            let place = first(&self.session_ends)?;
            let expired = place.filter(|place| ended(place).0 <= self.now && ended(place).1 != *key);
            if let Some(place) = expired {
                self.end_session(&place)?;
                continue;
            }
            let Some(longest_unused) = self.next_to_go(key, owner, added)? else { return Ok(false) };
            self.drop_session(&longest_unused)?;
        }
    }

    /// The session that makes room for one of `owner` that grows: of the owner that has the most then, the one that was
    /// used longest ago, except the growing one.
    fn next_to_go(&self, key: &Key, owner: &OwnerKey, added: u64) -> Result<Option<Key>, StorageError> {
        let Some(biggest) = biggest(&self.session_owners, owner, added)? else { return Ok(None) };
        let all = [used(&biggest, 0, &[0; 32]), used(&biggest, u64::MAX, &[u8::MAX; 32])];
        let [from, to] = &all;
        for place in self.session_uses.range::<&UseKey>(from..=to)? {
            let found = key_of_use(place?.0.value());
            if found != *key {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Stores the head of a session that is used now, with its places in both orders, and counts it.
    fn put_head(&mut self, key: &Key, head: SessionRow, end: u64) -> Result<(), StorageError> {
        self.remove_places(key)?;
        let head = SessionRow { end, used: self.now, ..head };
        self.insert_places(key, &head)?;
        self.totals.sessions += head.cost;
        self.sessions.insert(key, head.to_bytes().as_slice())?;
        Ok(())
    }

    /// Removes a session from both orders, and from what is counted.
    fn remove_places(&mut self, key: &Key) -> Result<(), StorageError> {
        let Some(head) = self.head(key)? else { return Ok(()) };
        self.session_ends.remove(&ending(head.end, key))?;
        self.session_uses.remove(&used(&head.owner, head.used, key))?;
        let share = self.session_owners.get(&head.owner)?.map_or(0, |share| share.value());
        match share.saturating_sub(head.cost) {
            0 => drop(self.session_owners.remove(&head.owner)?),
            rest => drop(self.session_owners.insert(&head.owner, rest)?),
        }
        self.totals.sessions = self.totals.sessions.saturating_sub(head.cost);
        Ok(())
    }

    /// Puts a session into both orders and into its owner's share.
    fn insert_places(&mut self, key: &Key, head: &SessionRow) -> Result<(), StorageError> {
        self.session_ends.insert(&ending(head.end, key), ())?;
        self.session_uses.insert(&used(&head.owner, head.used, key), ())?;
        let share = self.session_owners.get(&head.owner)?.map_or(0, |share| share.value());
        self.session_owners.insert(&head.owner, share + head.cost)?;
        Ok(())
    }

    /// Makes the orders of all sessions anew, for a database of a version that did not have them all.
    pub(super) fn order_sessions(&mut self) -> Result<(), StorageError> {
        self.session_uses.retain(|_, ()| false)?;
        self.session_owners.retain(|_, _| false)?;
        let mut heads = Vec::new();
        for session in self.sessions.iter()? {
            let (key, head) = session?;
            // Only the places are needed.
            let head = SessionRow::from_bytes(head.value());
            heads.extend(
                head.map(|head| (*key.value(), SessionRow { about: Vec::new(), system: None, ..head })),
            );
        }
        for (key, head) in heads {
            self.insert_places(&key, &head)?;
        }
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
        self.remove_places(key)?;
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

/// The owner that has the most once `owner` has `added` more; `None` where nobody has anything.
fn biggest(
    shares: &Table<'_, &'static OwnerKey, u64>,
    owner: &OwnerKey,
    added: u64,
) -> Result<Option<OwnerKey>, StorageError> {
    let mut biggest = None;
    for share in shares.iter()? {
        let (who, bytes) = share?;
        let (who, bytes) = (*who.value(), bytes.value());
        let bytes = if who == *owner { bytes + added } else { bytes };
        biggest = biggest.max(Some((bytes, who)));
    }
    // One that has nothing yet takes no more than it brings.
    Ok(biggest.map(|(_, who)| who))
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
        transaction.open_table(ANSWER_OWNERS)?;
        transaction.open_table(ANSWER_SHARES)?;
        transaction.open_table(ANSWER_COSTS)?;
        transaction.open_table(SESSION_USES)?;
        transaction.open_table(SESSION_OWNERS)?;
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
