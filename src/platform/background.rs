//! The port to work that outlives a request. Nothing else in the core starts a task.

use std::future::Future;

use super::{MaybeSend, MaybeSync};

/// Runs work that outlives the request which started it.
pub trait Background: MaybeSend + MaybeSync {
    /// Starts `task`. A host that shuts down waits for it, within its own limit.
    fn spawn(&self, task: impl Future<Output = ()> + MaybeSend + 'static);
}
