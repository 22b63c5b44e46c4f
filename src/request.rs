//! What one request carries from its arrival to its end: its record, and its access to the store.

mod record;
mod store_deadline;

pub(crate) use record::{Account, StoreTrouble, note_outage};
pub(crate) use store_deadline::StoreDeadline;
