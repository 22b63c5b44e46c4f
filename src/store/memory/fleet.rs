//! The fleet state in memory: it delegates to a [`LocalFleet`].
//!
//! It is the whole fleet state of any store that one process uses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    fleet::{
        HostStats, Inventory,
        local::LocalFleet,
        snapshot::{Claim, FleetSnapshot, Lease, Ticket},
    },
    platform::{Clock, MaybeSend, MaybeSync},
    store::{FleetState, InventoryStore, StoreResult},
};

/// The fleet state of a store that one process uses.
#[derive(Debug)]
pub struct MemoryFleet<C> {
    clock: C,
    fleet: Arc<LocalFleet>,
    sequence: AtomicU64,
}

impl<C> MemoryFleet<C> {
    /// A fleet of which nothing is known.
    pub fn new(clock: C) -> Self {
        Self { clock, fleet: Arc::default(), sequence: AtomicU64::new(0) }
    }

    /// The state itself.
    pub fn local(&self) -> Arc<LocalFleet> {
        Arc::clone(&self.fleet)
    }
}

impl<C: Clock> FleetState for MemoryFleet<C> {
    async fn snapshot(&self) -> StoreResult<FleetSnapshot> {
        Ok(self.fleet.snapshot(self.clock.now()))
    }

    async fn claim(&self, claim: &Claim<'_>) -> StoreResult<Option<Lease>> {
        Ok(self.fleet.claim(self.clock.now(), claim))
    }

    async fn renew(&self, _: &Lease) -> StoreResult<()> {
        Ok(())
    }

    async fn enter(&self, ticket: &Ticket, displaced: Option<&str>) -> StoreResult<()> {
        self.fleet.enter(self.clock.now(), ticket, displaced);
        Ok(())
    }

    async fn leave(&self, id: &str) -> StoreResult<()> {
        self.fleet.leave(id);
        Ok(())
    }

    async fn update(
        &self,
        host: &str,
        _: (&HostStats, Duration),
        released: Option<&Lease>,
        change: impl Fn(&mut HostStats, Duration) + MaybeSend + MaybeSync,
    ) -> StoreResult<()> {
        self.fleet.update(self.clock.now(), host, released.map(|lease| &*lease.id), change);
        Ok(())
    }

    async fn next_sequence(&self) -> StoreResult<u64> {
        Ok(self.sequence.fetch_add(1, Ordering::Relaxed))
    }

    async fn decisions(&self) -> StoreResult<Vec<String>> {
        Ok(self.fleet.decisions())
    }
}

impl<C: Clock> InventoryStore for MemoryFleet<C> {
    async fn load_inventories(&self) -> StoreResult<Vec<(String, Inventory)>> {
        // They are in the local fleet already.
        Ok(Vec::new())
    }

    async fn put_inventory(&self, _: &str, _: &Inventory) -> StoreResult<()> {
        Ok(())
    }

    async fn lead_refresh(&self, _: Duration) -> StoreResult<bool> {
        Ok(true)
    }
}
