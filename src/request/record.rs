//! The account of one request: what happened to it, for the log and the counters.
//!
//! It is closed once, by whoever sees the request's end: the entry, or the flight when the client has left. It
//! never holds content.

use std::time::Duration;

use http::{Method, StatusCode};

use super::StoreDeadline;
use crate::{
    api::error::Error,
    cache::CacheStatus,
    config::settings::Deployment,
    fleet::BackendHost,
    host::{Platform, Service},
    metrics::{Attempt, Metrics, Sample},
    platform::{
        Clock, Journal,
        journal::{Event, Level, RequestRecord},
    },
    session::SessionStatus,
    store::{Outage, Store, StoreError, StoreResult, Transition},
    wire::tokens::Tokens,
};

/// Why the store is not asked any more in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum StoreTrouble {
    /// It is asked.
    #[default]
    None,
    /// The request's time for it is spent; what is kept afterwards has its own.
    OutOfTime,
    /// It failed: one failure tells enough, and costs enough.
    AtFault,
}

/// What happened to one request.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) request_id: String,
    pub(crate) method: Method,
    pub(crate) route: &'static str,
    /// Whether it counts as a request for an answer.
    pub(crate) counted: bool,
    pub(crate) started: Duration,
    pub(crate) model: Option<String>,
    pub(crate) cache: Option<CacheStatus>,
    /// How old the answer is that came from the cache.
    pub(crate) age: Option<Duration>,
    pub(crate) tokens: Option<Tokens>,
    /// From asking the host that answered to its first token.
    pub(crate) first_token: Option<Duration>,
    /// How fast the host that answered wrote, in millionths of a token a second.
    pub(crate) speed: Option<u64>,
    pub(crate) attempts: Vec<Attempt>,
    /// The host that answered.
    pub(crate) host: Option<BackendHost>,
    pub(crate) store_errors: Vec<&'static str>,
    /// Why the store is not asked any more.
    pub(crate) store_trouble: StoreTrouble,
    /// How long the request may still wait for the store before upstream is asked.
    pub(crate) budget: StoreDeadline,
    /// What became of the session's turn, as far as it is known when the head goes out.
    pub(crate) session: Option<SessionStatus>,
    /// How many turns of the session did not go ahead of the request.
    pub(crate) left_out: usize,
    /// Whether the caller wants to know why its host was chosen, and may.
    pub(crate) explains: bool,
    /// Why the hosts were chosen, one plan an attempt, if the caller wants to know.
    pub(crate) routes: Vec<String>,
    /// The store's failures that are in the counters with the request, once that was counted.
    pub(crate) tallied: Option<Vec<&'static str>>,
    /// Whether a flight has the account now and closes it, because the reply streams.
    pub(crate) handed_over: bool,
}

impl Account {
    /// Takes what a store operation gave, or does without: the failure is counted, and told once an outage.
    pub(crate) fn degrade<P: Platform, T>(
        &mut self,
        service: &Service<P>,
        operation: &'static str,
        result: StoreResult<T>,
    ) -> Option<T> {
        note_outage(service, operation, &result);
        match result {
            Ok(value) => Some(value),
            Err(StoreError::Absent) => None,
            Err(error) => {
                self.store_errors.push(operation);
                let is_late = error == StoreError::OutOfTime;
                let trouble = if is_late { StoreTrouble::OutOfTime } else { StoreTrouble::AtFault };
                self.store_trouble = self.store_trouble.max(trouble);
                None
            }
        }
    }

    /// Whether the store failed in this request, or its time for it is spent: then it is not asked again, so that an
    /// outage costs its limit once.
    pub(crate) fn store_failed(&self) -> bool {
        self.store_trouble != StoreTrouble::None
    }

    /// Gives the request its time for the store anew: it waited for something else, for which there is no limit here.
    pub(crate) fn renew_budget(&mut self) {
        self.budget.renew();
        if self.store_trouble == StoreTrouble::OutOfTime {
            self.store_trouble = StoreTrouble::None;
        }
    }

    /// Takes over what it took to bring the answer; of the store's failures the first `known` are in both.
    pub(crate) fn absorb(&mut self, brought: Self, known: usize) {
        self.store_trouble = self.store_trouble.max(brought.store_trouble);
        let Self { cache, tokens, first_token, speed, attempts, host, store_errors, routes, .. } = brought;
        self.cache = self.cache.and(cache).or(self.cache);
        self.tokens = tokens;
        self.first_token = first_token;
        self.speed = speed;
        self.attempts = attempts;
        self.host = host.or_else(|| self.host.take());
        self.routes = routes;
        self.store_errors.extend(store_errors.into_iter().skip(known));
    }

