//! Sessions in memory.

use std::{sync::Arc, time::Duration};

use super::{ENTRY_OVERHEAD, parts, pool::Pool};
use crate::{
    platform::{Clock, Locked},
    session::{Session, SessionHead, SessionKey, Span, Turn, kept},
    store::{Sessions, StoreError, StoreResult},
};

/// Sessions in memory, bounded in bytes, with a share for each owner.
#[derive(Debug)]
pub struct MemorySessions<C> {
    clock: C,
    /// Locked while a session is replaced, so that of turns appended at the same time all survive.
    sessions: Locked<Pool<SessionKey, Arc<Kept>>>,
    /// The most bytes that the turns of one session may take.
    largest: u64,
}

/// A stored session.
#[derive(Debug, Default)]
struct Kept {
    head: SessionHead,
    /// When it was created.
    began: Duration,
    /// The system message of the newest turn that had one.
    system: Option<Arc<str>>,
    /// How many turns were dropped.
    dropped: usize,
    turns: Vec<Arc<KeptTurn>>,
}

#[derive(Debug)]
struct KeptTurn {
    turn: Turn,
    /// Its bytes as JSON.
    size: usize,
    /// Its bytes in memory.
    cost: u64,
}

impl KeptTurn {
    fn new(turn: &Turn) -> Arc<Self> {
        let text = turn.bytes() + turn.system.as_ref().map_or(0, String::len);
        let cost = text as u64 + ENTRY_OVERHEAD * (1 + turn.messages.len() as u64);
        Arc::new(Self { turn: turn.clone(), size: turn.to_json().len(), cost })
    }
}

impl Kept {
    fn generation(&self) -> u64 {
        u64::try_from(self.began.as_micros()).unwrap_or(u64::MAX)
    }

    fn bytes(&self) -> u64 {
        let length = |text: Option<&str>| text.map_or(0, str::len) as u64;
        let texts = [self.head.system.as_deref(), self.head.model.as_deref(), self.system.as_deref()];
        let turns: u64 = self.turns.iter().map(|turn| turn.cost).sum();
        texts.map(length).iter().sum::<u64>() + turns
    }

    /// The session with one more turn, without the oldest turns beyond `keep` turns and `room` bytes in memory.
    fn with(&self, turn: &Turn, keep: usize, room: u64) -> Self {
        let newest = [KeptTurn::new(turn)];
        let newest_first = || newest.iter().chain(self.turns.iter().rev());
        let mut left = room;
        let fits = |turn: &&Arc<KeptTurn>| left.checked_sub(turn.cost).map(|rest| left = rest).is_some();
        let fitting = newest_first().take_while(fits).count().max(1);
        let count = kept(newest_first().map(|turn| turn.size), keep.min(fitting));
        let mut turns: Vec<_> = newest_first().take(count).cloned().collect();
        turns.reverse();
        Self {
            head: self.head.clone(),
            began: self.began,
            system: turn.system.as_deref().map(Arc::from).or_else(|| self.system.clone()),
            dropped: self.dropped + (self.turns.len() + 1 - count),
            turns,
        }
    }
}

impl<C: Clock> MemorySessions<C> {
    /// Sessions of at most `limit` bytes.
    pub(super) fn new(clock: C, limit: u64) -> Self {
        Self {
            clock,
            sessions: Locked::new(Pool::new(limit)),
            // The rest is for its system messages, and for others.
            largest: limit / parts(limit) * 3 / 4,
        }
    }

    fn live(&self, sessions: &mut Pool<SessionKey, Arc<Kept>>, key: &SessionKey) -> Option<Arc<Kept>> {
        sessions.get(key, self.clock.now()).map(|held| Arc::clone(&held.value))
    }

    /// Puts a session in. One without room is refused: what is acknowledged must be there.
    fn put_session(
        &self,
        sessions: &mut Pool<SessionKey, Arc<Kept>>,
        key: &SessionKey,
        kept: Arc<Kept>,
        ttl: Duration,
    ) -> StoreResult<()> {
        let now = self.clock.now();
        let (bytes, expires) = (kept.bytes() + ENTRY_OVERHEAD, now + kept.head.ttl.unwrap_or(ttl));
        let is_there = sessions.put((key.clone(), key.owner()), kept, bytes, (now, expires));
        if is_there { Ok(()) } else { Err(StoreError::Full) }
    }
}

impl<C: Clock> Sessions for MemorySessions<C> {
    async fn session(&self, key: &SessionKey, span: Span<'_>, ttl: Duration) -> StoreResult<Option<Session>> {
        let mut sessions = self.sessions.lock();
        let Some(kept) = self.live(&mut sessions, key) else { return Ok(None) };
        self.put_session(&mut sessions, key, Arc::clone(&kept), ttl)?;
        drop(sessions);
        let end = match span.before {
            None => kept.turns.len(),
            Some(id) => kept.turns.iter().position(|kept| kept.turn.id == id).unwrap_or(0),
        };
        let turns = kept.turns.get(..end).unwrap_or_default();
        let start = end - span.count(turns.iter().rev().map(|kept| kept.size));
        Ok(Some(Session {
            head: kept.head.clone(),
            age: self.clock.now().saturating_sub(kept.began),
            generation: Some(kept.generation()),
            system: kept.system.as_deref().map(str::to_owned),
            skipped: kept.dropped + start,
            turns: turns.iter().skip(start).map(|kept| kept.turn.clone()).collect(),
        }))
    }

    async fn create_session(&self, key: &SessionKey, head: &SessionHead, ttl: Duration) -> StoreResult<()> {
        let mut sessions = self.sessions.lock();
        if self.live(&mut sessions, key).is_some() {
            return Ok(());
        }
        let kept = Kept { head: head.clone(), began: self.clock.now(), ..Kept::default() };
        self.put_session(&mut sessions, key, Arc::new(kept), ttl)
    }

    async fn delete_session(&self, key: &SessionKey) -> StoreResult<bool> {
        let mut sessions = self.sessions.lock();
        let was_there = self.live(&mut sessions, key).is_some();
        sessions.remove(key);
        Ok(was_there)
    }

    async fn append_turn_to(
        &self,
        key: &SessionKey,
        generation: Option<u64>,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<bool> {
        let mut sessions = self.sessions.lock();
        let before = self.live(&mut sessions, key);
        if generation.is_some() && before.as_ref().map(|kept| kept.generation()) != generation {
            return Ok(false);
        }
        let after = match &before {
            Some(kept) if kept.turns.iter().any(|known| known.turn.id == turn.id) => Arc::clone(kept),
            Some(kept) => Arc::new(kept.with(turn, keep, self.largest)),
            None => {
                let new = Kept { began: self.clock.now(), ..Kept::default() };
                Arc::new(new.with(turn, keep, self.largest))
            }
        };
        let stored = self.put_session(&mut sessions, key, after, ttl);
        if let (Err(_), Some(kept)) = (&stored, before) {
            // What was acknowledged before stays.
            self.put_session(&mut sessions, key, kept, ttl)?;
        }
        stored.map(|()| true)
    }
}
