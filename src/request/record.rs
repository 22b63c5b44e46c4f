//! The account of one request: what happened to it, for the log and the counters.
//!
//! It is closed once, by whoever sees the request's end: the entry, or the flight when the client has left. It
//! never holds content.

use std::time::Duration;

use http::{Method, StatusCode};

use super::{
    StoreAccess,
    store_failure::{StoreOperation, note_outage},
};
use crate::{
    api::error::Error,
    cache::CacheStatus,
    fleet::BackendHost,
    host::{Platform, Service},
    metrics::{Attempt, Metrics, Sample},
    platform::{
        Clock, Journal,
        journal::{Event, Level, RequestRecord},
    },
    session::SessionStatus,
    wire::tokens::Tokens,
};

/// Whether a request is in the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TallyState {
    Pending,
    /// It is; only failures of the store may still be added.
    Counted,
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
    /// What the store may still cost the request, and whether it failed.
    pub(crate) store: StoreAccess,
    /// What became of the session's turn, as far as it is known when the head goes out.
    pub(crate) session: Option<SessionStatus>,
    /// How many turns of the session did not go ahead of the request.
    pub(crate) left_out: usize,
    /// Whether the caller wants to know why its host was chosen, and may.
    pub(crate) explains: bool,
    /// Why the hosts were chosen, one plan an attempt, if the caller wants to know.
    pub(crate) routes: Vec<String>,
    pub(crate) tally: TallyState,
    /// Whether a flight has the account now and closes it, because the reply streams.
    pub(crate) handed_over: bool,
}

impl Account {
    /// Takes over what it took to bring the answer.
    pub(crate) fn absorb(&mut self, brought: Self) {
        let Self { cache, tokens, first_token, speed, attempts, host, routes, .. } = brought;
        self.cache = self.cache.and(cache).or(self.cache);
        self.tokens = tokens;
        self.first_token = first_token;
        self.speed = speed;
        self.attempts = attempts;
        self.host = host.or_else(|| self.host.take());
        self.routes = routes;
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
        if self.tally == TallyState::Pending {
            return self.tally(service, outcome, latency).await;
        }
        let late = self.store.take_uncounted();
        if !late.is_empty() {
            service.metrics().add_store_errors(&late);
        }
    }

    /// Adds a request to the counters whose answer is complete, while what the answer changes is stored: what is counted
    /// is certain then, but for the failures of that, which [`Account::close`] adds.
    pub(crate) async fn tally_answer<P: Platform>(&self, service: &Service<P>) {
        self.tally(service, "ok", service.now().saturating_sub(self.started)).await;
    }

    async fn tally<P: Platform>(&self, service: &Service<P>, outcome: &'static str, latency: Duration) {
        let store_errors = self.store.take_uncounted();
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
            store_errors: &store_errors,
        };
        let added = service.metrics().add(&sample).await;
        // Counters may live elsewhere than the store: that they work does not say that the store does.
        if added.is_err() {
            note_outage(service, StoreOperation::AddMetrics, &added);
        }
    }
}
