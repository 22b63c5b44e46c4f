//! The embedded store on disk: answers, sessions and inventories in a database file, the rest in memory.
//!
//! A turn is acknowledged once it is on disk. An answer, and the new expiry of a session that was read, are on disk
//! about a second later, or with the next turn: a crash may lose these, but never a turn. A call waits no longer than
//! its limit; a write that was given up may still happen later.
//!
//! The database is `redb`. Expiry, totals and the batching of syncs on top of it are written by hand: `rusqlite` would
//! bring them, but needs a C compiler and unsafe code, and `fjall` has no expiry either.

mod contents;
mod directory;
mod layout;
mod writer;

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use anyhow::Context as _;
use paddock::{
    cache::{AllEpochs, CacheKey, Entry, Epochs, Stored},
    fleet::{Inventory, local::LocalFleet},
    platform::Clock,
    session::{Session, SessionHead, SessionKey, Span, Turn},
    store::{
        FlightKey, InventoryStore, NoFlights, Outage, ResponseCache, Sessions, Store, StoreError,
        StoreResult, memory::MemoryFleet,
    },
};
use redb::{Builder, DatabaseError, ReadTransaction, StorageBackend};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use contents::{Append, Changes};
use directory::Directory;
use layout::epoch;
use writer::{ChangeResult, Open, Pending, SharedDatabase, Writer, WriterMessage, closed, failure, prepare};

/// The most changes that may wait for the writer.
const QUEUE: usize = 1024;
/// The most simultaneous readers: each occupies a thread while it reads.
const READERS: usize = 32;

/// The limits of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// The memory for pages of the database, in bytes.
    pub memory: u64,
    /// The size on disk in bytes, half each for answers and sessions. The file may be somewhat larger.
    pub disk: u64,
    /// How long a call may wait for the disk.
    pub wait: Duration,
}

/// The embedded store on disk. Its clock gives the time since 1970, so that an expiry means the same after a restart.
#[derive(Debug)]
pub struct DiskStore<C> {
    tables: NoFlights<DiskTables<C>>,
    /// The fleet state except inventories, which ends with the process.
    fleet: MemoryFleet<C>,
    outage: Outage,
}

/// What is on disk: answers, sessions and inventories.
#[derive(Debug)]
pub struct DiskTables<C> {
    shared: Arc<SharedDatabase>,
    messages: SyncSender<WriterMessage>,
    readers: Arc<Semaphore>,
    clock: C,
    wait: Duration,
}

/// A time in whole milliseconds.
fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<C: Clock + Clone + Send + Sync + 'static> DiskStore<C> {
    /// Opens the database in `directory`, and creates both where they do not exist. Opening checks the whole database,
    /// which takes a while when it is large.
    ///
    /// # Errors
    /// A sentence: another process uses the directory, the database is damaged, or the directory cannot be written.
    pub fn open(directory: &Path, limits: DiskLimits, clock: C) -> anyhow::Result<Self> {
        let directory = Arc::new(Directory::open(directory)?);
        let opened = Arc::clone(&directory);
        let store = Self::over(move || opened.database(), limits, clock);
        store.map_err(|error| match error.downcast::<DatabaseError>() {
            Ok(error) => directory.explain(&error),
            Err(error) => error,
        })
    }

    /// Opens a database over any storage; `storage` is called again after a failure.
    ///
    /// # Errors
    /// When the database does not open.
    pub fn over<B: StorageBackend>(
        storage: impl Fn() -> Result<B, DatabaseError> + Send + 'static,
        limits: DiskLimits,
        clock: C,
    ) -> anyhow::Result<Self> {
        let open: Open = Box::new(move || {
            Builder::new()
                .set_cache_size(usize::try_from(limits.memory).unwrap_or(usize::MAX))
                // A file that another program changed is detected here, and not by a request.
                .set_check_integrity_on_open(true)
                .create_with_backend(storage()?)
        });
        let database = open()?;
        let totals = prepare(&database)?;
        let shared = Arc::new(SharedDatabase::new(database));
        let writer = Writer {
            shared: Arc::clone(&shared),
            open,
            clock: clock.clone(),
            limit: limits.disk / 2,
            totals,
            unsynced: None,
            spared: None,
        };
        let (messages, received) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("disk-store".to_owned())
            .spawn(move || writer.run(&received))
            .context("no thread for the database")?;
        let fleet = MemoryFleet::new(clock.clone());
        let readers = Arc::new(Semaphore::new(READERS));
        let tables = DiskTables { shared, messages, readers, clock, wait: limits.wait };
        Ok(Self { tables: NoFlights::new(tables), fleet, outage: Outage::default() })
    }

    /// Writes all waiting changes, and closes the database.
    pub async fn close(&self) {
        let tables = self.tables.answers();
        let (done, closed) = oneshot::channel();
        if tables.messages.try_send(WriterMessage::Close(done)).is_ok() {
            // If this times out, the next start checks the database as after a crash.
            let _ = timeout(tables.wait, closed).await;
        }
    }
}

