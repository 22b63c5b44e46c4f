//! One request at one host, and what is told of it: as `flight::dispatch::Place`.

use std::{sync::Arc, time::Duration};

use paddock::fleet::{
    AttemptContext, AttemptReport, Cause, HostEffect, HostStats,
    local::LocalFleet,
    plan::Choice,
    prefix::Prefixes,
    snapshot::{FleetView, Lease},
};

use crate::gateway::Failure;

/// The least time after which a host may count as hung: the default of `HUNG_AFTER`.
const HUNG_AFTER: Duration = Duration::from_secs(10);
/// The shortest wait until a suspicion is looked into again.
const AGAIN: Duration = Duration::from_millis(200);

/// A request at a host.
#[derive(Debug)]
pub(super) struct Attempt {
    lease: Lease,
    stats: Arc<HostStats>,
    in_flight: u64,
    cold: bool,
    options: String,
    affinity: u64,
    prompt: u64,
    slots: u64,
    first_byte: Option<Duration>,
    suspicion: Option<Suspicion>,
}

/// When a host will count as hung.
#[derive(Debug)]
struct Suspicion {
    patience: Duration,
    since: Duration,
    at: Duration,
}

impl Attempt {
    pub(super) fn new(
        now: Duration,
        (options, affinity, prompt): (&str, u64, u64),
        choice: &Choice,
        lease: Lease,
        stats: Arc<HostStats>,
    ) -> Self {
        let lane = stats.lane(&lease.lane).filter(|_| !choice.cold);
        let patience = lane.and_then(|lane| lane.patience(options, true, HUNG_AFTER));
        let suspicion = patience.map(|patience| Suspicion { patience, since: now, at: now + patience });
        Self {
            lease,
            stats,
            in_flight: choice.in_flight + 1,
            cold: choice.cold,
            options: options.to_owned(),
            affinity,
            prompt,
            slots: choice.limit,
            first_byte: None,
            suspicion,
        }
    }

    /// When to look whether the host hangs.
    pub(super) fn suspected_at(&self) -> Option<Duration> {
        self.suspicion.as_ref().filter(|_| self.first_byte.is_none()).map(|suspicion| suspicion.at)
    }

    /// Something if the host seems to hang; then it is looked at again later.
    pub(super) fn hangs(&mut self, now: Duration, view: &FleetView) -> Option<()> {
        self.suspected_at().filter(|at| *at <= now)?;
        let host = view.hosts.iter().find(|host| host.host.url() == &*self.lease.host)?;
        let suspicion = self.suspicion.as_mut()?;
        let completed = host.stats.completed();
        if completed > suspicion.since {
            let wait = (completed + suspicion.patience).saturating_sub(now).max(AGAIN);
            (suspicion.since, suspicion.at) = (completed, now + wait);
            return None;
        }
        suspicion.at = now + suspicion.patience;
        Some(())
    }

    pub(super) fn note_first_byte(&mut self, now: Duration, local: &LocalFleet) {
        self.first_byte = Some(now.saturating_sub(self.lease.began));
        let lane = self.stats.lane(&self.lease.lane);
        let is_known = lane.is_some_and(|lane| lane.is_proved(&self.options));
        if self.cold || !is_known {
            local.update(now, &self.lease.host, None, |stats, now| {
                stats.prove(now, &self.lease.lane, &self.options);
            });
        }
    }

    pub(super) fn settle(self, now: Duration, local: &LocalFleet, verdict: HostEffect, seed: u64) {
        let run = AttemptContext {
            lane: &self.lease.lane,
            options: &self.options,
            streams: true,
            in_flight: self.in_flight,
            cold: self.cold,
            affinity: self.affinity,
            prompt: self.prompt,
            prefixes: Prefixes::none(),
            slots: self.slots,
        };
        let report = AttemptReport {
            run: Some(run),
            began: self.lease.began,
            first_byte: self.first_byte,
            elapsed: now.saturating_sub(self.lease.began),
            effect: verdict,
        };
        local.update(now, &self.lease.host, Some(&self.lease.id), |stats, now| {
            stats.record_attempt(now, &report, seed);
        });
    }
}

/// What a failure says of the host: as `AttemptFailure::verdict`.
pub(super) fn verdict(failure: Failure) -> HostEffect {
    match failure {
        Failure::Refused => HostEffect::Faulty(Cause::Unreachable, None),
        Failure::Busy => HostEffect::Faulty(Cause::Busy, None),
        Failure::TimedOut => HostEffect::Faulty(Cause::TimedOut, None),
        Failure::NotFound => HostEffect::Refused,
        Failure::Withdrawn => HostEffect::Faulty(Cause::Hung, None),
        Failure::BrokenOff => HostEffect::Faulty(Cause::Protocol, None),
    }
}
