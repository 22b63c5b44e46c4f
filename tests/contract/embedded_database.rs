//! What only the embedded store on disk promises: what it keeps is there after a restart, it is bounded, and it tells
//! what is wrong with its file.

use std::{fs, io::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use host_shim::disk_store::{DiskLimits, DiskStore};
use paddock::{
    fleet::Inventory,
    host::memory::ManualClock,
    session::{SessionHead, Span, Turn},
    store::{InventoryStore as _, ResponseCache as _, Sessions as _, Store as _, StoreError},
};
use redb::TableDefinition;
use tempfile::TempDir;

use crate::{OnDisk, ROOMY, Subject as _, answer, asked, exchange, key, noise, on_disk, session, turns};

const LONG: Duration = Duration::from_hours(1);

fn turn(id: &str) -> Turn {
    exchange(id, "q", "a")
}

fn ids(turns: &[Turn]) -> Vec<&str> {
    turns.iter().map(|turn| turn.id.as_str()).collect()
}

fn small(disk: u64) -> DiskLimits {
    DiskLimits { disk, ..ROOMY }
}

fn file(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("paddock.redb")
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_restart_until_its_time_has_passed() -> Result<()> {
    let first = on_disk().await?;
    let id = session("s")?;
    first.store.answers().put_answer(&key("q"), &answer("a"), LONG).await?;
    first.store.sessions().append_turn(&id, &turn("1"), LONG, 10).await?;
    first.store.sessions().append_turn(&id, &turn("2"), LONG, 10).await?;
    first.pass(LONG / 2).await;
    // Only this read moves the end of the session.
    turns(first.store.sessions(), &id).await?;
    let second = first.again().await?;
    let found = second.store.answers().answer(&asked("q")).await?.context("it is there")?;
    assert_eq!((found.entry, found.age), (answer("a"), LONG / 2));
    second.pass(LONG / 2).await;
    assert_eq!(second.store.answers().answer(&asked("q")).await?, None);
    assert_eq!(ids(&turns(second.store.sessions(), &id).await?), ["1", "2"]);
    let third = second.again().await?;
    third.store.sessions().append_turn(&id, &turn("2"), LONG, 10).await?;
    third.store.sessions().append_turn(&id, &turn("3"), LONG, 10).await?;
    assert_eq!(ids(&turns(third.store.sessions(), &id).await?), ["1", "2", "3"]);
    third.pass(LONG).await;
    assert_eq!(turns(third.again().await?.store.sessions(), &id).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_session_that_was_made_is_as_it_was_after_a_restart_and_a_deleted_one_is_gone() -> Result<()> {
    let first = on_disk().await?;
    let (made, deleted) = (session("made")?, session("deleted")?);
    let head =
        SessionHead { system: Some("be brief".to_owned()), ttl: Some(2 * LONG), ..SessionHead::default() };
    for key in [&made, &deleted] {
        first.store.sessions().create_session(key, &head, LONG).await?;
        first.store.sessions().append_turn(key, &turn("1"), LONG, 10).await?;
    }
    assert!(first.store.sessions().delete_session(&deleted).await?);
    let second = first.again().await?;
    second.pass(LONG).await;
    assert_eq!(second.store.sessions().session(&deleted, Span::ALL, LONG).await?, None);
    let found = second.store.sessions().session(&made, Span::ALL, LONG).await?.context("it lasts longer")?;
    assert_eq!((found.head, found.age, ids(&found.turns)), (head, LONG, vec!["1"]));
    Ok(())
}

#[tokio::test]
async fn an_epoch_outlives_a_restart() -> Result<()> {
    let first = on_disk().await?;
    first.store.answers().put_answer(&key("q"), &answer("a"), LONG).await?;
    first.store.answers().purge(None).await?;
    first.store.answers().purge(Some("m")).await?;
    let before = (first.store.answers().epochs("m").await?, first.store.answers().epochs("other").await?);
    assert_ne!(before.0, before.1);
    let second = first.again().await?;
    assert_eq!(
        (second.store.answers().epochs("m").await?, second.store.answers().epochs("other").await?),
        before
    );
    // What nobody can ask for any more takes no room.
    assert_eq!(second.store.answers().answer(&asked("q")).await?, None);
    Ok(())
}

#[tokio::test]
async fn what_hosts_have_outlives_a_restart() -> Result<()> {
    let first = on_disk().await?;
    let inventory = |version: &str| Inventory { version: version.to_owned(), ..Inventory::default() };
    for (host, version) in [("http://a:1", "1"), ("http://b:1", "1"), ("http://a:1", "2")] {
        first.store.inventories().put_inventory(host, &inventory(version)).await?;
    }
    let second = first.again().await?;
    let expected = [("http://a:1", inventory("2")), ("http://b:1", inventory("1"))];
    assert_eq!(
        second.store.inventories().load_inventories().await?,
        expected.map(|(host, inventory)| (host.to_owned(), inventory))
    );
    Ok(())
}

#[tokio::test]
async fn answers_stay_within_the_limit_and_those_that_end_soonest_go_first() -> Result<()> {
    let (directory, clock) = (TempDir::new()?, ManualClock::default());
    let store = DiskStore::open(directory.path(), small(8 << 20), clock.clone())?;
    for number in 0..1_000_u64 {
        let text = noise(12_000, number);
        let ttl = LONG + Duration::from_secs(number);
        store.answers().put_answer(&key(&number.to_string()), &answer(&text), ttl).await?;
    }
    let mut kept = Vec::new();
    for number in 0..1_000 {
        if store.answers().answer(&asked(&number.to_string())).await?.is_some() {
            kept.push(number);
        }
    }
    // Half of the limit is for answers: 4 MiB, of which each takes 16 KiB.
    assert_eq!(kept, (744..1_000).collect::<Vec<_>>());
    let too_large = answer(&noise(6 << 20, 0));
    assert_eq!(store.answers().put_answer(&key("large"), &too_large, LONG).await, Err(StoreError::Full));
    store.close().await;
    let size = fs::metadata(file(&directory))?.len();
    assert!(size <= 2 * (8 << 20), "the file has {size} bytes");
    Ok(())
}

#[tokio::test]
async fn where_there_is_no_room_the_session_that_was_used_longest_ago_goes() -> Result<()> {
    let (directory, clock) = (TempDir::new()?, ManualClock::default());
    let store = DiskStore::open(directory.path(), small(2 << 20), clock.clone())?;
    let text = "x".repeat(5_000);
    for number in 0..200 {
        let id = number.to_string();
        clock.advance(Duration::from_millis(1));
        store.sessions().append_turn(&session(&id)?, &exchange(&id, &text, &text), LONG, 10).await?;
        // The first one is used all the time.
        assert_eq!(turns(store.sessions(), &session("0")?).await?.len(), 1, "{number}");
    }
    let mut stored = Vec::new();
    for number in 1..200 {
        let id = number.to_string();
        stored.extend((!turns(store.sessions(), &session(&id)?).await?.is_empty()).then_some(number));
    }
    assert!((30..=64).contains(&stored.len()), "{} of 200 sessions are kept", stored.len());
    assert_eq!(stored, (200 - stored.len()..200).collect::<Vec<_>>(), "the newest");
    // A turn that takes the place of another has room, and so has everything once their time has passed.
    let first = exchange("again", &text, &text);
    assert_eq!(store.sessions().append_turn(&session("0")?, &first, LONG, 1).await, Ok(()));
    clock.advance(LONG);
    for number in 0..30 {
        let id = format!("later {number}");
        store.sessions().append_turn(&session(&id)?, &exchange(&id, &text, &text), LONG, 10).await?;
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
            let text = noise(100 + number * 37, number as u64);
            let id = format!("{round} {number}");
            store.answers().put_answer(&key(&id), &answer(&text), LONG).await?;
            if number % 4 == 0 {
                store.sessions().append_turn(&session(&id)?, &exchange(&id, &text, &text), LONG, 10).await?;
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
        first.store.sessions().append_turn(&id, &turn(number), LONG, 10).await?;
    }
    first.store.sessions().append_turn(&session("other")?, &turn("1"), LONG, 10).await?;
    first.store.answers().put_answer(&key("q"), &answer("a"), LONG).await?;
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
    assert_eq!(store.answers().answer(&asked("q")).await?, None);
    assert_eq!(ids(&turns(store.sessions(), &id).await?), ["1", "3"]);
    assert_eq!(turns(store.sessions(), &session("other")?).await?, []);
    store.sessions().append_turn(&id, &turn("4"), LONG, 10).await?;
    store.sessions().append_turn(&session("other")?, &turn("5"), LONG, 10).await?;
    store.answers().put_answer(&key("q"), &answer("new"), LONG).await?;
    assert_eq!(ids(&turns(store.sessions(), &id).await?), ["1", "3", "4"]);
    assert_eq!(ids(&turns(store.sessions(), &session("other")?).await?), ["5"]);
    assert_eq!(store.answers().answer(&asked("q")).await?.map(|stored| stored.entry), Some(answer("new")));
    clock.advance(LONG);
    store.sessions().append_turn(&id, &turn("6"), LONG, 10).await?;
    assert_eq!(ids(&turns(store.sessions(), &id).await?), ["6"]);
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
        whole
            .store
            .answers()
            .put_answer(&key(&number.to_string()), &answer(&noise(3_000, number)), LONG)
            .await?;
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
    assert!(store.answers().answer(&asked("7")).await?.is_some());
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
    store.sessions().append_turn(&session("s")?, &turn("1"), LONG, 10).await?;
    Ok(())
}
