//! Sessions in Redis: one hash each, with the session's properties and its turns by number.
//!
//! One key holds the whole session, so that it expires, is evicted and is deleted as a whole. Every script touches one
//! hash slot: its second key is the list in which the version before stored the session, in the same slot. Whichever
//! script runs first moves that list into the hash, and turns that an older replica appends later are moved behind the
//! others.

use std::time::Duration;

use super::{RedisCommands, RedisStore, RedisValue, milliseconds_text, script::script};
use crate::{
    session::{KEPT_BYTES, Session, SessionHead, SessionKey, Span, Turn},
    store::{Sessions, StoreResult},
};

/// Precedes the scripts that read or write a session; its file documents the fields of the hash.
const COMMON: &[u8] = script!("scripts/session.lua");
/// The file of each script documents its arguments and its reply.
const LOAD: &[u8] = script!("scripts/load_session.lua");
const CREATE: &[u8] = script!("scripts/create_session.lua");
const APPEND: &[u8] = script!("scripts/append_turn.lua");
const SHARE: &[u8] = script!("scripts/share_sessions.lua");
const EVICT: &[u8] = script!("scripts/evict_session.lua");
/// What a reply with a session takes beside the texts in it, in bytes, at most.
const FRAME: u64 = 256 << 10;
/// The bytes that Redis takes for a session beside its turns.
const OVERHEAD: u64 = 1024;
const DELETE: &[u8] = script!("scripts/delete_session.lua");

impl<C: RedisCommands> RedisStore<C> {
    /// The part in braces determines the hash slot, so every further key of the session must contain it.
    fn session_key(&self, version: u8, key: &SessionKey) -> String {
        format!("{}:session:{version}:{{{}}}", self.prefix, hex::encode(key.as_bytes()))
    }

    async fn run(
        &self,
        script: &[u8],
        key: &SessionKey,
        ttl: Duration,
        rest: &[&[u8]],
    ) -> StoreResult<Vec<RedisValue>> {
        let (text, ttl) = ([COMMON, script].concat(), milliseconds_text(ttl));
        let (key, old) = (self.session_key(4, key), self.session_key(3, key));
        let arguments: [&[u8]; 5] = [&text, b"2", key.as_bytes(), old.as_bytes(), ttl.as_bytes()];
        let arguments = [&arguments[..], rest].concat();
        if script == LOAD {
            self.ask("EVAL", &arguments).await
        } else {
            self.keep_safe("EVAL", &arguments).await
        }
    }

    /// Counts the bytes of a session in this state, 0 for one that was deleted; gives the sessions that make room, each with
    /// its state.
    async fn count(
        &self,
        key: &SessionKey,
        (bytes, state): (u64, &str),
        left: i64,
        limit: u64,
    ) -> StoreResult<Vec<RedisValue>> {
        let keys =
            ["owners", "sizes", "ends", "of:"].map(|kind| format!("{}:{{sessions}}:1:{kind}", self.prefix));
        let (owner, session) = (hex::encode(key.owner().as_bytes()), hex::encode(key.as_bytes()));
        let (bytes, left, limit) = (bytes.to_string(), left.to_string(), limit.to_string());
        let mut arguments: Vec<&[u8]> = vec![SHARE, b"4"];
        arguments.extend(keys.iter().map(String::as_bytes));
        arguments.extend([&*owner, &session, &bytes, &left, &limit, state].map(str::as_bytes));
        self.keep("EVAL", &arguments).await
    }
}

impl<C: RedisCommands> Sessions for RedisStore<C> {
    async fn session(&self, key: &SessionKey, span: Span<'_>, ttl: Duration) -> StoreResult<Option<Session>> {
        let before = span.before.unwrap_or_default();
        let (turns, bytes) = (span.turns.to_string(), span.bytes.to_string());
        let most = self.reply_limit.saturating_sub(FRAME).to_string();
        let rest = [before.as_bytes(), turns.as_bytes(), bytes.as_bytes(), most.as_bytes()];
        let mut kept = self.run(LOAD, key, ttl, &rest).await?.into_iter();
        let (Some(RedisValue::Integer(age)), Some(RedisValue::Integer(skipped))) = (kept.next(), kept.next())
        else {
            return Ok(None);
        };
        let text = |value| match value {
            RedisValue::Bytes(text) => Some(text),
            RedisValue::Nil | RedisValue::Integer(_) | RedisValue::Status(_) => None,
        };
        let head = kept.next().and_then(text).unwrap_or_default();
        let system = kept.next().and_then(text).and_then(|text| String::from_utf8(text).ok());
        let mut turns: Vec<_> = kept.filter_map(text).filter_map(|turn| Turn::from_json(&turn)).collect();
        turns.reverse();
        Ok(Some(Session {
            head: read_head(&head),
            generation: generation(&head),
            age: Duration::from_millis(u64::try_from(age).unwrap_or_default()),
            system,
            skipped: usize::try_from(skipped).unwrap_or_default(),
            turns,
        }))
    }

