//! A value behind a mutex that a panic elsewhere does not poison. It must never be locked across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex whose lock is always given.
///
/// No holder leaves its value half changed: each change is one assignment or one call. A thread that panicked while it
/// held the lock is therefore no reason to fail all later requests.
#[derive(Debug, Default)]
pub(crate) struct Locked<T>(Mutex<T>);

impl<T> Locked<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock. The value is unlocked when the guard is dropped.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