    /// Writes the log line and adds to the counters.
    pub(crate) async fn close<P: Platform>(self, service: &Service<P>, end: Result<StatusCode, &Error>) {
        let latency = service.now().saturating_sub(self.started);
        let (status, outcome, level, detail) = match end {
            Ok(status) => (status, "ok", Level::Info, None),
            Err(error) => (error.status(), error.code(), error.level(), error.detail()),
        };
        service.record(&Event::Request(RequestRecord {
            level,
            request_id: &self.request_id,
            method: self.method.as_str(),
            route: self.route,
            status: status.as_u16(),
            outcome,
            duration: latency,
            cache: self.cache.map(CacheStatus::as_str),
            host: self.host.as_ref().map(BackendHost::url),
            attempts: self.attempts.len(),
            detail: detail.as_deref(),
        }));
        match &self.tallied {
            None => self.tally(service, outcome, latency).await,
            Some(tallied) => {
                let late = without(&self.store_errors, tallied);
                if !late.is_empty() {
                    service.metrics().add_store_errors(&late);
                }
            }
        }
    }

    /// Adds a request to the counters whose answer is complete, while what the answer changes is stored: what is counted
    /// is certain then, but for the failures of that, which [`Account::close`] adds.
    pub(crate) async fn tally_answer<P: Platform>(&self, service: &Service<P>) {
        self.tally(service, "ok", service.now().saturating_sub(self.started)).await;
    }

    async fn tally<P: Platform>(&self, service: &Service<P>, outcome: &'static str, latency: Duration) {
        if !self.counted {
            return;
        }
        let sample = Sample {
            route: self.route,
            model: self.model.as_deref(),
            outcome,
            latency,
            cache: self.cache,
            attempts: &self.attempts,
            first_token: self.first_token,
            speed: self.speed,
            tokens: self.tokens,
            store_errors: &self.store_errors,
        };
        let added = service.metrics().add(&sample).await;
        // Counters may live elsewhere than the store: that they work does not say that the store does.
        if added.is_err() {
            note_outage(service, "metrics_add", &added);
        }
    }
}

/// What is in `all` beyond what is in `known`, each as often as it is.
fn without(all: &[&'static str], known: &[&'static str]) -> Vec<&'static str> {
    let mut known = known.to_vec();
    let is_new = |operation: &&&'static str| match known.iter().position(|known| known == *operation) {
        Some(index) => {
            known.swap_remove(index);
            false
        }
        None => true,
    };
    all.iter().filter(is_new).copied().collect()
}

fn cluster_problem(form: Deployment) -> String {
    let way_out = match form {
        Deployment::Native => "set REDIS_CLUSTER=true",
        Deployment::Spin => "Spin cannot use one, name a single server",
    };
    format!("the Redis server is a node of a Redis Cluster: {way_out}; it is done without")
}

/// Tells the operator when the store went away or came back.
pub(crate) fn note_outage<P: Platform, T>(
    service: &Service<P>,
    operation: &'static str,
    result: &StoreResult<T>,
) {
    let outage: &Outage = service.store().outage();
    match result {
        Ok(_) => {
            outage.accepts(operation);
            if outage.note(true) == Some(Transition::Ended) {
                service.record(&Event::StoreUp);
            }
        }
        // None of these says anything new about the store.
        Err(StoreError::OutOfTime | StoreError::Absent | StoreError::Full | StoreError::Spared) => {}
        Err(StoreError::Refused(detail)) => {
            if outage.refuses(operation) {
                service.record(&Event::StoreRefuses { operation, detail });
            }
        }
        Err(StoreError::Cluster) => {
            if outage.note(false) == Some(Transition::Began) {
                service.record(&Event::Misconfigured { problems: &[cluster_problem(P::DEPLOYMENT)] });
            }
        }
        Err(error) => {
            if outage.note(false) == Some(Transition::Began) {
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
        for (all, known, late) in [
            (&["a", "b"][..], &[][..], &["a", "b"][..]),
            (&["a", "b", "a"], &["a"], &["b", "a"]),
            (&["b", "a"], &["a", "b"], &[]),
            (&["a"], &["c"], &["a"]),
        ] {
            assert_eq!(without(all, known), late, "{all:?} {known:?}");
        }
    }
}
