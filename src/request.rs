//! What one request carries from its arrival to its end: its record, and its access to the store.

mod record;
mod store_access;
mod store_deadline;
mod store_failure;

pub(crate) use record::{Account, TallyState};
pub(crate) use store_access::{HeldBy, HeldLease, StoreAccess, StoreReply, ping};
use store_deadline::StoreDeadline;