    async fn create_session(&self, key: &SessionKey, head: &SessionHead, ttl: Duration) -> StoreResult<()> {
        let own = head.ttl.map_or_else(|| "0".to_owned(), milliseconds_text);
        self.run(CREATE, key, ttl, &[own.as_bytes(), &head.to_json()]).await?;
        Ok(())
    }

    async fn share(&self, key: &SessionKey) -> StoreResult<()> {
        if self.memory.lock().is_none() {
            self.learn_memory().await;
        }
        let Some(limit) = self.sessions_limit() else { return Ok(()) };
        let session = self.session_key(4, key);
        let name = [session.as_bytes()];
        let about = [session.as_bytes(), b"bytes", b"head", b"next"];
        let told = [session.as_bytes(), b"told"];
        let (about, left, told) =
            futures::join!(self.keep("HMGET", &about), self.keep("PTTL", &name), self.keep("HSTRLEN", &told));
        let about = about?;
        let [RedisValue::Bytes(bytes), RedisValue::Bytes(head), RedisValue::Bytes(next)] = &*about else {
            return Ok(());
        };
        let (left, told) = (left?, told?);
        let ([RedisValue::Integer(left)], [RedisValue::Integer(told)]) = (&*left, &*told) else {
            return Ok(());
        };
        let bytes = std::str::from_utf8(bytes).ok().and_then(|bytes| bytes.parse::<u64>().ok());
        let beside = head.len() as u64 + u64::try_from(*told).unwrap_or_default() + OVERHEAD;
        let bytes = bytes.unwrap_or_default().saturating_add(beside);
        let began = generation(head).map(|began| began.to_string()).unwrap_or_default();
        let state = format!("{}.{began}", String::from_utf8_lossy(next));
        for gone in self.count(key, (bytes, &state), (*left).max(1), limit).await?.chunks_exact(2) {
            let [RedisValue::Bytes(gone), RedisValue::Bytes(state)] = gone else { continue };
            let name = format!("{}:session:4:{{{}}}", self.prefix, String::from_utf8_lossy(gone));
            self.keep("EVAL", &[EVICT, b"1", name.as_bytes(), state]).await?;
        }
        Ok(())
    }

    async fn delete_session(&self, session: &SessionKey) -> StoreResult<bool> {
        let (key, old) = (self.session_key(4, session), self.session_key(3, session));
        let reply = self.keep_safe("EVAL", &[DELETE, b"2", key.as_bytes(), old.as_bytes()]).await?;
        if let Some(limit) = self.sessions_limit() {
            // The session is gone whether or not this is noted, and its count ends by itself.
            let _ = self.count(session, (0, ""), 1, limit).await;
        }
        Ok(matches!(*reply, [RedisValue::Integer(deleted)] if deleted > 0))
    }

    async fn append_turn_to(
        &self,
        key: &SessionKey,
        generation: Option<u64>,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<bool> {
        let (value, keep, bytes) = (turn.to_json(), keep.to_string(), KEPT_BYTES.to_string());
        let generation = generation.map(|generation| generation.to_string()).unwrap_or_default();
        let mut rest: Vec<&[u8]> = vec![turn.id.as_bytes(), &value];
        rest.extend([&keep, &bytes, &generation].map(String::as_bytes));
        rest.extend(turn.system.as_deref().map(str::as_bytes));
        let reply = self.run(APPEND, key, ttl, &rest).await?;
        Ok(!matches!(*reply, [RedisValue::Integer(-1)]))
    }
}

/// When a session was created, from its head.
fn generation(head: &[u8]) -> Option<u64> {
    std::str::from_utf8(head.split(|byte| *byte == b' ').next()?).ok()?.parse().ok()
}

/// The head after the fields of the scripts; an empty head if another version wrote it.
fn read_head(head: &[u8]) -> SessionHead {
    let json = head.splitn(3, |byte| *byte == b' ').nth(2);
    json.and_then(SessionHead::from_json).unwrap_or_default()
}
