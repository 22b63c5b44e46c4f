//! The fleet state in memory: it delegates to the [`LocalFleet`](crate::fleet::LocalFleet).

use std::time::Duration;

use super::MemoryStore;
use crate::{
    fleet::{
        HostStats, Inventory,
        snapshot::{Claim, FleetSnapshot, Lease, Ticket},
    },
    platform::{Clock, MaybeSend, MaybeSync},
    store::{FleetState, StoreResult},
};

impl<C: Clock> FleetState for MemoryStore<C> {
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

    async fn inventories(&self) -> StoreResult<Vec<(String, Inventory)>> {
        // They are in the local fleet already.
        Ok(Vec::new())
    }

    async fn put_inventory(&self, _: &str, _: &Inventory) -> StoreResult<()> {
        Ok(())
    }

    async fn lead_refresh(&self, _: Duration) -> StoreResult<bool> {
        Ok(true)
    }

    async fn decisions(&self) -> StoreResult<Vec<String>> {
        Ok(self.fleet.decisions())
    }
}
