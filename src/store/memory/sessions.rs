//! Conversations, in this process.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{ENTRY_OVERHEAD, Expiring, MemoryStore};
use crate::{
    host::Clock,
    session::{SessionKey, Turn},
    store::{Sessions, StoreError, StoreResult},
};

impl<C: Clock> MemoryStore<C> {
    fn put_session(&self, key: &SessionKey, turns: Arc<[Arc<Turn>]>, ttl: Duration) {
        let bytes = turns.iter().map(|turn| {
            let system = turn.system.as_ref().map_or(0, String::len);
            (turn.bytes() + system) as u64 + ENTRY_OVERHEAD * (1 + turn.messages.len() as u64)
        });
        let bytes = bytes.sum();
        let expires = self.clock.now() + ttl;
        self.sessions.insert(key.clone(), Expiring { value: turns, expires, bytes });
    }
}

impl<C: Clock> Sessions for MemoryStore<C> {
    async fn turns(&self, key: &SessionKey, ttl: Duration) -> StoreResult<Vec<Turn>> {
        let _guard = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(turns) = self.live(&self.sessions, key) else { return Ok(Vec::new()) };
        self.put_session(key, turns.clone(), ttl);
        Ok(turns.iter().map(|turn| Turn::clone(turn)).collect())
    }

    async fn append_turn(
        &self,
        key: &SessionKey,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<()> {
        let _guard = self.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = self.live(&self.sessions, key).unwrap_or_default();
        let kept = if turns.iter().any(|known| known.id == turn.id) {
            turns
        } else {
            let dropped = (turns.len() + 1).saturating_sub(keep.max(1));
            turns.iter().skip(dropped).cloned().chain([Arc::new(turn.clone())]).collect()
        };
        self.put_session(key, kept, ttl);
        // A session larger than the cache admits is refused silently; what is acknowledged must be there.
        if self.sessions.peek(key).is_some() { Ok(()) } else { Err(StoreError::Full) }
    }
}
