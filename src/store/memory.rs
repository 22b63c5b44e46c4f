//! The embedded store in memory: everything in this process, bounded in bytes, with expiry.
//!
//! It is the default without Redis, and the fake of the tests. A `Pool` chooses what to evict; an expired entry is never
//! returned.

mod cache;
mod fleet;
mod pool;
mod sessions;

use std::sync::Arc;

use super::{NoFlights, Outage, Store, StoreResult};
use crate::{fleet::local::LocalFleet, platform::Clock};
pub use cache::MemoryAnswers;
pub use fleet::MemoryFleet;
pub use sessions::MemorySessions;

/// The bytes of an entry beside its value: key, counters, hash table.
const ENTRY_OVERHEAD: u64 = 160;
/// The least size of a part of a table, in bytes: an entry must fit into its part.
const PART: u64 = 8 << 20;

/// How many parts a table of `bytes` has. Parts let cores work in parallel but limit the largest entry, so their number
/// follows the size and not the number of cores.
fn parts(bytes: u64) -> u64 {
    (bytes / PART).clamp(1, 64)
}

/// The embedded store.
#[derive(Debug)]
pub struct MemoryStore<C> {
    flights: NoFlights<MemoryAnswers<C>>,
    sessions: MemorySessions<C>,
    fleet: MemoryFleet<C>,
    outage: Outage,
}

impl<C: Clock + Clone> MemoryStore<C> {
    /// A store of at most `limit` bytes, half for answers and half for sessions.
    pub fn new(clock: C, limit: u64) -> Self {
        Self {
            flights: NoFlights::new(MemoryAnswers::new(clock.clone(), limit / 2)),
            sessions: MemorySessions::new(clock.clone(), limit / 2),
            fleet: MemoryFleet::new(clock),
            outage: Outage::default(),
        }
    }
}

impl<C: Clock> Store for MemoryStore<C> {
    type Answers = MemoryAnswers<C>;
    type Flights = NoFlights<MemoryAnswers<C>>;
    type Sessions = MemorySessions<C>;
    type Fleet = MemoryFleet<C>;
    type Inventories = MemoryFleet<C>;

    fn answers(&self) -> &Self::Answers {
        self.flights.answers()
    }

    fn flights(&self) -> &Self::Flights {
        &self.flights
    }

    fn sessions(&self) -> &Self::Sessions {
        &self.sessions
    }

    fn fleet(&self) -> &Self::Fleet {
        &self.fleet
    }

    fn inventories(&self) -> &Self::Inventories {
        &self.fleet
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn local_fleet(&self) -> Option<Arc<LocalFleet>> {
        Some(self.fleet.local())
    }

    async fn ping(&self) -> StoreResult<()> {
        Ok(())
    }

    fn outage(&self) -> &Outage {
        &self.outage
    }
}
