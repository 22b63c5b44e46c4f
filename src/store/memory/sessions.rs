//! Conversations, in this process.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{ENTRY_OVERHEAD, Expiring, MemoryStore};
use crate::{
    host::Clock,
    session::{Session, SessionHead, SessionKey, Turn},
    store::{Sessions, StoreError, StoreResult},
};

/// What is kept of a session.
#[derive(Debug)]
pub(super) struct Kept {
    head: Arc<SessionHead>,
    /// When it began.
    began: Duration,
    turns: Vec<Arc<Turn>>,
}

impl Kept {
    fn origin(&self) -> u64 {
        u64::try_from(self.began.as_micros()).unwrap_or(u64::MAX)
    }

    fn bytes(&self) -> u64 {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len) as u64;
        let turns = self.turns.iter().map(|turn| {
            turn.bytes() as u64 + length(&turn.system) + ENTRY_OVERHEAD * (1 + turn.messages.len() as u64)
        });
        length(&self.head.system) + length(&self.head.model) + turns.sum::<u64>()
    }
}

impl<C: Clock> MemoryStore<C> {
    fn put_session(&self, key: &SessionKey, kept: Arc<Kept>, ttl: Duration) -> StoreResult<()> {
        let expires = self.clock.now() + kept.head.ttl.unwrap_or(ttl);
        let bytes = kept.bytes();
        self.sessions.insert(key.clone(), Expiring { value: kept, expires, bytes });
        // A session larger than the cache admits is refused silently; what is acknowledged must be there.
        if self.sessions.peek(key).is_some() { Ok(()) } else { Err(StoreError::Full) }
    }
}

impl<C: Clock> Sessions for MemoryStore<C> {
    async fn session(&self, key: &SessionKey, ttl: Duration) -> StoreResult<Option<Session>> {
        let _guard = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = self.live(&self.sessions, key) else { return Ok(None) };
        self.put_session(key, Arc::clone(&kept), ttl)?;
        Ok(Some(Session {
            head: SessionHead::clone(&kept.head),
            age: self.clock.now().saturating_sub(kept.began),
            origin: Some(kept.origin()),
            turns: kept.turns.iter().map(|turn| Turn::clone(turn)).collect(),
        }))
    }

    async fn create_session(&self, key: &SessionKey, head: &SessionHead, ttl: Duration) -> StoreResult<()> {
        let _guard = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        if self.live(&self.sessions, key).is_some() {
            return Ok(());
        }
        let kept = Kept { head: Arc::new(head.clone()), began: self.clock.now(), turns: Vec::new() };
        self.put_session(key, Arc::new(kept), ttl)
    }

    async fn delete_session(&self, key: &SessionKey) -> StoreResult<bool> {
        let _guard = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let was_there = self.live(&self.sessions, key).is_some();
        self.sessions.remove(key);
        Ok(was_there)
    }

    async fn append_turn_to(
        &self,
        key: &SessionKey,
        origin: Option<u64>,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<bool> {
        let _guard = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.live(&self.sessions, key);
        if origin.is_some() && found.as_ref().map(|kept| kept.origin()) != origin {
            return Ok(false);
        }
        let kept = match found {
            Some(kept) if kept.turns.iter().any(|known| known.id == turn.id) => kept,
            kept => {
                let new = || Arc::new(Kept { head: Arc::default(), began: self.clock.now(), turns: vec![] });
                let kept = kept.unwrap_or_else(new);
                let dropped = (kept.turns.len() + 1).saturating_sub(keep.max(1));
                let turns = kept.turns.iter().skip(dropped).cloned().chain([Arc::new(turn.clone())]);
                Arc::new(Kept { head: Arc::clone(&kept.head), began: kept.began, turns: turns.collect() })
            }
        };
        self.put_session(key, kept, ttl)?;
        Ok(true)
    }
}
