//! How long one request may wait for the store before upstream is asked, over everything that it asks there.
//!
//! It is spent while the request waits for the store, once for what is asked at the same time, and while it waits for
//! nothing else: not while it stands in the queue, follows another's flight, or reads its own body. What is left is data
//! that goes to the store; whoever waits for it enforces it. This never waits.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use crate::{
    host::{Platform, Service},
    platform::{Clock, Locked},
    store::{Store, StoreTimeouts, TimeLimit},
};

/// The time budget of one request. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct StoreDeadline(Arc<Locked<Spending>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spending {
    whole: Duration,
    /// What was left when the request last waited for nothing.
    left: Duration,
    /// Whether nothing was waited for yet.
    is_whole: bool,
    /// How many answers it waits for.
    waiting: u32,
    /// Since when.
    since: Duration,
}

impl Spending {
    fn new(whole: Duration) -> Self {
        Self { whole, left: whole, is_whole: true, waiting: 0, since: Duration::ZERO }
    }

    /// Begins to wait for one more answer; gives how long that may take.
    fn begin(&mut self, now: Duration) -> TimeLimit {
        if self.waiting == 0 {
            self.since = now;
        }
        self.waiting += 1;
        let time = self.left.saturating_sub(now.saturating_sub(self.since));
        TimeLimit { time, is_whole: self.is_whole }
    }

    /// Waits for one less.
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
    /// A budget of which nothing is spent. A store that keeps nobody waiting does not use it.
    pub(super) fn new<P: Platform>(service: &Service<P>) -> Self {
        Self::of(service, |timeouts| timeouts.ask)
    }

    /// The same for what no request waits for.
    pub(super) fn unhurried<P: Platform>(service: &Service<P>) -> Self {
        Self::of(service, |timeouts| timeouts.keep)
    }

    fn of<P: Platform>(service: &Service<P>, whole: impl FnOnce(StoreTimeouts) -> Duration) -> Self {
        let whole = whole(service.store().timeouts());
        Self(Arc::new(Locked::new(Spending::new(whole))))
    }

    /// Begins to wait for one more answer.
    pub(super) fn begin<'a, C: Clock>(&'a self, clock: &'a C) -> StoreWait<'a, C> {
        let limit = self.spending().begin(clock.now());
        StoreWait { clock, deadline: self, limit }
    }

    /// Makes it whole again: the request waited for something else than the store, which nobody counts.
    pub(super) fn renew(&self) {
        self.spending().renew();
    }

    fn spending(&self) -> MutexGuard<'_, Spending> {
        self.0.lock()
    }
}

/// A request that waits for an answer of the store, until this is dropped: when the answer is there, or with the request.
pub(super) struct StoreWait<'a, C: Clock> {
    clock: &'a C,
    deadline: &'a StoreDeadline,
    limit: TimeLimit,
}

impl<C: Clock> StoreWait<'_, C> {
    /// How long the answer may take.
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
