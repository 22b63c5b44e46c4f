//! A slot that a request has on a host, from when it is taken until it is given back.
//!
//! What is learnt of the host meanwhile goes to the store, or, while that is away, into this process's local fleet.

use std::{sync::Arc, time::Duration};

use futures::{
    channel::oneshot,
    future::{Either, select},
};

use crate::{
    fleet::{
        AttemptContext, AttemptReport, BackendHost, Cause, HostEffect, HostStats,
        snapshot::{LEASE, Lease},
    },
    host::{Platform, Service},
    platform::{Background, Clock, Entropy, MaybeSend, MaybeSync, Timer},
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
    /// When it was taken, by the store's clock and by the host's.
    pub(crate) began: Duration,
    pub(crate) since: Duration,
    /// Requests in flight in the lane when it was taken, itself included.
    pub(crate) in_flight: u64,
    /// Whether the model must be loaded.
    pub(crate) cold: bool,
    /// What is asked: the runner options, what a prompt cache may know, the length of the prompt, and in how many pieces.
    pub(crate) options: String,
    pub(crate) affinity: u64,
    pub(crate) prompt: u64,
    pub(crate) streams: bool,
    /// Until the first byte of the answer.
    pub(crate) first_byte: Option<Duration>,
    /// Dropped with the slot, it ends the renewals of the lease.
    pub(crate) _renewal: Option<oneshot::Sender<()>>,
}

impl Slot {
    /// What is told of the attempt when it ends now.
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
            affinity: self.affinity,
            prompt: self.prompt,
        });
        let elapsed = service.now().saturating_sub(self.since);
        AttemptReport { run, began: self.began, first_byte: self.first_byte, elapsed, effect }
    }

    /// Whether it counts against the host's limit.
    pub(crate) fn is_taken(&self) -> bool {
        self.lease.is_some()
    }

    /// Until the first byte of the answer, once there was one.
    pub(crate) fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    /// How long ago the first byte came.
    pub(crate) fn since_first_byte<P: Platform>(&self, service: &Service<P>) -> Option<Duration> {
        Some(service.now().saturating_sub(self.since + self.first_byte?))
    }

    /// Takes note of the first byte; of a model that had to be loaded, others want to know at once.
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

    /// Gives the slot back and takes note of how the attempt ended.
    pub(crate) async fn release<P: Platform>(self, service: &Service<P>, effect: HostEffect) {
        let lane = self.lease.as_ref().map(|lease| lease.lane.clone());
        let report = self.report(service, lane.as_deref(), effect);
        let seed = service.random();
        let change = |stats: &mut HostStats, now: Duration| stats.note(now, &report, seed);
        let released = self.lease.as_ref();
        let is_fault = matches!(effect, HostEffect::Faulty(..));
        if released.is_none() && !is_fault && self.stats.breaker.cause().is_none() {
            // Nothing to give back, and no breaker to open or to close.
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

    /// Takes note that another host answered what this one failed.
    pub(crate) async fn record_fault<P: Platform>(backend: &BackendHost, service: &Service<P>) {
        let seed = service.random();
        let change = |stats: &mut HostStats, now: Duration| {
            stats.breaker.fail(now, Cause::Failed, None, seed);
        };
        update_stats(service, backend.url(), &HostStats::default(), None, change).await;
    }
}

/// Renews a lease until what is returned is dropped; `None` where leases need no renewal.
pub(crate) fn keep_alive<P: Platform>(service: &Service<P>, lease: &Lease) -> Option<oneshot::Sender<()>> {
    if !service.store().is_shared() {
        return None;
    }
    let (held, mut dropped) = oneshot::channel();
    let (task_service, lease) = (service.clone(), lease.clone());
    service.spawn(async move {
        while let Either::Right(((), left)) = select(dropped, Box::pin(task_service.sleep(LEASE / 3))).await {
            dropped = left;
            // A renewal that fails is made up for by the next.
            let _ = task_service.store().fleet().renew(&lease).await;
        }
    });
    Some(held)
}

/// Changes what is known of a host, in the store or, while that is away, in this process's local fleet.
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
