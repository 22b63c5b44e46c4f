//! Whether the store is down, and what it refuses.
//!
//! It only remembers what was told of last. It writes no log and asks no store.

use std::{
    collections::BTreeSet,
    sync::{
        MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::platform::Locked;

/// Records whether the last operation failed, and which operations are refused, so that each change is logged once.
#[derive(Debug, Default)]
pub struct Outage {
    is_down: AtomicBool,
    /// Whether `refused` holds anything.
    refuses: AtomicBool,
    refused: Locked<BTreeSet<&'static str>>,
    /// Whether an advice was told.
    is_advised: AtomicBool,
}

/// A change that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// The first failure after a success.
    Began,
    /// The first success after a failure.
    Ended,
}

impl Outage {
    /// Records the result of an operation.
    pub(crate) fn record(&self, succeeded: bool) -> Option<Transition> {
        // A plain load first: results agree nearly always, and a swap would make every core wait for the line.
        if self.is_down.load(Ordering::Relaxed) != succeeded {
            return None;
        }
        match (self.is_down.swap(!succeeded, Ordering::Relaxed), succeeded) {
            (true, true) => Some(Transition::Ended),
            (false, false) => Some(Transition::Began),
            (true, false) | (false, true) => None,
        }
    }

    /// Records that a store that answers refused an operation; returns whether that is new.
    pub(crate) fn refuses(&self, operation: &'static str) -> bool {
        self.refuses.store(true, Ordering::Relaxed);
        self.refused().insert(operation)
    }

    /// Records that an advice is told; returns whether it is the first time.
    pub(crate) fn advises(&self) -> bool {
        !self.is_advised.swap(true, Ordering::Relaxed)
    }

    /// Records that an operation succeeded.
    pub(crate) fn accepts(&self, operation: &'static str) {
        if self.refuses.load(Ordering::Relaxed) {
            let mut refused = self.refused();
            refused.remove(operation);
            self.refuses.store(!refused.is_empty(), Ordering::Relaxed);
        }
    }

    fn refused(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.refused.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_once_at_each_end() {
        let outage = Outage::default();
        let system: Vec<_> =
            [true, false, false, true, true].into_iter().map(|succeeded| outage.record(succeeded)).collect();
        assert_eq!(system, [None, Some(Transition::Began), None, Some(Transition::Ended), None]);
    }

    #[test]
    fn a_refusal_is_told_once_until_the_operation_succeeds() {
        let outage = Outage::default();
        assert!(outage.refuses("put") && !outage.refuses("put") && outage.refuses("append"));
        outage.accepts("put");
        assert!(outage.refuses("put") && !outage.refuses("append"));
    }
}
