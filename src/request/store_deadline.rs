//! How long one request may wait for the store before upstream is asked, over everything that it asks there.
//!
//! It is spent while the request waits for the store, once for what is asked at the same time, and while it waits for
//! nothing else: not while it stands in the queue, follows another's flight, or reads its own body. What is left is data
//! that goes to the store; whoever waits for it enforces it. This never waits.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    host::Host,
    store::{Store, TimeLimit, Within, redis::RedisLimits},
};

/// The time budget of one request. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StoreDeadline(Arc<Mutex<Spending>>);

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
    /// A budget of which nothing is spent. Where there is no Redis it is not used.
    pub(crate) fn new<H: Host>(host: &H) -> Self {
        Self::of(host, |limits| limits.ask)
    }

    /// The same for what no request waits for.
    pub(crate) fn unhurried<H: Host>(host: &H) -> Self {
        Self::of(host, |limits| limits.keep)
    }

    fn of<H: Host>(host: &H, whole: impl FnOnce(&RedisLimits) -> Duration) -> Self {
        let whole = host.config().redis.as_ref().map(|redis| whole(&redis.limits));
        Self(Arc::new(Mutex::new(Spending::new(whole.unwrap_or_default()))))
    }

    /// The store, which answers within what is left; the time is spent until what is returned is dropped.
    pub(crate) fn ask<'a, H: Host>(&self, host: &'a H) -> Asking<'a, H> {
        let limit = self.spending().begin(host.now());
        Asking { host, store: host.store().within(limit), budget: self.clone() }
    }

    /// Makes it whole again: the request waited for something else than the store, which nobody counts.
    pub(crate) fn renew(&self) {
        self.spending().renew();
    }

    fn spending(&self) -> MutexGuard<'_, Spending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store while a request waits for it.
pub(crate) struct Asking<'a, H: Host> {
    host: &'a H,
    store: Within<'a, H::Store>,
    budget: StoreDeadline,
}

impl<H: Host> Deref for Asking<'_, H> {
    type Target = H::Store;

    fn deref(&self) -> &H::Store {
        &self.store
    }
}

impl<H: Host> Drop for Asking<'_, H> {
    fn drop(&mut self) {
        self.budget.spending().end(self.host.now());
    }
}

#[cfg(test)]
mod tests;
