//! The time that one request may wait for the store before its upstream call, over all its operations.
//!
//! Time passes only while the request waits for the store, and operations at the same time cost their time once. It
//! does not pass while the request waits in the queue, follows another request's flight, or reads its own body. The
//! remaining time goes to the store with each operation, and the store enforces it. This module must never wait
//! itself.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use crate::{
    host::{Platform, Service},
    platform::{Clock, Locked},
    store::{Store, StoreTimeouts, TimeLimit},
};

/// The time limit of one request. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct StoreDeadline(Arc<Locked<Spending>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spending {
    whole: Duration,
    /// The time left when the request last began to wait.
    left: Duration,
    /// Whether the request has not waited for the store yet.
    is_whole: bool,
    /// The number of operations that the request waits for.
    waiting: u32,
    /// When the request began to wait for the first of them.
    since: Duration,
}

impl Spending {
    fn new(whole: Duration) -> Self {
        Self { whole, left: whole, is_whole: true, waiting: 0, since: Duration::ZERO }
    }

    /// Begins to wait for one more operation, and returns its time limit.
    fn begin(&mut self, now: Duration) -> TimeLimit {
        if self.waiting == 0 {
            self.since = now;
        }
        self.waiting += 1;
        let time = self.left.saturating_sub(now.saturating_sub(self.since));
        TimeLimit { time, is_whole: self.is_whole }
    }

    /// Ends the wait for one operation.
    fn end(&mut self, now: Duration) {
        self.is_whole = false;
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.left = self.left.saturating_sub(now.saturating_sub(self.since));
        }
    }

    fn renew(&mut self) {
        (self.left, self.is_whole) = (self.whole, true);
    }
}

impl StoreDeadline {
    /// The deadline of a new request. A store inside this process ignores it.
    pub(super) fn new<P: Platform>(service: &Service<P>) -> Self {
        Self::of(service, |timeouts| timeouts.ask)
    }

    /// A deadline for work that no request waits for.
    pub(super) fn unhurried<P: Platform>(service: &Service<P>) -> Self {
        Self::of(service, |timeouts| timeouts.keep)
    }

    fn of<P: Platform>(service: &Service<P>, whole: impl FnOnce(StoreTimeouts) -> Duration) -> Self {
        let whole = whole(service.store().timeouts());
        Self(Arc::new(Locked::new(Spending::new(whole))))
    }

    /// Begins to wait for one more operation.
    pub(super) fn begin<'a, C: Clock>(&'a self, clock: &'a C) -> StoreWait<'a, C> {
        let limit = self.spending().begin(clock.now());
        StoreWait { clock, deadline: self, limit }
    }

    /// Gives the request its whole time again.
    pub(super) fn renew(&self) {
        self.spending().renew();
    }

    fn spending(&self) -> MutexGuard<'_, Spending> {
        self.0.lock()
    }
}

/// The wait for one operation. It ends when this is dropped: after the store's reply, or with the request.
pub(super) struct StoreWait<'a, C: Clock> {
    clock: &'a C,
    deadline: &'a StoreDeadline,
    limit: TimeLimit,
}

impl<C: Clock> StoreWait<'_, C> {
    /// The time limit of the operation.
    pub(super) fn limit(&self) -> TimeLimit {
        self.limit
    }
}

impl<C: Clock> Drop for StoreWait<'_, C> {
    fn drop(&mut self) {
        self.deadline.spending().end(self.clock.now());
    }
}

#[cfg(test)]
mod tests;