impl<C: Clock + Clone + Send + Sync + 'static> DiskTables<C> {
    /// Reads the database as of the last commit, in a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&SharedDatabase, &ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> StoreResult<T> {
        let (readers, shared) = (Arc::clone(&self.readers), Arc::clone(&self.shared));
        let read = async move {
            let permit = readers.acquire_owned().await.map_err(|_| closed())?;
            let look = move || {
                // The thread holds the permit, because it may run on after the caller has given up.
                let _permit = permit;
                look(&shared, &shared.view()?).map_err(failure)
            };
            tokio::task::spawn_blocking(look).await.map_err(|_| closed())?
        };
        timeout(self.wait, read).await.map_err(|_| StoreError::TimedOut)?
    }

    /// Sends a change to the writer. Returns the change's result after its commit, which is synced if it is `durable`.
    async fn write<T: Send + 'static>(
        &self,
        durable: bool,
        change: impl FnMut(&mut Changes<'_>) -> ChangeResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        // When the disk hangs, only the first caller waits for the limit; the others fail at once.
        if self.shared.busy() > self.wait {
            return Err(StoreError::TimedOut);
        }
        let (waiting, written) = oneshot::channel();
        let pending = Pending { change, outcome: None, waiting };
        self.messages.try_send(WriterMessage::Change(Box::new(pending), durable)).map_err(|_| closed())?;
        timeout(self.wait, written).await.map_err(|_| StoreError::TimedOut)?.map_err(|_| closed())?
    }
}

impl<C: Clock + Clone + Send + Sync + 'static> ResponseCache for DiskTables<C> {
    async fn epochs(&self, model: &str) -> StoreResult<Epochs> {
        let name = epoch(Some(model));
        let [all, model] = self.read(move |_, view| contents::numbers(view, [&epoch(None), &name])).await?;
        Ok(Epochs { all, model })
    }

    async fn all_epochs(&self) -> StoreResult<Option<AllEpochs>> {
        Ok(None)
    }

    async fn purge(&self, model: Option<&str>) -> StoreResult<()> {
        let model = model.map(str::to_owned);
        self.write(true, move |changes| Ok(Ok(changes.begin_epoch(model.as_deref())?))).await
    }

    async fn answer(&self, flight: &FlightKey) -> StoreResult<Option<Stored>> {
        let places = [flight.key, flight.key.in_form(flight.form)].map(|key| *key.as_bytes());
        let now = milliseconds(self.clock.now());
        let look = move |_: &SharedDatabase, view: &ReadTransaction| {
            let mut youngest = None;
            for key in &places {
                let found = contents::answer(view, key, now)?;
                youngest = youngest.into_iter().chain(found).max_by_key(|(_, end)| *end);
            }
            Ok(youngest)
        };
        Ok(self.read(look).await?.and_then(|(bytes, end)| {
            let (entry, ttl) = Entry::from_bytes(&bytes.into())?;
            Some(Stored { entry, age: ttl.saturating_sub(Duration::from_millis(end.saturating_sub(now))) })
        }))
    }

    async fn put_answer(&self, key: &CacheKey, entry: &Entry, ttl: Duration) -> StoreResult<()> {
        let (key, bytes) = (*entry.storage_key(key).as_bytes(), entry.to_bytes(ttl));
        let owner = *entry.owner().as_bytes();
        let end = milliseconds(self.clock.now()).saturating_add(milliseconds(ttl).max(1));
        self.write(false, move |changes| Ok(changes.put_answer((&key, &owner), end, &bytes)?)).await
    }
}

