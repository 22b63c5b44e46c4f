//! The ports to time: what it is now, and waiting. Nothing else in the core reads a clock.

use std::{future::Future, time::Duration};

use super::{MaybeSend, MaybeSync};

/// Tells the time.
pub trait Clock: MaybeSend + MaybeSync {
    /// Time since an arbitrary origin that stays fixed while the host lives; never goes back.
    fn now(&self) -> Duration;
}

/// Waits.
pub trait Timer: MaybeSend + MaybeSync {
    /// Resolves once `time` has passed.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + MaybeSend + 'static;
}
