//! The port for work that outlives a request. Nothing else in the core starts a task.

use std::future::Future;

use super::{MaybeSend, MaybeSync};

/// Runs work that outlives the request which started it.
pub trait Background: MaybeSend + MaybeSync {
    /// Starts `task`. A platform that shuts down waits for it, within a limit of its own.
    fn spawn(&self, task: impl Future<Output = ()> + MaybeSend + 'static);
}
