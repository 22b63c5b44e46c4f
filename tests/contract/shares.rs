//! Shares: what one caller stores displaces nothing of another, however much it is.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use host_shim::disk_store::{DiskLimits, DiskStore};
use paddock::{
    api::auth::CallerId,
    cache::{Delivery, Entry},
    host::memory::ManualClock,
    session::{SessionId, SessionKey, Turn},
    store::{
        ResponseCache as _, Sessions as _, Store, StoreResult, TimeLimit,
        memory::MemoryStore,
        redis::{RedisCommands, RedisStore, RedisValue},
    },
};
use paddock_tests::{redis_commands::Connection, redis_server::RedisServer};
use tempfile::TempDir;

use crate::{asked, exchange, key, limits, noise, turns};

const LONG: Duration = Duration::from_hours(1);

/// The caller of this key, whom the service knows.
fn verified(key: &str) -> CallerId {
    CallerId::of_key(key.as_bytes())
}

/// One caller keeps many sessions beside the few of another.
async fn kept(store: &impl Store, tick: impl Fn()) -> Result<()> {
    let text = "x".repeat(60_000);
    let key_of = |caller: &str, number: usize| {
        anyhow::Ok(SessionKey::of(&verified(caller), &SessionId::parse(&number.to_string())?))
    };
    for number in 0..3 {
        let turn = exchange(&number.to_string(), &text, "a");
        store.sessions().append_turn(&key_of("quiet", number)?, &turn, LONG, 10).await?;
        store.sessions().share(&key_of("quiet", number)?).await?;
    }
    let mut kept = Vec::new();
    for number in 0..60 {
        let key = key_of("greedy", number)?;
        tick();
        store.sessions().append_turn(&key, &exchange(&number.to_string(), &text, "a"), LONG, 10).await?;
        store.sessions().share(&key).await?;
    }
    for number in 0..3 {
        assert_eq!(turns(store.sessions(), &key_of("quiet", number)?).await?.len(), 1, "{number}");
    }
    for number in 0..60 {
        kept.extend(
            (!turns(store.sessions(), &key_of("greedy", number)?).await?.is_empty()).then_some(number),
        );
    }
    assert!(kept.len() < 40 && kept.last() == Some(&59), "{kept:?}");
    assert_eq!(kept, (60 - kept.len()..60).collect::<Vec<_>>(), "the newest");
    Ok(())
}

/// One caller has many answers cached beside the few of another.
async fn cached(store: &impl Store) -> Result<()> {
    let store = store.answers();
    let entry = |caller: &str, number: u64| {
        let owner = verified(caller).owner();
        Entry::new(Delivery::Whole, "text/plain", noise(20_000, number).into()).owned_by(owner)
    };
    for number in 0..10 {
        store.put_answer(&key(&format!("quiet {number}")), &entry("quiet", number), LONG).await?;
    }
    for number in 0..400 {
        store.put_answer(&key(&format!("greedy {number}")), &entry("greedy", number), LONG).await?;
    }
    for number in 0..10 {
        assert!(store.answer(&asked(&format!("quiet {number}"))).await?.is_some(), "{number}");
    }
    let mut kept = 0;
    for number in 0..400 {
        kept += usize::from(store.answer(&asked(&format!("greedy {number}"))).await?.is_some());
    }
    assert!((1..300).contains(&kept), "{kept} of 400");
    Ok(())
}

fn on_disk(bytes: u64, clock: &ManualClock) -> Result<(DiskStore<ManualClock>, TempDir)> {
    let directory = TempDir::new()?;
    let limits = DiskLimits { memory: 8 << 20, disk: bytes, wait: Duration::from_secs(20) };
    Ok((DiskStore::open(directory.path(), limits, clock.clone())?, directory))
}

/// A store over a Redis of little memory that evicts nothing, as deployments have it.
async fn over_redis(memory: &str) -> Result<(RedisStore<Connection>, Arc<dyn Any>)> {
    let server = RedisServer::start_with(&["--maxmemory", memory, "--maxmemory-policy", "noeviction"])?;
    let connection = Connection::open(&server).await?;
    let store = RedisStore::new(connection, "p", limits(Duration::from_secs(20)));
    store.ping().await?;
    Ok((store, Arc::new(server)))
}

#[tokio::test]
async fn what_one_caller_keeps_displaces_nothing_of_another_in_memory() -> Result<()> {
    kept(&MemoryStore::new(ManualClock::default(), 4 << 20), || ()).await
}

