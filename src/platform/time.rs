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

/// A time in whole milliseconds.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A time made up to 20 % shorter or longer by a random `seed`, so that replicas that began together do not act together.
pub(crate) fn jittered(time: Duration, seed: u64) -> Duration {
    let percent = u32::try_from(seed % 41).unwrap_or_default() + 80;
    time * percent / 100
}
