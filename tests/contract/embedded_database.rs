//! What only the embedded store on disk promises: what it keeps is there after a restart, it is bounded, it tells
//! what is wrong with its file, and it outlives a disk that fails.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use host_shim::disk_store::{DiskStore, Limits};
use paddock::{
    memory_host::ManualClock,
    session::Turn,
    store::{ResponseCache as _, Sessions as _, Store as _, StoreError},
};
use redb::{StorageBackend, TableDefinition, backends::InMemoryBackend};
use tempfile::TempDir;

use crate::{OnDisk, ROOMY, Subject as _, answer, exchange, key, on_disk, session};

const LONG: Duration = Duration::from_hours(1);
/// How long the store may take to come back.
const PATIENCE: Duration = Duration::from_mins(1);

fn turn(id: &str) -> Turn {
    exchange(id, "q", "a")
}

fn ids(turns: &[Turn]) -> Vec<&str> {
    turns.iter().map(|turn| turn.id.as_str()).collect()
}

fn small(disk: u64) -> Limits {
    Limits { disk, ..ROOMY }
}

fn file(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("paddock.redb")
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart_until_its_time_has_passed() -> Result<()> {
    let first = on_disk().await?;
    let id = session("s")?;
    first.store.put_answer(&key("q"), &answer("a"), LONG).await?;
    first.store.append_turn(&id, &turn("1"), LONG, 10).await?;
    first.store.append_turn(&id, &turn("2"), LONG, 10).await?;
    first.pass(LONG / 2).await;
    // Only this read moves the end of the session.
    first.store.turns(&id, LONG).await?;
    let second = first.again().await?;
    assert_eq!(second.store.answer(&key("q")).await?, Some(answer("a")));
    second.pass(LONG / 2).await;
    assert_eq!(second.store.answer(&key("q")).await?, None);
    assert_eq!(ids(&second.store.turns(&id, Duration::from_secs(1)).await?), ["1", "2"]);
    let third = second.again().await?;
    third.store.append_turn(&id, &turn("2"), LONG, 10).await?;
    third.store.append_turn(&id, &turn("3"), LONG, 10).await?;
    assert_eq!(ids(&third.store.turns(&id, LONG).await?), ["1", "2", "3"]);
    third.pass(LONG).await;
    assert_eq!(third.again().await?.store.turns(&id, LONG).await?, []);
    Ok(())
}

#[tokio::test]
async fn answers_stay_within_the_limit_and_those_that_end_soonest_go_first() -> Result<()> {
    let (directory, clock) = (TempDir::new()?, ManualClock::default());
    let store = DiskStore::open(directory.path(), small(8 << 20), clock.clone())?;
    let text = "x".repeat(10_000);
    for number in 0..1_000_u64 {
        let ttl = LONG + Duration::from_secs(number);
        store.put_answer(&key(&number.to_string()), &answer(&text), ttl).await?;
    }
    let mut kept = Vec::new();
    for number in 0..1_000 {
        if store.answer(&key(&number.to_string())).await?.is_some() {
            kept.push(number);
        }
    }
    // Half of the limit is for answers: 4 MiB, of which each takes 16 KiB.
    assert_eq!(kept, (744..1_000).collect::<Vec<_>>());
    let too_large = answer(&"x".repeat(5 << 20));
    assert_eq!(store.put_answer(&key("large"), &too_large, LONG).await, Err(StoreError::Full));
    store.close().await;
    let size = fs::metadata(file(&directory))?.len();
    assert!(size <= 2 * (8 << 20), "the file has {size} bytes");
    Ok(())
}

#[tokio::test]
async fn a_session_is_never_dropped_for_another_and_one_without_room_is_refused() -> Result<()> {
    let (directory, clock) = (TempDir::new()?, ManualClock::default());
    let store = DiskStore::open(directory.path(), small(2 << 20), clock.clone())?;
    let text = "x".repeat(5_000);
    let mut stored = Vec::new();
    for number in 0..200 {
        let id = number.to_string();
        match store.append_turn(&session(&id)?, &exchange(&id, &text, &text), LONG, 10).await {
            Ok(()) => stored.push(id),
            Err(error) => assert_eq!(error, StoreError::Full),
        }
    }
    assert!((30..=64).contains(&stored.len()), "{} of 200 sessions are kept", stored.len());
    for id in &stored {
        assert_eq!(ids(&store.turns(&session(id)?, LONG).await?), [id.as_str()]);
    }
    // A turn that takes the place of another has room, and so has everything once their time has passed.
    let first = exchange("again", &text, &text);
    assert_eq!(store.append_turn(&session("0")?, &first, LONG, 1).await, Ok(()));
    clock.advance(LONG);
    for number in 0..30 {
        let id = format!("later {number}");
        store.append_turn(&session(&id)?, &exchange(&id, &text, &text), LONG, 10).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_file_does_not_grow_without_end() -> Result<()> {
    let (directory, clock) = (TempDir::new()?, ManualClock::default());
    let store = DiskStore::open(directory.path(), small(4 << 20), clock.clone())?;
    let mut sizes = Vec::new();
    for round in 0..6 {
        for number in 0..200 {
            let text = "x".repeat(100 + number * 37);
            let id = format!("{round} {number}");
            store.put_answer(&key(&id), &answer(&text), LONG).await?;
            if number % 4 == 0 {
                store.append_turn(&session(&id)?, &exchange(&id, &text, &text), LONG, 10).await?;
            }
        }
        clock.advance(LONG);
        sizes.push(fs::metadata(file(&directory))?.len());
    }
    assert!(sizes.iter().all(|size| *size <= 2 * (4 << 20)), "{sizes:?}");
    Ok(())
}

#[tokio::test]
async fn a_value_of_another_version_is_passed_over() -> Result<()> {
    let first = on_disk().await?;
    let id = session("s")?;
    for number in ["1", "2", "3"] {
        first.store.append_turn(&id, &turn(number), LONG, 10).await?;
    }
    first.store.append_turn(&session("other")?, &turn("1"), LONG, 10).await?;
    first.store.put_answer(&key("q"), &answer("a"), LONG).await?;
    first.store.close().await;
    let OnDisk { clock, store, directory } = first;
    drop(store);

    let database = redb::Database::open(file(&directory))?;
    let transaction = database.begin_write()?;
    {
        let mut answers =
            transaction.open_table(TableDefinition::<&[u8; 32], (u64, &[u8])>::new("answers:1"))?;
        answers.insert(key("q").as_bytes(), (u64::MAX, &b"of another version"[..]))?;
        let mut turns = transaction.open_table(TableDefinition::<&[u8; 40], &[u8]>::new("turns:1"))?;
        let mut second = [0; 40];
        second[..32].copy_from_slice(id.as_bytes());
        second[39] = 1;
        turns.insert(&second, &b"\x09of another version"[..])?;
        let mut sessions = transaction.open_table(TableDefinition::<&[u8; 32], &[u8]>::new("sessions:1"))?;
        sessions.insert(session("other")?.as_bytes(), &b"\x09of another version"[..])?;
        // What another version needs is left alone.
        let mut later = transaction.open_table(TableDefinition::<&str, &str>::new("answers:2"))?;
        later.insert("later", "later")?;
    }
    transaction.commit()?;
    database.close()?;

    let store = DiskStore::open(directory.path(), ROOMY, clock.clone())?;
    assert_eq!(store.answer(&key("q")).await?, None);
    assert_eq!(ids(&store.turns(&id, LONG).await?), ["1", "3"]);
    assert_eq!(store.turns(&session("other")?, LONG).await?, []);
    store.append_turn(&id, &turn("4"), LONG, 10).await?;
    store.append_turn(&session("other")?, &turn("5"), LONG, 10).await?;
    store.put_answer(&key("q"), &answer("new"), LONG).await?;
    assert_eq!(ids(&store.turns(&id, LONG).await?), ["1", "3", "4"]);
    assert_eq!(ids(&store.turns(&session("other")?, LONG).await?), ["5"]);
    assert_eq!(store.answer(&key("q")).await?, Some(answer("new")));
    clock.advance(LONG);
    store.append_turn(&id, &turn("6"), LONG, 10).await?;
    assert_eq!(ids(&store.turns(&id, LONG).await?), ["6"]);
    Ok(())
}

fn refusal(directory: &Path) -> Result<String> {
    let opened = DiskStore::open(directory, ROOMY, ManualClock::default());
    Ok(format!("{:#}", opened.err().context("it opened")?))
}

#[tokio::test]
async fn a_database_that_is_damaged_is_told_and_left_as_it_is() -> Result<()> {
    let whole = on_disk().await?;
    for number in 0..50 {
        whole.store.put_answer(&key(&number.to_string()), &answer(&"x".repeat(3_000)), LONG).await?;
    }
    whole.store.close().await;
    let directory = whole.directory;
    drop(whole.store);
    let bytes = fs::read(file(&directory))?;
    let mut damaged = bytes.clone();
    damaged.iter_mut().skip(8_192).for_each(|byte| *byte = byte.wrapping_add(1));
    for bad in [&damaged[..], &bytes[..bytes.len() / 2], b"something else entirely"] {
        fs::write(file(&directory), bad)?;
        let told = refusal(directory.path())?;
        assert!(told.contains("DATA_DIR") && told.contains("damaged"), "{told}");
        assert!(told.contains(&directory.path().display().to_string()), "{told}");
    }
    fs::write(file(&directory), bytes)?;
    let store = DiskStore::open(directory.path(), ROOMY, ManualClock::default())?;
    assert!(store.answer(&key("7")).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn a_directory_is_for_one_store_and_must_be_writable() -> Result<()> {
    let first = on_disk().await?;
    let told = refusal(first.directory.path())?;
    assert!(told.contains("another process") && told.contains("REDIS_URL"), "{told}");
    let mut plain = tempfile::NamedTempFile::new()?;
    plain.write_all(b"a file")?;
    for unfit in [plain.path().to_owned(), plain.path().join("below"), "/proc/paddock".into()] {
        let told = refusal(&unfit)?;
        assert!(told.contains("DATA_DIR") && told.contains("directory"), "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn an_unfinished_database_is_made_anew() -> Result<()> {
    let directory = TempDir::new()?;
    fs::write(directory.path().join("paddock.redb.new"), [0; 5_000])?;
    let store = DiskStore::open(directory.path(), ROOMY, ManualClock::default())?;
    store.append_turn(&session("s")?, &turn("1"), LONG, 10).await?;
    Ok(())
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
    fn store(&self, limits: Limits) -> Result<DiskStore<ManualClock>> {
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
    store.append_turn(&id, &turn("1"), LONG, 10).await?;
    disk.set_full(true);
    assert_eq!(store.append_turn(&id, &turn("2"), LONG, 10).await, Err(StoreError::Full));
    // It is spared for a while; that, too, says why.
    assert_eq!(store.append_turn(&id, &turn("3"), LONG, 10).await, Err(StoreError::Full));
    assert_eq!(store.put_answer(&key("q"), &answer("a"), LONG).await, Err(StoreError::Full));
    disk.set_full(false);
    let started = Instant::now();
    while let Err(error) = store.append_turn(&id, &turn("4"), LONG, 10).await {
        ensure!(started.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ids(&store.turns(&id, LONG).await?), ["1", "4"]);
    Ok(store.ping().await?)
}

#[tokio::test]
async fn turns_that_wait_at_the_same_time_share_a_sync() -> Result<()> {
    let disk = Disk::default();
    let store = Arc::new(disk.store(ROOMY)?);
    store.append_turn(&session("warm")?, &turn("1"), LONG, 10).await?;
    disk.set_hanging(true);
    let before = disk.syncs();
    let append = |number: usize| {
        let store = Arc::clone(&store);
        async move {
            store
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
    assert_eq!(store.turns(&session("s")?, LONG).await?.len(), 64);
    Ok(())
}

#[tokio::test]
async fn a_disk_that_hangs_holds_nobody_beyond_the_limit_and_what_is_there_can_be_read() -> Result<()> {
    let disk = Disk::default();
    let (store, id) = (disk.store(Limits { wait: Duration::from_secs(2), ..ROOMY })?, session("s")?);
    store.append_turn(&id, &turn("1"), LONG, 10).await?;
    disk.set_hanging(true);
    let append = async |number: &str| store.append_turn(&id, &turn(number), LONG, 10).await;
    assert_eq!(append("2").await, Err(StoreError::TimedOut));
    assert_eq!(ids(&store.turns(&id, LONG).await?), ["1"]);
    // From now on nobody waits at all.
    until("the disk counts as hanging", || {
        futures::FutureExt::now_or_never(store.ping()) == Some(Err(StoreError::TimedOut))
    })
    .await?;
    assert_eq!(futures::FutureExt::now_or_never(append("3")), Some(Err(StoreError::TimedOut)));
    disk.set_hanging(false);
    let started = Instant::now();
    while let Err(error) = append("2").await {
        ensure!(started.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What was given up was written later, and is there once.
    assert_eq!(ids(&store.turns(&id, LONG).await?), ["1", "2"]);
    Ok(())
}
