//! A slot that a request has on a host, from when it is taken until it is given back.
//!
//! What the request learns of the host goes to the store, or to this process's local fleet while the store is away.

use std::{sync::Arc, time::Duration};

use futures::channel::oneshot;

use super::prompt::Prompt;
use crate::{
    fleet::{
        AttemptContext, AttemptReport, BackendHost, HostEffect, HostStats, Scope,
        snapshot::{LEASE, Lease},
    },
    host::{Platform, Service},
    platform::{Background, Clock, Entropy, MaybeSend, MaybeSync, Timer, race},
    request::HeldBy,
    store::{FleetState, Store},
};

/// A slot that a request has on a host.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) backend: BackendHost,
    pub(crate) lease: Option<Lease>,
    /// Which state has the lease, and learns how the attempt ended.
    pub(crate) held_by: HeldBy,
    pub(crate) stats: Arc<HostStats>,
    /// When it was taken, by the store's clock.
    pub(crate) began: Duration,
    /// When it was taken, by the platform's clock.
    pub(crate) since: Duration,
    /// How many requests were in flight in the lane when it was taken, this one included.
    pub(crate) in_flight: u64,
    /// Whether the model must be loaded.
    pub(crate) cold: bool,
    /// The runner options of the request.
    pub(crate) options: String,
    /// What the host's prompt cache may know of the request.
    pub(crate) prompt: Arc<Prompt>,
    /// How many requests the lane answers at once.
    pub(crate) slots: u64,
    /// Whether the answer streams.
    pub(crate) streams: bool,
    /// The time until the first byte of the answer.
    pub(crate) first_byte: Option<Duration>,
    /// Dropped with the slot, it ends the renewals of the lease.
    pub(crate) _renewal: Option<oneshot::Sender<()>>,
}

/// What happens while a lease is renewed.
enum RenewalSignal {
    /// The slot was dropped.
    Dropped,
    /// It is time to renew the lease.
    Due,
}

impl Slot {
    /// The report of the attempt, as if it ended now.
    fn report<'p, P: Platform>(
        &'p self,
        service: &Service<P>,
        lane: Option<&'p str>,
        effect: HostEffect,
    ) -> AttemptReport<'p> {
        let run = lane.map(|lane| AttemptContext {
            lane,
            options: &self.options,
            streams: self.streams,
            in_flight: self.in_flight,
            cold: self.cold,
            affinity: self.prompt.affinity,
            prompt: self.prompt.length,
            prefixes: &self.prompt.prefixes,
            slots: self.slots,
        });
        let elapsed = service.now().saturating_sub(self.since);
        AttemptReport { run, began: self.began, first_byte: self.first_byte, elapsed, effect }
    }

    /// Whether it counts against the host's limit.
    pub(crate) fn is_taken(&self) -> bool {
        self.lease.is_some()
    }

    /// The time until the first byte of the answer, once there was one.
    pub(crate) fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    /// How long ago the first byte came.
    pub(crate) fn since_first_byte<P: Platform>(&self, service: &Service<P>) -> Option<Duration> {
        Some(service.now().saturating_sub(self.since + self.first_byte?))
    }

    /// Notes the first byte. If the model had to be loaded, the store learns at once that it is loaded now.
    pub(crate) fn note_first_byte<P: Platform>(&mut self, service: &Service<P>) {
        self.first_byte = Some(service.now().saturating_sub(self.since));
        let Some(lease) = self.lease.clone() else { return };
        let is_known = self.stats.lane(&lease.lane).is_some_and(|stats| stats.is_proved(&self.options));
        if is_known && !self.cold {
            return;
        }
        let (service, stats, options) = (service.clone(), Arc::clone(&self.stats), self.options.clone());
        service.clone().spawn(async move {
            let change = |stats: &mut HostStats, now: Duration| stats.prove(now, &lease.lane, &options);
            update_stats(&service, &lease.host, &stats, None, change).await;
        });
    }

    /// Gives the slot back and notes how the attempt ended.
    pub(crate) async fn release<P: Platform>(self, service: &Service<P>, effect: HostEffect) {
        let lane = self.lease.as_ref().map(|lease| lease.lane.clone());
        let report = self.report(service, lane.as_deref(), effect);
        let seed = service.random();
        let change = |stats: &mut HostStats, now: Duration| stats.record_attempt(now, &report, seed);
        let released = self.lease.as_ref();
        let is_fault = matches!(effect, HostEffect::Faulty(cause, _) if cause.scope() == Scope::Host);
        if released.is_none() && !is_fault && self.stats.breaker.cause().is_none() {
            // There is no lease to give back, and no breaker to open or to close.
            return;
        }
        if self.held_by == HeldBy::Local {
            service.fleet().update(
                service.now(),
                self.backend.url(),
                released.map(|lease| &*lease.id),
                change,
            );
        } else {
            update_stats(service, self.backend.url(), &self.stats, released, change).await;
        }
    }

    /// Notes that another host answered the request that this one failed in `lane`.
    pub(crate) async fn record_fault<P: Platform>(backend: &BackendHost, lane: &str, service: &Service<P>) {
        let seed = service.random();
        let change = |stats: &mut HostStats, now: Duration| stats.record_fault(now, lane, seed);
        update_stats(service, backend.url(), &HostStats::default(), None, change).await;
    }
}

/// Renews a lease until the returned sender is dropped; `None` where leases need no renewal.
pub(crate) fn keep_alive<P: Platform>(service: &Service<P>, lease: &Lease) -> Option<oneshot::Sender<()>> {
    if !service.store().is_shared() {
        return None;
    }
    let (held, mut dropped) = oneshot::channel();
    let (task_service, lease) = (service.clone(), lease.clone());
    service.spawn(async move {
        loop {
            let signal = race! {
                _ = &mut dropped => RenewalSignal::Dropped,
                () = task_service.sleep(LEASE / 3) => RenewalSignal::Due,
            };
            match signal {
                RenewalSignal::Dropped => return,
                // There are two more renewals within the lease, so one may fail.
                RenewalSignal::Due => {
                    let _ = task_service.store().fleet().renew(&lease).await;
                }
            }
        }
    });
    Some(held)
}

/// Changes the stats of a host, in the store, or in this process's local fleet while the store is away.
pub(crate) async fn update_stats<P: Platform>(
    service: &Service<P>,
    url: &str,
    known: &HostStats,
    released: Option<&Lease>,
    change: impl Fn(&mut HostStats, Duration) + MaybeSend + MaybeSync,
) {
    let now = service.fleet().time(service.now());
    if service.store().fleet().update(url, (known, now), released, &change).await.is_err() {
        service.fleet().update(service.now(), url, None, change);
    }
    service.fleet().ring();
}
