//! What one request carries from its arrival to its end: its values, and its access to the store.
//!
//! Nothing here decides what the reply to a request is.

mod record;
mod store_access;
mod store_deadline;
mod store_failure;

pub(crate) use record::{CountState, ReplyNotes, RequestInfo, UpstreamReport};
pub(crate) use store_access::{HeldBy, HeldLease, StoreAccess, StoreReply, ping};
use store_deadline::StoreDeadline;
