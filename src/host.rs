//! The bundle: everything that a handler needs, behind one trait.

#[cfg(all(feature = "memory", not(target_family = "wasm")))]
pub mod memory;

use crate::{
    config::Config,
    config::settings::Deployment,
    fleet::local::LocalFleet,
    metrics::Metrics,
    platform::{Background, Clock, Entropy, Journal, Timer, Upstream},
    process::{FlightTable, Orphans},
    store::Store,
};

/// Everything a handler needs; cheap to clone, shared by all requests.
pub trait Host: Upstream + Clock + Timer + Entropy + Background + Journal + Clone + 'static {
    /// Where shared state lives.
    type Store: Store;
    /// Where counters live.
    type Metrics: Metrics;

    /// The form of this host, for `paddock_build_info` and for messages.
    fn form(&self) -> Deployment;
    /// The checked settings.
    fn config(&self) -> &Config;
    /// Shared state.
    fn store(&self) -> &Self::Store;
    /// Counters.
    fn metrics(&self) -> &Self::Metrics;
    /// What this process knows of the fleet: all there is without Redis, and what is gone by while Redis is away. It was
    /// given the hosts of the configuration.
    fn fleet(&self) -> &LocalFleet;
    /// The loads that are seen through although their clients left.
    fn orphans(&self) -> &Orphans;
    /// The flights that others may join.
    fn flights(&self) -> &FlightTable;
}
