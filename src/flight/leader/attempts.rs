//! The attempts of a flight: one host after the other, until one answers or the failover says that none will be asked.
//!
//! Nothing has reached a client before the first event of an answer, so a failed attempt may be followed by another.

use std::pin::pin;

use futures::channel::mpsc::UnboundedSender;

use super::Leader;
use crate::{
    api::error::Error,
    fleet::{AttemptFailure, BackendHost, Failover, HostEffect},
    host::{Platform, Service},
    metrics::Attempt,
    platform::{Journal, journal::Event},
    upstream::{
        admission::{Admission, Admitted},
        answer::Opened,
        attempt,
        slot::Slot,
    },
};

/// What the store must learn of an attempt that failed.
pub(super) enum Aftermath {
    /// The slot is given back, and the host's stats learn how the attempt ended.
    Release(Box<Slot>, HostEffect),
    /// Another host answered the request that this one failed in this lane.
    RecordFault(BackendHost, String),
}

impl Aftermath {
    pub(super) async fn record<P: Platform>(self, service: &Service<P>) {
        match self {
            Self::Release(slot, effect) => slot.release(service, effect).await,
            Self::RecordFault(backend, lane) => Slot::record_fault(&backend, &lane, service).await,
        }
    }
}

impl<P: Platform> Leader<'_, P> {
    /// Asks hosts until one answers; what failed attempts leave to be recorded goes to `aftermath`.
    pub(super) async fn attempts(
        &mut self,
        admission: &mut Admission<'_, P>,
        aftermath: UnboundedSender<Aftermath>,
    ) -> Result<(Opened<P::Body>, Box<Slot>), Error> {
        let mut failover = Failover::default();
        let mut failed = Vec::new();
        let mut missing = None;
        while failover.may_go_on() {
            // Take a slot, or wait for one.
            let slot = match self.admit(admission, &failover).await? {
                Admitted::Go(slot) => slot,
                Admitted::Refuse(error) => return Err(error),
                Admitted::None(error) => {
                    missing = error;
                    break;
                }
            };

            // Ask its host.
            let backend = slot.backend.clone();
            let (outcome, slot) = self.attempt(admission, slot).await;
            // An attempt without its slot continues to load a model, although its client left.
            let Some(slot) = slot else { return Err(Error::ClientClosed) };

            // An answer proves the faults of the hosts that failed before; a failure says whether another host is asked.
            let failure = match outcome {
                Ok(opened) => {
                    for (failed, lane) in failed {
                        let _ = aftermath.unbounded_send(Aftermath::RecordFault(failed, lane));
                    }
                    self.note_answer(&opened, &slot, backend);
                    return Ok((opened, slot));
                }
                Err(AttemptFailure::ClientLeft) => {
                    let _ = aftermath.unbounded_send(Aftermath::Release(slot, HostEffect::Neutral));
                    return Err(Error::ClientClosed);
                }
                Err(failure) => failure,
            };
            self.note_failure(&failure, &backend);
            let lane = slot.lease.as_ref().map(|lease| lease.lane.to_string());
            let _ = aftermath.unbounded_send(Aftermath::Release(slot, failure.effect()));
            if failure.is_proved_by_another() {
                failed.extend(lane.map(|lane| (backend, lane)));
            } else if matches!(failure, AttemptFailure::NotFound { .. }) {
                admission.forget_model(&backend);
            } else if matches!(failure, AttemptFailure::NoRoute(_)) {
                admission.note_lack(&backend).await;
            }
            failover.failed(failure);
        }
        Err(failover.effect(missing))
    }

    /// The next slot; an error when all clients left while the request waited for it.
    async fn admit(
        &mut self,
        admission: &mut Admission<'_, P>,
        failover: &Failover,
    ) -> Result<Admitted, Error> {
        let admitted = self.broadcast.during(pin!(admission.next(failover, &mut self.report.upstream))).await;
        if admitted.is_err() {
            admission.leave().await;
        }
        Ok(admitted?)
    }

    /// Asks the host of `slot`, and notes how that ended.
    async fn attempt(
        &mut self,
        admission: &Admission<'_, P>,
        slot: Box<Slot>,
    ) -> (Result<Opened<P::Body>, AttemptFailure>, Option<Box<Slot>>) {
        let Self { service, upstream_request, broadcast, report, .. } = self;
        let attempts = &mut report.upstream.attempts;
        // The attempt counts as cancelled until it has an end, because the client may leave at any time.
        let attempt = Attempt {
            host: slot.backend.url().to_owned(),
            outcome: "cancelled",
            cold: slot.cold && slot.is_taken(),
        };
        attempts.push(attempt);
        let (outcome, slot) = attempt::attempt(service, admission, upstream_request, broadcast, slot).await;
        if let Some(attempt) = attempts.last_mut() {
            attempt.outcome = outcome.as_ref().map_or_else(AttemptFailure::word, |_| "ok");
        }
        (outcome, slot)
    }

    /// Notes which host answered, and how fast.
    fn note_answer(&mut self, opened: &Opened<P::Body>, slot: &Slot, backend: BackendHost) {
        let report = &mut self.report.upstream;
        report.host = Some(backend);
        report.first_token = slot.first_byte().filter(|_| self.upstream_request.streams && slot.is_taken());
        if let Opened::Spoken(heard) = opened {
            report.tokens = heard.tokens();
            report.speed = heard.speed(slot.since_first_byte(self.service));
        }
    }

    /// Writes a failed attempt to the log.
    fn note_failure(&mut self, failure: &AttemptFailure, backend: &BackendHost) {
        self.service.record(&Event::AttemptFailed {
            request_id: &self.request.request_id,
            host: backend.url(),
            outcome: failure.word(),
            detail: &failure.detail(),
        });
        // If every host fails, this host's error body is relayed, so it is the host of `X-Paddock-Host`.
        if failure.is_relayed() {
            self.report.upstream.host = Some(backend.clone());
        }
    }
}
