//! What the embedded store on disk does while its disk is full, and while it hangs.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::FutureExt as _;
use host_shim::disk_store::{DiskLimits, DiskStore};
use paddock::{
    host::memory::ManualClock,
    session::Turn,
    store::{ResponseCache as _, Sessions as _, Store as _, StoreError},
};
use redb::{StorageBackend, backends::InMemoryBackend};

use crate::{ROOMY, answer, exchange, key, noise, session, turns};

const LONG: Duration = Duration::from_hours(1);
/// How long the store may take to come back.
const PATIENCE: Duration = Duration::from_mins(1);

fn turn(id: &str) -> Turn {
    exchange(id, "q", "a")
}

fn ids(turns: &[Turn]) -> Vec<&str> {
    turns.iter().map(|turn| turn.id.as_str()).collect()
}

/// A disk that can be full, and that can hang.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    content: InMemoryBackend,
    is_full: AtomicBool,
    syncs: AtomicU64,
    hangs: Mutex<bool>,
    released: Condvar,
}

impl Disk {
    fn store(&self, limits: DiskLimits) -> Result<DiskStore<ManualClock>> {
        let disk = self.clone();
        DiskStore::over(move || Ok(disk.clone()), limits, ManualClock::default())
    }

    fn set_full(&self, is_full: bool) {
        self.0.is_full.store(is_full, Ordering::SeqCst);
    }

    fn set_hanging(&self, hangs: bool) {
        *self.0.hangs.lock().unwrap() = hangs;
        self.0.released.notify_all();
    }

    fn syncs(&self) -> u64 {
        self.0.syncs.load(Ordering::SeqCst)
    }

    fn check(&self) -> io::Result<()> {
        if self.0.is_full.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.0.content.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.content.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.check()?;
        self.0.content.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        let hangs = self.0.hangs.lock().unwrap();
        drop(self.0.released.wait_while(hangs, |hangs| *hangs).unwrap());
        self.0.content.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.0.content.write(offset, data)
    }
}

/// Waits until it is so.
async fn until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !is_so() {
        ensure!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_new_and_loses_nothing_when_there_is_room_again() -> Result<()> {
    let disk = Disk::default();
    let (store, id) = (disk.store(ROOMY)?, session("s")?);
    store.sessions().append_turn(&id, &turn("1"), LONG, 10).await?;
    disk.set_full(true);
    assert_eq!(store.sessions().append_turn(&id, &turn("2"), LONG, 10).await, Err(StoreError::Full));
    // It is spared for a while; that, too, says why.
    assert_eq!(store.sessions().append_turn(&id, &turn("3"), LONG, 10).await, Err(StoreError::Full));
    assert_eq!(store.answers().put_answer(&key("q"), &answer("a"), LONG).await, Err(StoreError::Full));
    disk.set_full(false);
    let started = Instant::now();
    while let Err(error) = store.sessions().append_turn(&id, &turn("4"), LONG, 10).await {
        ensure!(started.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ids(&turns(store.sessions(), &id).await?), ["1", "4"]);
    Ok(store.ping().await?)
}

#[tokio::test]
async fn turns_that_wait_at_the_same_time_share_a_sync() -> Result<()> {
    let disk = Disk::default();
    let store = Arc::new(disk.store(ROOMY)?);
    store.sessions().append_turn(&session("warm")?, &turn("1"), LONG, 10).await?;
    disk.set_hanging(true);
    let before = disk.syncs();
    let append = |number: usize| {
        let store = Arc::clone(&store);
        async move {
            store
                .sessions()
                .append_turn(&session("s")?, &turn(&number.to_string()), LONG, 100)
                .await
                .map_err(anyhow::Error::from)
        }
    };
    let first = tokio::spawn(append(0));
    until("the first is being synced", || disk.syncs() > before).await?;
    let others: Vec<_> = (1..64).map(|number| tokio::spawn(append(number))).collect();
    // All of them were polled once when this task gets its turn again, so all of them wait.
    tokio::task::yield_now().await;
    assert!(!first.is_finished() && !others.iter().any(tokio::task::JoinHandle::is_finished));
    disk.set_hanging(false);
    first.await??;
    for other in others {
        other.await??;
    }
    let syncs = disk.syncs() - before;
    assert!(syncs <= 16, "{syncs} syncs for 64 turns");
    assert_eq!(turns(store.sessions(), &session("s")?).await?.len(), 64);
    Ok(())
}

#[tokio::test]
async fn a_disk_that_hangs_holds_nobody_beyond_the_limit_and_what_is_there_can_be_read() -> Result<()> {
    let disk = Disk::default();
    let (store, id) = (disk.store(DiskLimits { wait: Duration::from_secs(2), ..ROOMY })?, session("s")?);
    // The file has room: while it grows, redb lets nobody read.
    store.answers().put_answer(&key("q"), &answer(&noise(1 << 20, 1)), LONG).await?;
    store.answers().purge(None).await?;
    for _ in 0..3 {
        store.sessions().append_turn(&id, &turn("1"), LONG, 10).await?;
        store.sessions().append_turn(&session("other")?, &turn("1"), LONG, 10).await?;
    }
    disk.set_hanging(true);
    let append = async |number: &str| store.sessions().append_turn(&id, &turn(number), LONG, 10).await;
    assert_eq!(append("2").await, Err(StoreError::TimedOut));
    assert_eq!(ids(&turns(store.sessions(), &id).await?), ["1"]);
    // From now on nobody waits at all.
    until("the disk counts as hanging", || store.ping().now_or_never() == Some(Err(StoreError::TimedOut)))
        .await?;
    assert_eq!(append("3").now_or_never(), Some(Err(StoreError::TimedOut)));
    disk.set_hanging(false);
    let started = Instant::now();
    while let Err(error) = append("2").await {
        ensure!(started.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What was given up was written later, and is there once.
    assert_eq!(ids(&turns(store.sessions(), &id).await?), ["1", "2"]);
    Ok(())
}
