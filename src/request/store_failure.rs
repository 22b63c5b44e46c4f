//! What a failed store operation causes: the failure is counted under the operation's name, logged once an outage, and
//! remembered by its request.
//!
//! Nothing here calls the store.

use crate::{
    config::settings::Deployment,
    host::{Platform, Service},
    platform::{Journal, journal::Event},
    store::{Outage, Store, StoreError, StoreResult, Transition},
};

/// A store operation whose failure is counted or logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreOperation {
    LoadSession,
    CreateSession,
    DeleteSession,
    AppendTurn,
    ReadEpochs,
    FindAnswer,
    PutAnswer,
    PurgeAnswers,
    LeadFlight,
    TakeSnapshot,
    NextSequence,
    ClaimSlot,
    EnterQueue,
    Ping,
    AddMetrics,
}

impl StoreOperation {
    /// The operation's name in the log and in `paddock_store_errors_total`. Dashboards depend on these names.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::LoadSession => "session_load",
            Self::CreateSession => "session_create",
            Self::DeleteSession => "session_delete",
            Self::AppendTurn => "session_append",
            Self::ReadEpochs => "cache_epochs",
            Self::FindAnswer => "cache_get",
            Self::PutAnswer => "cache_put",
            Self::PurgeAnswers => "cache_purge",
            Self::LeadFlight => "cache_lead",
            Self::TakeSnapshot => "fleet_ledger",
            Self::NextSequence => "next_turn",
            Self::ClaimSlot => "fleet_claim",
            Self::EnterQueue => "fleet_queue",
            Self::Ping => "ping",
            Self::AddMetrics => "metrics_add",
        }
    }
}

/// Why a request no longer asks the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum StoreTrouble {
    /// The request still asks the store.
    #[default]
    None,
    /// The request has used up its time for the store. What it stores after its answer has a time limit of its own.
    OutOfTime,
    /// An operation failed. Asking again would cost the client another time limit and learn nothing.
    AtFault,
}

/// The failures of the store in one request.
#[derive(Debug, Default)]
pub(super) struct StoreFailures {
    trouble: StoreTrouble,
    /// The failures that are in no counter yet.
    uncounted: Vec<&'static str>,
}

impl StoreFailures {
    /// No failures yet, but the same trouble as another request's.
    pub(super) fn of_trouble(trouble: StoreTrouble) -> Self {
        Self { trouble, uncounted: Vec::new() }
    }

    pub(super) fn trouble(&self) -> StoreTrouble {
        self.trouble
    }

    /// Remembers a failure. A store that is not configured is no failure.
    pub(super) fn record(&mut self, operation: StoreOperation, error: &StoreError) {
        if *error == StoreError::Absent {
            return;
        }
        self.uncounted.push(operation.name());
        let is_late = *error == StoreError::OutOfTime;
        let trouble = if is_late { StoreTrouble::OutOfTime } else { StoreTrouble::AtFault };
        self.trouble = self.trouble.max(trouble);
    }

    /// Lets a request ask again that had used up its time.
    pub(super) fn renew(&mut self) {
        if self.trouble == StoreTrouble::OutOfTime {
            self.trouble = StoreTrouble::None;
        }
    }

    /// The failures that are in no counter yet, which the caller counts.
    pub(super) fn take_uncounted(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.uncounted)
    }
}

fn cluster_problem(form: Deployment) -> String {
    let way_out = match form {
        Deployment::Native => "set REDIS_CLUSTER=true",
        Deployment::Spin => "Spin cannot use one, name a single server",
    };
    format!("the Redis server is a node of a Redis Cluster: {way_out}; it is done without")
}

/// Logs when the store goes down, comes back, or begins to refuse an operation.
pub(super) fn log_outage<P: Platform, T>(
    service: &Service<P>,
    operation: StoreOperation,
    result: &StoreResult<T>,
) {
    let outage: &Outage = service.store().outage();
    let operation = operation.name();
    match result {
        Ok(_) => {
            outage.accepts(operation);
            if outage.record(true) == Some(Transition::Ended) {
                service.record(&Event::StoreUp);
            }
        }
        // These results say nothing about whether the store works.
        Err(StoreError::OutOfTime | StoreError::Absent | StoreError::Full | StoreError::Spared) => {}
        Err(StoreError::Refused(detail)) => {
            if outage.refuses(operation) {
                service.record(&Event::StoreRefuses { operation, detail });
            }
        }
        Err(StoreError::Cluster) => {
            if outage.record(false) == Some(Transition::Began) {
                service.record(&Event::Misconfigured { problems: &[cluster_problem(P::DEPLOYMENT)] });
            }
        }
        Err(error) => {
            if outage.record(false) == Some(Transition::Began) {
                let detail = error.to_string();
                service.record(&Event::StoreDown { operation, detail: &detail });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_was_counted_with_its_request_is_not_counted_again() {
        use StoreOperation::{AppendTurn, PutAnswer};
        let mut failures = StoreFailures::default();
        let down = StoreError::Unavailable(String::new());
        let fail = |failures: &mut StoreFailures, operations: &[StoreOperation]| {
            for operation in operations {
                failures.record(*operation, &down);
            }
            failures.take_uncounted()
        };
        for (operations, counted) in [
            (&[PutAnswer, AppendTurn][..], &["cache_put", "session_append"][..]),
            (&[AppendTurn, PutAnswer], &["session_append", "cache_put"]),
            (&[], &[]),
            (&[PutAnswer], &["cache_put"]),
        ] {
            assert_eq!(fail(&mut failures, operations), counted);
        }
    }

    #[test]
    fn time_that_is_spent_can_be_renewed_and_a_fault_stays() {
        let mut failures = StoreFailures::default();
        for (error, trouble, renewed, counted) in [
            (StoreError::Absent, StoreTrouble::None, StoreTrouble::None, 0),
            (StoreError::OutOfTime, StoreTrouble::OutOfTime, StoreTrouble::None, 1),
            (StoreError::TimedOut, StoreTrouble::AtFault, StoreTrouble::AtFault, 1),
            (StoreError::OutOfTime, StoreTrouble::AtFault, StoreTrouble::AtFault, 1),
        ] {
            failures.record(StoreOperation::FindAnswer, &error);
            assert_eq!(failures.trouble(), trouble, "{error}");
            failures.renew();
            assert_eq!((failures.trouble(), failures.take_uncounted().len()), (renewed, counted), "{error}");
        }
    }
}
