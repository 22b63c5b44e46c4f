//! The only thread that writes: all waiting changes go into one transaction and share one sync.
//!
//! A change is reported as made only after its commit. A database that fails is closed and opened again, and is not
//! written to for a while.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use paddock::{platform::Clock, store::StoreError};
use redb::{Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase as _};
use tokio::sync::oneshot;

use super::{
    contents::{Changes, NoRoom, Totals, count},
    layout::Key,
    milliseconds,
};

/// The most changes in one transaction.
const BATCH: usize = 256;
/// How long a commit that needs no sync at once may wait for one.
const SYNC_DELAY: Duration = Duration::from_secs(1);
/// The pause between two deletions of expired entries while the writer is idle.
const SWEEP_PAUSE: Duration = Duration::from_secs(30);
/// How long the writer pauses after a failure, at first and at most.
const SPARED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The result of a change: a value, or that there is no room.
pub(super) type ChangeResult<T> = Result<Result<T, NoRoom>, redb::Error>;

/// The state that readers and the writer share.
#[derive(Debug)]
pub(super) struct SharedDatabase {
    /// `None` while the database is being opened again.
    database: RwLock<Option<Database>>,
    /// New expiries of sessions that were read. They are valid at once; the writer has yet to store them.
    renewals: Mutex<HashMap<Key, u64>>,
    started: Instant,
    /// When the current write began, in ms since the start plus 1; 0 while the writer waits.
    busy: AtomicU64,
}

impl SharedDatabase {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database: RwLock::new(Some(database)),
            renewals: Mutex::default(),
            started: Instant::now(),
            busy: AtomicU64::new(0),
        }
    }

    /// A view of the database as of the last commit.
    pub(super) fn view(&self) -> Result<ReadTransaction, StoreError> {
        match &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => database.begin_read().map_err(|error| failure(error.into())),
            None => Err(closed()),
        }
    }

    fn replace(&self, database: Option<Database>) -> Option<Database> {
        std::mem::replace(&mut *self.database.write().unwrap_or_else(PoisonError::into_inner), database)
    }

    /// The expiry that a session got since the last commit.
    pub(super) fn renewed(&self, key: &Key) -> Option<u64> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    /// Sets the expiry of a session. Returns whether it is the first since the last commit, so that the writer must be
    /// told.
    pub(super) fn renew(&self, key: Key, end: u64) -> bool {
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = renewals.is_empty();
        renewals.insert(key, end);
        is_first
    }

    /// How long the current write has been running.
    pub(super) fn busy(&self) -> Duration {
        match self.busy.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.started.elapsed().saturating_sub(Duration::from_millis(since - 1)),
        }
    }

    fn set_busy(&self, is_busy: bool) {
        let since = if is_busy { milliseconds(self.started.elapsed()) + 1 } else { 0 };
        self.busy.store(since, Ordering::Relaxed);
    }
}

