//! State of this process only: its flights, and the model loads that continue without a client.
//!
//! Nothing here is shared with other processes, and nothing outlives this one.

pub(crate) mod broadcast;
pub(crate) mod flight_table;
mod head;
mod orphans;

pub(crate) use flight_table::FlightTable;
pub(crate) use head::{Head, Provenance, Replay, WholeHead};
pub(crate) use orphans::Orphans;