#[tokio::test]
async fn what_one_caller_keeps_displaces_nothing_of_another_on_disk() -> Result<()> {
    let clock = ManualClock::default();
    let (store, _directory) = on_disk(4 << 20, &clock)?;
    kept(&store, || clock.advance(Duration::from_millis(1))).await
}

#[tokio::test]
async fn what_one_caller_keeps_displaces_nothing_of_another_in_redis() -> Result<()> {
    let (store, _server) = over_redis("6mb").await?;
    // Redis has a clock of its own.
    kept(&store, || std::thread::sleep(Duration::from_millis(2))).await
}

#[tokio::test]
async fn what_one_caller_caches_displaces_nothing_of_another_in_memory() -> Result<()> {
    cached(&MemoryStore::new(ManualClock::default(), 8 << 20)).await
}

#[tokio::test]
async fn what_one_caller_caches_displaces_nothing_of_another_on_disk() -> Result<()> {
    let (store, _directory) = on_disk(8 << 20, &ManualClock::default())?;
    cached(&store).await
}

#[tokio::test]
async fn what_one_caller_caches_displaces_nothing_of_another_in_redis() -> Result<()> {
    let (store, _server) = over_redis("12mb").await?;
    cached(&store).await
}

/// What is counted lies in keys of its own, any of which a Redis that evicts may lose.
#[tokio::test]
async fn whatever_redis_loses_of_what_is_counted_room_is_made() -> Result<()> {
    let server = RedisServer::start()?;
    let connection = Connection::open(&server).await?;
    let (time, limit) = (TimeLimit::whole(Duration::from_secs(20)), 400 << 10);
    let store = RedisStore::new(connection.clone(), "p", limits(Duration::from_secs(20)))
        .with_cache_limit(Some(limit));
    let mut number = 0;
    let mut fill = async || {
        for _ in 0..60 {
            number += 1;
            let owner = verified(["a", "b", "c"][number % 3]).owner();
            let text = noise(5_000, number as u64);
            let entry = Entry::new(Delivery::Whole, "text/plain", text.into()).owned_by(owner);
            store.put_answer(&key(&number.to_string()), &entry, LONG).await?;
        }
        anyhow::Ok(())
    };
    fill().await?;
    for counted in ["held:", "ends:1:", "owners:1", "ends:1"] {
        let pattern = format!("p:{{cache *}}:{counted}*");
        let names = connection.execute("KEYS", &[pattern.as_bytes()], time).await?;
        assert!(!names.is_empty(), "{counted}");
        for name in names.iter().take(names.len().div_ceil(2)) {
            let RedisValue::Bytes(name) = name else { continue };
            connection.execute("DEL", &[name], time).await?;
        }
        fill().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_deleted_session_makes_nothing_give_way() -> Result<()> {
    let (store, _server) = over_redis("6mb").await?;
    let key_of = |name: &str| anyhow::Ok(SessionKey::of(&verified("k"), &SessionId::parse(name)?));
    let text = "x".repeat(60_000);
    store.append_turn(&key_of("living")?, &exchange("1", &text, "a"), LONG, 10).await?;
    store.share(&key_of("living")?).await?;
    for number in 0..60 {
        let deleted = key_of(&number.to_string())?;
        store.append_turn(&deleted, &exchange("1", &text, "a"), LONG, 10).await?;
        store.share(&deleted).await?;
        assert!(store.delete_session(&deleted).await?);
    }
    assert_eq!(turns(&store, &key_of("living")?).await?.len(), 1);
    Ok(())
}

/// A Redis of little memory that evicts nothing is filled with answers and sessions.
#[tokio::test]
async fn a_redis_that_is_filled_keeps_sessions_and_what_was_forgotten() -> Result<()> {
    let (store, _server) = over_redis("12mb").await?;
    let known = |number: usize| {
        let id = SessionId::parse(&format!("known {number}"))?;
        anyhow::Ok(SessionKey::of(&verified("known"), &id))
    };
    for number in 0..10 {
        store.append_turn(&known(number)?, &exchange("1", "q", "a"), LONG, 10).await?;
        store.share(&known(number)?).await?;
    }
    store.purge(Some("m")).await?;
    let epochs = store.epochs("m").await?;
    let mut refused = 0;
    for number in 0..2_000 {
        let entry = Entry::new(Delivery::Whole, "text/plain", noise(20_000, number).into());
        let put = store.put_answer(&key(&number.to_string()), &entry, LONG).await;
        refused += usize::from(put.is_err());
        if number % 10 == 0 {
            let id = SessionId::parse(&number.to_string())?;
            let session = SessionKey::of(&verified("greedy"), &id);
            let text = noise(40_000, number);
            store.append_turn(&session, &exchange("1", &text, "a"), LONG, 10).await?;
            store.share(&session).await?;
        }
    }
    assert_eq!(refused, 0, "no answer was refused, because older ones made room");
    assert_eq!(store.epochs("m").await?, epochs);
    for number in 0..10 {
        assert_eq!(turns(&store, &known(number)?).await?.len(), 1, "{number}");
    }
    assert!(store.answer(&asked("1999")).await?.is_some());
    assert_eq!(store.warning(), None);
    let evicting = RedisServer::start_with(&["--maxmemory", "12mb", "--maxmemory-policy", "volatile-lru"])?;
    let store = RedisStore::new(Connection::open(&evicting).await?, "p", limits(Duration::from_secs(20)));
    store.ping().await?;
    assert!(store.warning().is_some_and(|warning| warning.contains("volatile-lru")));
    Ok(())
}

/// A system message stays when its turn is dropped.
#[tokio::test]
async fn what_a_session_was_told_counts_to_the_share_of_its_owner() -> Result<()> {
    let (store, _server) = over_redis("6mb").await?;
    let key_of =
        |number: usize| anyhow::Ok(SessionKey::of(&verified("k"), &SessionId::parse(&number.to_string())?));
    for number in 0..60 {
        let key = key_of(number)?;
        let told = Turn { system: Some("x".repeat(60_000)), ..exchange("told", "q", "a") };
        store.append_turn(&key, &told, LONG, 1).await?;
        store.append_turn(&key, &exchange("later", "q", "a"), LONG, 1).await?;
        store.share(&key).await?;
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut kept = 0;
    for number in 0..60 {
        kept += usize::from(!turns(&store, &key_of(number)?).await?.is_empty());
    }
    assert!((10..40).contains(&kept), "{kept} of 60");
    Ok(())
}

/// Redis, where a turn is added to a session just when a session is to make room.
#[derive(Clone)]
struct Between {
    connection: Connection,
    store: RedisStore<Connection>,
    session: SessionKey,
    is_added: Arc<AtomicBool>,
}

impl RedisCommands for Between {
    async fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: TimeLimit,
    ) -> StoreResult<Vec<RedisValue>> {
        let deletes = command == "DEL" || command == "EVAL" && arguments.get(1) == Some(&b"1".as_slice());
        if deletes && !self.is_added.swap(true, Ordering::Relaxed) {
            self.store.append_turn(&self.session, &exchange("late", "q", "a"), LONG, 10).await?;
        }
        self.connection.execute(command, arguments, limit).await
    }

    async fn execute_replicated(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        _: u32,
        limit: TimeLimit,
    ) -> StoreResult<(Vec<RedisValue>, u32)> {
        Ok((self.execute(command, arguments, limit).await?, 0))
    }
}

#[tokio::test]
async fn a_turn_that_is_added_while_its_session_is_to_make_room_stays() -> Result<()> {
    let server = RedisServer::start_with(&["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"])?;
    let connection = Connection::open(&server).await?;
    let key_of =
        |number: usize| anyhow::Ok(SessionKey::of(&verified("k"), &SessionId::parse(&number.to_string())?));
    let plain = RedisStore::new(connection.clone(), "p", limits(Duration::from_secs(20)));
    let between = Between { connection, store: plain.clone(), session: key_of(0)?, is_added: Arc::default() };
    let is_added = Arc::clone(&between.is_added);
    let store = RedisStore::new(between, "p", limits(Duration::from_secs(20)));
    let text = "x".repeat(60_000);
    let mut number = 0;
    while !is_added.load(Ordering::Relaxed) {
        assert!(number < 100, "nothing made room");
        store.append_turn(&key_of(number)?, &exchange("1", &text, "a"), LONG, 10).await?;
        store.share(&key_of(number)?).await?;
        number += 1;
        // Redis tells sessions apart by the milliseconds of their last use.
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(turns(&plain, &key_of(0)?).await?.len(), 2, "the late turn was acknowledged");
    // It is counted with the turn that came, and others make room.
    store.share(&key_of(0)?).await?;
    assert_eq!(turns(&plain, &key_of(0)?).await?.len(), 2);
    assert_eq!(turns(&plain, &key_of(1)?).await?.len(), 0, "the one that was used longest ago");
    assert_eq!(turns(&plain, &key_of(number - 1)?).await?.len(), 1);
    Ok(())
}