/// A change that waits for the writer.
pub(super) trait Change: Send {
    /// Makes the change.
    fn make(&mut self, changes: &mut Changes<'_>) -> Result<(), redb::Error>;

    /// Reports the result of the commit to the caller.
    fn tell(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A message to the writer.
pub(super) enum WriterMessage {
    /// Make a change; `true` if it must be synced before it is reported.
    Change(Box<dyn Change>, bool),
    /// Write the renewals.
    Renew,
    /// Sync everything and stop.
    Close(oneshot::Sender<()>),
}

/// A change with its caller's channel.
pub(super) struct Pending<T, F> {
    pub(super) change: F,
    pub(super) outcome: Option<Result<T, NoRoom>>,
    pub(super) waiting: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnMut(&mut Changes<'_>) -> ChangeResult<T> + Send> Change for Pending<T, F> {
    fn make(&mut self, changes: &mut Changes<'_>) -> Result<(), redb::Error> {
        self.outcome = Some((self.change)(changes)?);
        Ok(())
    }

    fn tell(self: Box<Self>, committed: Result<(), StoreError>) {
        let outcome = match (committed, self.outcome) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(outcome)) => outcome.map_err(|NoRoom| StoreError::Full),
            (Ok(()), None) => Err(closed()),
        };
        // The caller may have given up.
        let _ = self.waiting.send(outcome);
    }
}

/// Opens the database; called again after a failure.
pub(super) type Open = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The state of the writer's thread.
pub(super) struct Writer<C> {
    pub(super) shared: std::sync::Arc<SharedDatabase>,
    pub(super) open: Open,
    pub(super) clock: C,
    /// The limit of each half, in bytes.
    pub(super) limit: u64,
    pub(super) totals: Totals,
    /// Since when a commit is not synced.
    pub(super) unsynced: Option<Instant>,
    pub(super) spared: Option<Spared>,
}

/// The pause after a failure.
#[derive(Debug, Clone)]
pub(super) struct Spared {
    until: Instant,
    pause: Duration,
    error: StoreError,
}

impl<C: Clock> Writer<C> {
    /// Writes until it is told to stop, or until all senders are gone.
    pub(super) fn run(mut self, messages: &Receiver<WriterMessage>) {
        let mut closing = None;
        while closing.is_none() {
            let mut batch = Vec::new();
            let mut durable = false;
            let mut next = messages.recv_timeout(self.pause());
            loop {
                match next {
                    Ok(WriterMessage::Change(change, is_durable)) => {
                        durable |= is_durable;
                        batch.push(change);
                    }
                    Ok(WriterMessage::Renew) => {}
                    Ok(WriterMessage::Close(closed)) => closing = Some(Some(closed)),
                    Err(RecvTimeoutError::Disconnected) => closing = Some(None),
                    Err(RecvTimeoutError::Timeout) => break,
                }
                if closing.is_some() || batch.len() >= BATCH {
                    break;
                }
                next = messages.try_recv().map_err(|_| RecvTimeoutError::Timeout);
            }
            self.shared.set_busy(true);
            self.write(batch, durable || closing.is_some());
            self.shared.set_busy(false);
        }
        if let Some(database) = self.shared.replace(None) {
            // Everything acknowledged is on disk; if closing fails, the next start only checks the database.
            let _ = database.close();
        }
        // Dropping the writer releases the directory's lock, which the next process may be waiting for.
        drop(self);
        if let Some(Some(closed)) = closing {
            let _ = closed.send(());
        }
    }

    /// How long the writer may wait for a message.
    fn pause(&self) -> Duration {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        match (&self.spared, self.unsynced) {
            (Some(spared), _) => left(spared.until),
            (None, Some(since)) => left(since + SYNC_DELAY),
            (None, None) => SWEEP_PAUSE,
        }
    }

    fn write(&mut self, mut batch: Vec<Box<dyn Change>>, durable: bool) {
        let result = match &self.spared {
            Some(spared) if Instant::now() < spared.until => Err(spared.error.clone()),
            _ => {
                let durable = durable || self.unsynced.is_some_and(|since| since.elapsed() >= SYNC_DELAY);
                let committed = self.reopened().and_then(|()| {
                    let commit = AssertUnwindSafe(|| self.commit(&mut batch, durable));
                    catch_unwind(commit).unwrap_or_else(|_| Err(closed()))
                });
                match &committed {
                    Ok(()) => self.spared = None,
                    Err(error) => self.spare(error.clone()),
                }
                committed
            }
        };
        for change in batch {
            change.tell(result.clone());
        }
    }

    /// Makes all changes in one transaction.
    fn commit(&mut self, batch: &mut [Box<dyn Change>], durable: bool) -> Result<(), StoreError> {
        let renewals = self.shared.renewals.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let guard = self.shared.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or_else(closed)?;
        let mut made = || -> Result<Option<Totals>, redb::Error> {
            let mut transaction = database.begin_write()?;
            let durability = if durable { Durability::Immediate } else { Durability::None };
            transaction.set_durability(durability)?;
            let mut changes =
                Changes::new(&transaction, self.totals, self.limit, milliseconds(self.clock.now()))?;
            for (key, end) in &renewals {
                changes.renew(key, *end)?;
            }
            for change in &mut *batch {
                change.make(&mut changes)?;
            }
            let swept = changes.sweep()?;
            let totals = changes.totals;
            drop(changes);
            let is_idle = batch.is_empty() && renewals.is_empty() && swept == 0;
            if is_idle && !(durable && self.unsynced.is_some()) {
                transaction.abort()?;
                return Ok(None);
            }
            transaction.commit()?;
            Ok(Some(totals))
        };
        let made = made().map_err(failure);
        drop(guard);
        if let Some(totals) = made? {
            self.totals = totals;
            self.unsynced = if durable { None } else { self.unsynced.or_else(|| Some(Instant::now())) };
        }
        let mut current = self.shared.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        current.retain(|key, end| renewals.get(key) != Some(end));
        Ok(())
    }

    /// Pauses writing after a failure, and opens the database again so that it can be read meanwhile.
    fn spare(&mut self, error: StoreError) {
        let (first, most) = SPARED;
        let pause = self.spared.as_ref().map_or(first, |spared| (spared.pause * 2).min(most));
        if let Some(database) = self.shared.replace(None) {
            // The database has failed already; errors of closing it are ignored.
            let _ = catch_unwind(AssertUnwindSafe(|| database.close()));
        }
        // The first error is reported, because later ones follow from it.
        let _ = self.reopened();
        self.spared = Some(Spared { until: Instant::now() + pause, pause, error });
    }

    /// Opens the database if it is closed.
    fn reopened(&mut self) -> Result<(), StoreError> {
        if self.shared.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        self.unsynced = None;
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = (self.open)()?;
            let totals = prepare(&database)?;
            Ok::<_, redb::Error>((database, totals))
        }));
        let (database, totals) = opened.unwrap_or(Err(redb::Error::DatabaseClosed)).map_err(failure)?;
        self.totals = totals;
        self.shared.replace(Some(database));
        Ok(())
    }
}

/// Counts what the tables hold, and creates missing tables. It writes only if a table is missing, so that a full disk
/// does not prevent reading.
pub(super) fn prepare(database: &Database) -> Result<Totals, redb::Error> {
    if let Some(totals) = count(&database.begin_read()?)? {
        return Ok(totals);
    }
    let transaction = database.begin_write()?;
    // Never 0: where a database was lost, nothing that was forgotten in it comes back.
    let mut changes = Changes::new(&transaction, Totals::default(), 0, 0)?;
    changes.begin_epochs(rand::random::<u64>() >> 1)?;
    // What another version kept has no owner, and is not found under the keys of this one.
    changes.clear_answers()?;
    changes.order_sessions()?;
    drop(changes);
    transaction.commit()?;
    Ok(count(&database.begin_read()?)?.unwrap_or_default())
}

/// The error while the database is closed.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the database is closed after an error".to_owned())
}

/// The store error for a database error.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum may grow; all but a full disk are told as they are"
)]
pub(super) fn failure(error: redb::Error) -> StoreError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error {
        redb::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge) => {
            StoreError::Full
        }
        error => StoreError::Unavailable(error.to_string()),
    }
}