impl<C: Clock + Clone + Send + Sync + 'static> Sessions for DiskTables<C> {
    async fn session(&self, key: &SessionKey, span: Span<'_>, ttl: Duration) -> StoreResult<Option<Session>> {
        let before = span.before.map(str::to_owned);
        let (turns, bytes) = (span.turns, span.bytes);
        let (key, now, ttl) = (*key.as_bytes(), milliseconds(self.clock.now()), milliseconds(ttl));
        let read = move |shared: &SharedDatabase, view: &ReadTransaction| {
            let head = contents::head(view, &key)?;
            let Some(head) = head.filter(|head| shared.renewed(&key).unwrap_or(head.end) > now) else {
                return Ok(None);
            };
            let span = Span { before: before.as_deref(), turns, bytes };
            let (skipped, turns) = contents::turns(view, &key, &head, span)?;
            let session = Session {
                head: SessionHead::from_json(&head.about).unwrap_or_default(),
                age: Duration::from_millis(now.saturating_sub(head.began)),
                generation: Some(head.began),
                system: head.system.clone(),
                skipped: usize::try_from(skipped).unwrap_or(usize::MAX),
                turns: turns.iter().filter_map(|json| Turn::from_json(json)).collect(),
            };
            Ok(Some((session, shared.renew(key, head.end_after(now, ttl)))))
        };
        let Some((session, is_first)) = self.read(read).await? else { return Ok(None) };
        if is_first {
            // If the queue is full, the writer runs anyway and writes the renewals.
            let _ = self.messages.try_send(WriterMessage::Renew);
        }
        Ok(Some(session))
    }

    async fn create_session(&self, key: &SessionKey, head: &SessionHead, ttl: Duration) -> StoreResult<()> {
        let (key, owner, about) = (*key.as_bytes(), *key.owner().as_bytes(), head.to_json());
        let (own, ttl) = (head.ttl.map_or(0, milliseconds), milliseconds(ttl));
        self.write(true, move |changes| Ok(changes.create((&key, &owner), &about, own, ttl)?)).await
    }

    async fn delete_session(&self, key: &SessionKey) -> StoreResult<bool> {
        let key = *key.as_bytes();
        self.write(true, move |changes| Ok(Ok(changes.delete(&key)?))).await
    }

    async fn append_turn_to(
        &self,
        key: &SessionKey,
        generation: Option<u64>,
        turn: &Turn,
        ttl: Duration,
        keep: usize,
    ) -> StoreResult<bool> {
        let append = Append {
            key: *key.as_bytes(),
            owner: *key.owner().as_bytes(),
            generation,
            id: turn.id.clone(),
            json: turn.to_json(),
            system: turn.system.clone(),
            ttl: milliseconds(ttl),
            keep,
        };
        self.write(true, move |changes| Ok(changes.append(&append)?)).await
    }
}

impl<C: Clock + Clone + Send + Sync + 'static> InventoryStore for DiskTables<C> {
    async fn load_inventories(&self) -> StoreResult<Vec<(String, Inventory)>> {
        let found = self.read(|_, view| contents::inventories(view)).await?;
        let read = |(host, json): (_, Vec<u8>)| Some((host, Inventory::from_json(&json)?));
        Ok(found.into_iter().filter_map(read).collect())
    }

    async fn put_inventory(&self, host: &str, inventory: &Inventory) -> StoreResult<()> {
        let (host, inventory) = (host.to_owned(), inventory.to_json());
        self.write(false, move |changes| Ok(Ok(changes.put_inventory(&host, &inventory)?))).await
    }

    async fn lead_refresh(&self, _: Duration) -> StoreResult<bool> {
        Ok(true)
    }
}

impl<C: Clock + Clone + Send + Sync + 'static> Store for DiskStore<C> {
    type Answers = DiskTables<C>;
    type Flights = NoFlights<DiskTables<C>>;
    type Sessions = DiskTables<C>;
    type Fleet = MemoryFleet<C>;
    type Inventories = DiskTables<C>;

    fn answers(&self) -> &Self::Answers {
        self.tables.answers()
    }

    fn flights(&self) -> &Self::Flights {
        &self.tables
    }

    fn sessions(&self) -> &Self::Sessions {
        self.tables.answers()
    }

    fn fleet(&self) -> &Self::Fleet {
        &self.fleet
    }

    fn inventories(&self) -> &Self::Inventories {
        self.tables.answers()
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn local_fleet(&self) -> Option<Arc<LocalFleet>> {
        Some(self.fleet.local())
    }

    async fn ping(&self) -> StoreResult<()> {
        let tables = self.tables.answers();
        if tables.shared.busy() > tables.wait {
            return Err(StoreError::TimedOut);
        }
        tables.read(|_, _| Ok(())).await
    }

    fn outage(&self) -> &Outage {
        &self.outage
    }
}
