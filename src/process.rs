//! What this process knows by itself: the flights that are in the air, and the loads that lost their clients.
//!
//! Nothing here is shared with other processes, and nothing outlives this one.

pub(crate) mod broadcast;
pub(crate) mod flight_table;
mod head;
mod orphans;

pub(crate) use flight_table::FlightTable;
pub(crate) use head::{Head, Provenance, Replay};
pub(crate) use orphans::Orphans;
