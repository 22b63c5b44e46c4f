//! What is known of the fleet, in this process: the book's.

use std::time::Duration;

use super::MemoryStore;
use crate::{
    fleet::{
        Facts, Inventory,
        ledger::{Claim, Lease, Ledger, Ticket},
    },
    platform::{Clock, MaybeSend, MaybeSync},
    store::{FleetState, StoreResult},
};

impl<C: Clock> FleetState for MemoryStore<C> {
    async fn ledger(&self) -> StoreResult<Ledger> {
        Ok(self.fleet.ledger(self.clock.now()))
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
        _: (&Facts, Duration),
        released: Option<&Lease>,
        change: impl Fn(&mut Facts, Duration) + MaybeSend + MaybeSync,
    ) -> StoreResult<()> {
        self.fleet.update(self.clock.now(), host, released.map(|lease| &*lease.id), change);
        Ok(())
    }

    async fn inventories(&self) -> StoreResult<Vec<(String, Inventory)>> {
        // They are in the book already.
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
