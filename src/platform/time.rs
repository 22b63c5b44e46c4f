//! The ports for time: reading a clock, and waiting. Nothing else in the core reads a clock.

use std::{future::Future, time::Duration};

use super::{MaybeSend, MaybeSync};

/// Tells the time.
pub trait Clock: MaybeSend + MaybeSync {
    /// The time since an arbitrary origin, which stays fixed while the process lives; it never goes back.
    fn now(&self) -> Duration;
}

/// Waits for a time to pass.
pub trait Timer: MaybeSend + MaybeSync {
    /// Resolves once `time` has passed.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + MaybeSend + 'static;
}
