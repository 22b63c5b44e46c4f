//! The values of one request, each with a life of its own: what is known when it arrives, what it took to bring its
//! answer, and what its reply, the log and the counters tell.
//!
//! None of them holds content, a credential or a session id.

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum TallyState {
    #[default]
    Pending,
    /// It is; only failures of the store may still be added.
    Counted,
}

/// What is known of a request when it arrives, which never changes, and its way to the store.
#[derive(Debug)]
pub(crate) struct RequestInfo {
    pub(crate) request_id: String,
    pub(crate) method: Method,
    pub(crate) route: &'static str,
    /// Whether it counts as a request for an answer.
    pub(crate) is_counted: bool,
    pub(crate) started: Duration,
    /// Whether the caller wants to know why its host was chosen, and may.
    pub(crate) explains: bool,
    pub(crate) store: StoreAccess,
}

/// What it took to bring an answer, as its leader learnt it.
#[derive(Debug, Clone, Default)]
pub(crate) struct UpstreamReport {
    pub(crate) attempts: Vec<Attempt>,
    /// The host that answered.
    pub(crate) host: Option<BackendHost>,
    /// Why the hosts were chosen, one plan an attempt, if the caller wants to know.
    pub(crate) routes: Vec<String>,
    pub(crate) tokens: Option<Tokens>,
    /// From asking the host that answered to its first token.
    pub(crate) first_token: Option<Duration>,
    /// How fast the host that answered wrote, in millionths of a token a second.
    pub(crate) speed: Option<u64>,
}

/// What the headers of a reply, the log line and the counters tell of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplyNotes {
    pub(crate) model: Option<String>,
    pub(crate) cache: Option<CacheStatus>,
    /// How old the answer is that came from the cache.
    pub(crate) age: Option<Duration>,
    /// What became of the session's turn, as far as it is known when the head goes out.
    pub(crate) session: Option<SessionStatus>,
    /// How many turns of the session did not go ahead of the request.
    pub(crate) left_out: usize,
    pub(crate) upstream: UpstreamReport,
    pub(crate) tally: TallyState,
}

impl ReplyNotes {
    /// Takes over what the leader did with the cache, and what it learnt of the hosts.
    pub(crate) fn take_report(&mut self, cache: Option<CacheStatus>, mut report: UpstreamReport) {
        self.cache = self.cache.and(cache).or(self.cache);
        report.host = report.host.or_else(|| self.upstream.host.take());
        self.upstream = report;
    }
}

impl RequestInfo {
    /// Writes the log line and adds to the counters. It is called once, by whoever sees the request's end.
    pub(crate) async fn close<P: Platform>(
        &self,
        service: &Service<P>,
        notes: &ReplyNotes,
        end: Result<StatusCode, &Error>,
    ) {
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
            cache: notes.cache.map(CacheStatus::as_str),
            host: notes.upstream.host.as_ref().map(BackendHost::url),
            attempts: notes.upstream.attempts.len(),
            detail: detail.as_deref(),
        }));
        if notes.tally == TallyState::Pending {
            return self.tally(service, notes, outcome, latency).await;
        }
        let late = self.store.take_uncounted();
        if !late.is_empty() {
            service.metrics().add_store_errors(&late);
        }
    }

    /// Adds a request to the counters whose answer is complete, while what the answer changes is stored: what is counted
    /// is certain then, but for the failures of that, which [`RequestInfo::close`] adds.
    pub(crate) async fn tally_answer<P: Platform>(&self, service: &Service<P>, notes: &ReplyNotes) {
        self.tally(service, notes, "ok", service.now().saturating_sub(self.started)).await;
    }

    async fn tally<P: Platform>(
        &self,
        service: &Service<P>,
        notes: &ReplyNotes,
        outcome: &'static str,
        latency: Duration,
    ) {
        let store_errors = self.store.take_uncounted();
        if !self.is_counted {
            return;
        }
        let UpstreamReport { attempts, first_token, speed, tokens, .. } = &notes.upstream;
        let sample = Sample {
            route: self.route,
            model: notes.model.as_deref(),
            outcome,
            latency,
            cache: notes.cache,
            attempts,
            first_token: *first_token,
            speed: *speed,
            tokens: *tokens,
            store_errors: &store_errors,
        };
        let added = service.metrics().add(&sample).await;
        // Counters may live elsewhere than the store: that they work does not say that the store does.
        if added.is_err() {
            note_outage(service, StoreOperation::AddMetrics, &added);
        }
    }
}
