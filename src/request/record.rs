//! The values of one request, each with its own lifetime: [`RequestInfo`] is fixed when the request arrives,
//! [`UpstreamReport`] is what the leader of its flight returns, [`ReplyNotes`] is what headers, log and counters show.
//!
//! None of them may hold content, a credential or a session id.

use std::{borrow::Cow, time::Duration};

use http::{HeaderValue, Method, StatusCode};

use super::{
    StoreAccess,
    store_failure::{StoreOperation, log_outage},
};
use crate::{
    api::error::Error,
    cache::CacheStatus,
    fleet::{BackendHost, ModelName},
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
pub(crate) enum CountState {
    #[default]
    Pending,
    /// The request is counted. Only later failures of the store may still be added.
    Counted,
}

/// What is known of a request when it arrives, and its access to the store. It never changes.
#[derive(Debug)]
pub(crate) struct RequestInfo {
    pub(crate) request_id: String,
    pub(crate) method: Method,
    pub(crate) route: &'static str,
    /// Whether the counters of requests include it.
    pub(crate) is_counted: bool,
    pub(crate) started: Duration,
    /// Whether the reply explains the routing decision to this caller.
    pub(crate) explains: bool,
    /// The chain of what hosts are asked for this request, where it came from another service.
    pub(crate) hops: Option<HeaderValue>,
    pub(crate) store: StoreAccess,
}

/// What the leader of a flight learnt while it brought the answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct UpstreamReport {
    pub(crate) attempts: Vec<Attempt>,
    /// The host that answered.
    pub(crate) host: Option<BackendHost>,
    /// The explanations of the routing decisions, one an attempt; empty unless the caller asked for them.
    pub(crate) routes: Vec<String>,
    pub(crate) tokens: Option<Tokens>,
    /// The time to first token of the host that answered.
    pub(crate) first_token: Option<Duration>,
    /// The speed of the host that answered, in millionths of a token a second.
    pub(crate) speed: Option<u64>,
}

/// What the reply's headers, the log line and the counters show of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplyNotes {
    pub(crate) model: Option<String>,
    pub(crate) cache: Option<CacheStatus>,
    /// The age of an answer from the cache.
    pub(crate) age: Option<Duration>,
    /// What became of the session's turn, as far as that is known when the head is sent.
    pub(crate) session: Option<SessionStatus>,
    /// Which turn of its session the request adds, counted over the session's life from 1; `None` where it adds none.
    pub(crate) turn: Option<usize>,
    /// The number of the session's turns that did not fit into the prompt.
    pub(crate) left_out: usize,
    pub(crate) upstream: UpstreamReport,
    pub(crate) count: CountState,
}

impl ReplyNotes {
    /// Takes the leader's report, and what the leader did with the cache. A host that was known before stays if the
    /// report names none.
    pub(crate) fn take_report(&mut self, cache: Option<CacheStatus>, mut report: UpstreamReport) {
        self.cache = self.cache.and(cache).or(self.cache);
        report.host = report.host.or_else(|| self.upstream.host.take());
        self.upstream = report;
    }
}

impl RequestInfo {
    /// The chain of marks of what hosts are asked for this request.
    pub(crate) fn hops<P: Platform>(&self, service: &Service<P>) -> HeaderValue {
        self.hops.clone().unwrap_or_else(|| service.hop_mark().own())
    }

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
        if notes.count == CountState::Pending {
            return self.count(service, notes, outcome, latency).await;
        }
        let late = self.store.take_uncounted();
        if !late.is_empty() {
            service.metrics().add_store_errors(&late);
        }
    }

    /// Counts a request whose answer is complete, at the same time as its turn and its answer are stored: this saves a
    /// round trip. Failures of the store during that time are added by [`RequestInfo::close`].
    pub(crate) async fn count_answer<P: Platform>(&self, service: &Service<P>, notes: &ReplyNotes) {
        self.count(service, notes, "ok", service.now().saturating_sub(self.started)).await;
    }

    async fn count<P: Platform>(
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
        // Every spelling of a name is one label.
        let model = notes.model.as_deref().map(|name| {
            ModelName::parse(name).map_or(Cow::Borrowed(name), |name| Cow::Owned(name.as_str().to_owned()))
        });
        let sample = Sample {
            route: self.route,
            model: model.as_deref(),
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
        // Only a failure is an observation of the store: counters that are kept elsewhere work while the store is down.
        if added.is_err() {
            log_outage(service, StoreOperation::AddMetrics, &added);
        }
    }
}
