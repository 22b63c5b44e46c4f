//! State of this process only: its flights, the model loads that continue without a client, and whether it ends.
//!
//! Nothing here is shared with other processes, and nothing outlives this one.

pub(crate) mod broadcast;
pub(crate) mod flight_table;
mod head;
mod orphans;
mod shutdown;

pub(crate) use flight_table::FlightTable;
pub(crate) use head::{Head, Provenance, Replay, WholeHead};
pub(crate) use orphans::Orphans;
pub(crate) use shutdown::Shutdown;
