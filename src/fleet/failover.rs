//! What follows from a failed attempt: another host is tried, or the caller gets an error.
//!
//! It is also the table of which failures are the host's own ([`AttemptFailure::effect`]); `breaker.rs` acts on that.
//! These rules apply before the first byte of the answer: after it no other host is tried.
//!
//! No crate serves: `backon` repeats a call after a pause, while here each failure decides whether another host is
//! tried at all, and without a pause.

mod words;

use std::time::Duration;

use http::StatusCode;

use super::{Cause, HostEffect};
use crate::{
    api::{
        error::{Error, Original, Said},
        reply::ClientLeft,
    },
    platform::{Phase, UpstreamFailure},
};
pub(crate) use words::{AskedHost, foreign, is_no_route, media_type, no_route};
use words::{shorten, told, words};

/// How one attempt at one host failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttemptFailure {
    /// No connection.
    Unreachable(String),
    /// A proxy before the host answered 502, without words.
    BadGateway,
    /// The host answered 502 or 504 with words, as it does for the provider of a cloud model.
    Gateway {
        /// Its message.
        message: String,
        /// Its reply.
        original: Box<Original>,
    },
    /// A time limit passed, or a proxy before the host answered 504.
    TimedOut(Phase),
    /// The host sent no first byte of a loaded model for much longer than usual, and completed no request meanwhile.
    Hung,
    /// The host did not soon answer what asks no model, and another could be asked: the host is not blamed.
    Quiet,
    /// The host answered 429 or 503.
    Busy {
        /// What the host said, if it said anything.
        said: Option<Box<Said>>,
        /// The host's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The host answered 500, or reported a failure inside a stream: it could not run the model.
    Failed {
        /// Ollama's message.
        message: String,
        /// Ollama's reply; `None` for a failure inside a stream.
        original: Option<Box<Original>>,
    },
    /// The host answered 404: it does not have the model.
    NotFound {
        /// Ollama's message.
        message: String,
        /// Ollama's reply.
        original: Option<Box<Original>>,
    },
    /// The host, an older Ollama, answered that it does not have the path. The sentence says which host needs an upgrade.
    NoRoute(String),
    /// The host answered 501 or another 4xx: the request is at fault, so every host would answer the same.
    Rejected {
        /// Ollama's status.
        status: StatusCode,
        /// Ollama's message.
        message: String,
        /// Ollama's reply.
        original: Option<Box<Original>>,
    },
    /// The host answered 401, 402, 403, 407, 408, 413 or 421, or 404 with a page: what stands before it or its own account
    /// let the request not pass, and another host may.
    Denied {
        /// The status.
        status: StatusCode,
        /// What it said, or what its reply was.
        message: String,
        /// Its reply.
        original: Box<Original>,
    },
    /// The host answered with success, and neither with JSON nor with the stream that was asked for: it is not Ollama.
    Foreign(String),
    /// The answer ended early or was malformed.
    Protocol(String),
    /// The answer ended as HTTP wants it, but without its terminator: the model's runner ended, and the host works.
    Unfinished,
    /// The host answered 508: the request goes round.
    Looped,
    /// The answer is longer than this many bytes, a limit of our own: every host would give the same.
    TooLong(usize),
    /// The client left, which says nothing about the host.
    ClientLeft,
}

/// The detail of an answer with an event that is no JSON object.
pub(crate) const NO_EVENT: &str = "an event of the answer is none";
/// The detail of an answer that ends without its terminator.
const UNFINISHED: &str = "the answer ended without its terminator";

/// The failure of an answer that was cut off or was malformed; `detail` says how.
pub(crate) fn broken(detail: &str) -> AttemptFailure {
    AttemptFailure::Protocol(detail.to_owned())
}

impl AttemptFailure {
    /// The failure that a reply without a success status means.
    pub(crate) fn of_refusal(
        asked: AskedHost<'_>,
        original: Original,
        retry_after: Option<Duration>,
    ) -> Self {
        let (host, status) = (asked.name, original.status);
        let words = |original: &Original| words(host, original);
        match status.as_u16() {
            502 | 504 if told(&original).is_some() => {
                let message = words(&original);
                Self::Gateway { message, original: Box::new(original) }
            }
            404 if original.body.trim_ascii_start().starts_with(b"{") => {
                Self::NotFound { message: words(&original), original: Some(Box::new(original)) }
            }
            404 if is_no_route(&original.body) => {
                Self::NoRoute(no_route(&[(host, asked.version)], asked.path))
            }
            401 | 402 | 403 | 404 | 407 | 408 | 413 | 421 => {
                let said = told(&original).map(|words| format!("host {host} refused the request: {words}"));
                let message = said.unwrap_or_else(|| words(&original));
                Self::Denied { status, message, original: Box::new(original) }
            }
            429 | 503 => {
                let said = told(&original).map(|message| Box::new(Said { status, message }));
                Self::Busy { said, retry_after }
            }
            500 => Self::Failed { message: words(&original), original: Some(Box::new(original)) },
            502 => Self::BadGateway,
            508 => Self::Looped,
            504 => Self::TimedOut(Phase::FirstByte),
            400..=499 | 501 => {
                Self::Rejected { status, message: words(&original), original: Some(Box::new(original)) }
            }
            300..=399 => Self::Foreign(foreign(host, status, original.content_type.as_ref())),
            _ => Self::Protocol(format!("the host answered {}", status.as_u16())),
        }
    }

    /// The failure that a host reported inside a stream.
    pub(crate) fn told(words: &str) -> Self {
        Self::Failed { message: shorten(words), original: None }
    }

    /// The caller's error when no other host is tried.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Rejected { status, message, original } => {
                Error::UpstreamRejected { status, message, original }
            }
            Self::Failed { message, original } => Error::UpstreamFailed { message, original },
            Self::Busy { said, retry_after } => Error::UpstreamBusy { said, retry_after },
            Self::Gateway { message, original } => {
                Error::UpstreamFailed { message, original: Some(original) }
            }
            Self::TimedOut(phase) => Error::UpstreamTimeout { phase },
            Self::Hung | Self::Quiet => Error::UpstreamTimeout { phase: Phase::FirstByte },
            Self::Protocol(detail) => Error::UpstreamProtocol { detail },
            Self::TooLong(limit) => Error::AnswerTooLong { limit },
            Self::Looped => Error::LoopDetected { detail: LOOPED.to_owned() },
            Self::Unfinished => Error::UpstreamProtocol { detail: UNFINISHED.to_owned() },
            Self::Unreachable(detail) => Error::UpstreamUnreachable { detail },
            Self::BadGateway => Error::UpstreamUnreachable { detail: BAD_GATEWAY.to_owned() },
            Self::NotFound { message, original } => {
                Error::UpstreamRejected { status: StatusCode::NOT_FOUND, message, original }
            }
            Self::Denied { status, message, original } => {
                Error::UpstreamDenied { status, message, original: Some(original) }
            }
            Self::Foreign(words) => Error::NotOllama { words },
            Self::NoRoute(words) => Error::RouteMissing { words },
            Self::ClientLeft => Error::ClientClosed,
        }
    }

    /// The effect on the host's stats. A 500 has none until another host has answered the same request, and so has a denial.
    pub(crate) fn effect(&self) -> HostEffect {
        match self {
            Self::Unreachable(_) | Self::TimedOut(Phase::Connect) => {
                HostEffect::Faulty(Cause::Unreachable, None)
            }
            Self::TimedOut(_) => HostEffect::Faulty(Cause::TimedOut, None),
            Self::Hung => HostEffect::Faulty(Cause::Hung, None),
            Self::Busy { retry_after, .. } => HostEffect::Faulty(Cause::Busy, *retry_after),
            Self::Gateway { original, .. } if original.status == StatusCode::GATEWAY_TIMEOUT => {
                HostEffect::Faulty(Cause::TimedOut, None)
            }
            // A connection to the proxy must not close the breaker, as it does for `Cause::Unreachable`.
            Self::Protocol(_) | Self::Foreign(_) | Self::BadGateway | Self::Gateway { .. } => {
                HostEffect::Faulty(Cause::Protocol, None)
            }
            Self::NotFound { .. } | Self::NoRoute(_) | Self::Rejected { .. } => HostEffect::Refused,
            Self::Failed { .. }
            | Self::Denied { .. }
            | Self::Unfinished
            | Self::TooLong(_)
            | Self::Looped
            | Self::Quiet
            | Self::ClientLeft => HostEffect::Neutral,
        }
    }

    /// Whether the host had accepted the request. Then the next attempt repeats work, and counts against the retry
    /// budget.
    pub(crate) fn was_accepted(&self) -> bool {
        !matches!(
            self,
            Self::Unreachable(_)
                | Self::TimedOut(Phase::Connect)
                | Self::NotFound { .. }
                | Self::NoRoute(_)
                | Self::Denied { .. }
                | Self::Foreign(_)
        )
    }

    /// Whether it is the host's own fault once another host has answered the same request. What one host denies for the sake
    /// of the request's body is not: that it is too long, forbidden or slow.
    pub(crate) fn is_proved_by_another(&self) -> bool {
        let is_of_the_body = matches!(
            self,
            Self::Denied {
                status: StatusCode::PAYLOAD_TOO_LARGE | StatusCode::FORBIDDEN | StatusCode::REQUEST_TIMEOUT,
                ..
            }
        );
        matches!(self, Self::Failed { .. } | Self::Denied { .. }) && !is_of_the_body
    }

    /// Whether the client is given the host's own reply, or its words, if no other host is tried.
    pub(crate) fn is_relayed(&self) -> bool {
        matches!(
            self,
            Self::Rejected { .. } | Self::Failed { .. } | Self::NotFound { .. } | Self::Denied { .. }
        )
    }

    /// The failure as a stable word, for metrics and logs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::TimedOut(_) | Self::Quiet => "timeout",
            Self::Hung => "hung",
            Self::Busy { .. } => "busy",
            Self::Gateway { original, .. } if original.status == StatusCode::GATEWAY_TIMEOUT => "timeout",
            Self::Unreachable(_) | Self::BadGateway | Self::Gateway { .. } => "unreachable",
            Self::Failed { .. } => "failed",
            Self::NotFound { .. } => "not_found",
            Self::Rejected { .. } => "rejected",
            Self::NoRoute(_) => "no_route",
            Self::Denied { .. } => "denied",
            Self::Foreign(_) => "not_ollama",
            Self::Protocol(_) | Self::Unfinished => "protocol",
            Self::TooLong(_) => "too_long",
            Self::Looped => "looped",
            Self::ClientLeft => "cancelled",
        }
    }

    /// Details for the log. They never contain Ollama's message, which may quote the request.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Unreachable(detail) | Self::Protocol(detail) | Self::Foreign(detail) => detail.clone(),
            Self::BadGateway => BAD_GATEWAY.to_owned(),
            Self::Looped => LOOPED.to_owned(),
            Self::Unfinished => UNFINISHED.to_owned(),
            Self::TooLong(limit) => format!("more than {limit} bytes"),
            Self::TimedOut(phase) => phase.to_string(),
            Self::Rejected { status, .. } | Self::Denied { status, .. } => status.as_str().to_owned(),
            Self::Gateway { original, .. } => original.status.as_str().to_owned(),
            Self::Busy { .. }
            | Self::Hung
            | Self::Quiet
            | Self::Failed { .. }
            | Self::NotFound { .. }
            | Self::ClientLeft => String::new(),
            Self::NoRoute(words) => words.clone(),
        }
    }
}

/// The error when there is no host to try.
pub(crate) fn no_host() -> Error {
    Error::UpstreamUnreachable { detail: "no host".to_owned() }
}

/// The detail when a host says that the request goes round.
const LOOPED: &str = "the host answered 508";
/// The detail when a proxy answers 502 in place of the host.
const BAD_GATEWAY: &str = "the host answered 502";
impl From<ClientLeft> for AttemptFailure {
    fn from(ClientLeft: ClientLeft) -> Self {
        Self::ClientLeft
    }
}

impl From<UpstreamFailure> for AttemptFailure {
    fn from(failure: UpstreamFailure) -> Self {
        match failure {
            UpstreamFailure::Unreachable(detail) => Self::Unreachable(detail),
            UpstreamFailure::TimedOut(phase) => Self::TimedOut(phase),
            UpstreamFailure::Protocol(detail) => Self::Protocol(detail),
            UpstreamFailure::Gateway(_) => Self::BadGateway,
            UpstreamFailure::Looped => Self::Looped,
        }
    }
}

/// The failed attempts of one request.
#[derive(Debug, Default)]
pub(crate) struct Failover {
    failures: Vec<AttemptFailure>,
}

impl Failover {
    /// Whether another host may be tried; if not, the caller gets the error.
    pub(crate) fn may_go_on(&self) -> bool {
        match self.failures.last() {
            Some(
                AttemptFailure::Rejected { .. } | AttemptFailure::TooLong(_) | AttemptFailure::ClientLeft,
            ) => false,
            // A request that makes Ollama fail must not do so on every host.
            Some(AttemptFailure::Failed { .. }) => {
                self.count(|failure| matches!(failure, AttemptFailure::Failed { .. })) < 2
            }
            // Another host may let pass what one does not, and no more than two are asked.
            Some(AttemptFailure::Denied { .. }) => {
                self.count(|failure| matches!(failure, AttemptFailure::Denied { .. })) < 2
            }
            Some(
                AttemptFailure::Unreachable(_)
                | AttemptFailure::BadGateway
                | AttemptFailure::Gateway { .. }
                | AttemptFailure::TimedOut(_)
                | AttemptFailure::Hung
                | AttemptFailure::Quiet
                | AttemptFailure::Busy { .. }
                | AttemptFailure::NotFound { .. }
                | AttemptFailure::NoRoute(_)
                | AttemptFailure::Foreign(_)
                | AttemptFailure::Protocol(_)
                | AttemptFailure::Unfinished
                | AttemptFailure::Looped,
            )
            | None => true,
        }
    }

    /// Whether the next attempt repeats work that a host had accepted.
    pub(crate) fn is_retry(&self) -> bool {
        self.failures.last().is_some_and(AttemptFailure::was_accepted)
    }

    /// Whether no attempt has failed yet.
    pub(crate) fn is_untried(&self) -> bool {
        self.failures.is_empty()
    }

    /// Records the failure of the last attempt.
    pub(crate) fn failed(&mut self, failure: AttemptFailure) {
        self.failures.push(failure);
    }

    /// The caller's error, made from the most significant failure: first what the caller can correct, then what may
    /// succeed later. `missing` is the error for a model that no host has; where nothing is known of the model, a host that
    /// does not have it says it best.
    pub(crate) fn effect(self, missing: Option<Error>) -> Error {
        let is_absent = |failure: &AttemptFailure| matches!(failure, AttemptFailure::NotFound { .. });
        // A host that had the model says more than that the others do not have it.
        let tells_more = |failure: &AttemptFailure| {
            matches!(
                failure,
                AttemptFailure::Rejected { .. }
                    | AttemptFailure::Failed { .. }
                    | AttemptFailure::Denied { .. }
                    | AttemptFailure::NoRoute(_)
            )
        };
        let absent = self.failures.iter().find(|failure| is_absent(failure)).cloned();
        let worst = self.failures.into_iter().max_by_key(weight);
        match (worst, absent, missing) {
            // The error names all hosts without the path. That the model is missing would be wrong: they have it.
            (Some(AttemptFailure::NoRoute(_)), _, Some(missing @ Error::RouteMissing { .. })) => missing,
            (Some(worst), _, _) if tells_more(&worst) => worst.into_error(),
            (None, _, Some(missing)) | (Some(_), Some(_), Some(missing)) => missing,
            (Some(_), Some(absent), None) => absent.into_error(),
            (Some(worst), None, _) => worst.into_error(),
            (None, _, None) => no_host(),
        }
    }

    fn count(&self, is_such: impl Fn(&AttemptFailure) -> bool) -> usize {
        self.failures.iter().filter(|failure| is_such(failure)).count()
    }
}

fn weight(failure: &AttemptFailure) -> u8 {
    match failure {
        AttemptFailure::ClientLeft => 11,
        AttemptFailure::TooLong(_) => 10,
        AttemptFailure::Rejected { .. } => 9,
        AttemptFailure::Failed { .. } => 8,
        AttemptFailure::Busy { .. } => 7,
        AttemptFailure::TimedOut(_)
        | AttemptFailure::Hung
        | AttemptFailure::Quiet
        | AttemptFailure::Gateway { .. } => 6,
        AttemptFailure::Denied { .. } => 5,
        AttemptFailure::Looped => 4,
        AttemptFailure::Protocol(_) | AttemptFailure::Foreign(_) | AttemptFailure::Unfinished => 3,
        AttemptFailure::Unreachable(_) | AttemptFailure::BadGateway => 2,
        AttemptFailure::NoRoute(_) => 1,
        AttemptFailure::NotFound { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;

    use super::*;

    fn host<'a>(name: &'a str, version: &'a str) -> AskedHost<'a> {
        AskedHost { name, version, path: "/api/embed" }
    }

    /// Plays the statuses against as many hosts (below 100 are failures without a status), and returns the number of attempts
    /// and the caller's error.
    fn play(statuses: &[u16], missing: Option<Error>) -> (usize, Error) {
        let mut failover = Failover::default();
        let mut asked = 0;
        while asked < statuses.len() && failover.may_go_on() {
            let failure = match statuses[asked] {
                0 => AttemptFailure::Unreachable("refused".into()),
                1 => AttemptFailure::Protocol("cut".into()),
                2 => AttemptFailure::Unfinished,
                3 => AttemptFailure::TooLong(9),
                status => {
                    let status = StatusCode::from_u16(status).unwrap();
                    let body = Bytes::from_static(b"{\"error\":\"words\"}");
                    let original = Original { status, content_type: None, body };
                    AttemptFailure::of_refusal(host("1", ""), original, None)
                }
            };
            failover.failed(failure);
            asked += 1;
        }
        (asked, failover.effect(missing))
    }

    #[test]
    fn a_reply_without_words_of_ollamas_is_named_for_what_it_was() {
        let page = "<html>log in</html>";
        for (status, content_type, body, words) in [
            (401, "text/html; charset=utf-8", page, "host 2 answered 401 text/html: not Ollama"),
            (403, "", page, "host 2 answered 403 without a content type: not Ollama"),
            (404, "text/html", page, "host 2 answered 404 text/html: not Ollama"),
            (302, "text/html", page, "host 2 answered 302 text/html: not Ollama"),
            (
                400,
                "text/plain",
                "bad",
                "Ollama refused the request: host 2 answered 400 text/plain: not Ollama",
            ),
            (402, "application/json", r#"{"error":"pay first"}"#, "host 2 refused the request: pay first"),
        ] {
            let content_type = Some(HeaderValue::from_static(content_type)).filter(|kind| !kind.is_empty());
            let status = StatusCode::from_u16(status).unwrap();
            let original = Original { status, content_type, body: Bytes::from_static(body.as_bytes()) };
            let error = AttemptFailure::of_refusal(host("2", ""), original, None).into_error();
            assert!(error.to_string().starts_with(words), "{error}");
        }
    }

    #[test]
    fn a_host_without_the_path_is_named_with_its_version_and_lacks_no_model() {
        let no_route = |version| {
            let body = Bytes::from_static(b"404 page not found\n");
            let content_type = Some(HeaderValue::from_static("text/plain"));
            let original = Original { status: StatusCode::NOT_FOUND, content_type, body };
            AttemptFailure::of_refusal(host("1", version), original, None)
        };
        for (version, words) in [
            ("0.1.20", "host 1 (Ollama 0.1.20) does not have /api/embed: upgrade it"),
            ("", "host 1 does not have /api/embed: upgrade it"),
        ] {
            assert_eq!(no_route(version), AttemptFailure::NoRoute(words.to_owned()));
        }
        let missing = Error::ModelNotFound { model: "m".to_owned(), nearest: vec![] };
        let all = Error::RouteMissing { words: "all".to_owned() };
        let absent = AttemptFailure::NotFound { message: String::new(), original: None };
        for (others, missing, code) in [
            (vec![], Some(missing.clone()), "route_missing"),
            (vec![], Some(all), "route_missing"),
            (vec![absent.clone()], Some(missing.clone()), "route_missing"),
            (vec![absent], None, "route_missing"),
            (vec![AttemptFailure::BadGateway], Some(missing), "upstream_unreachable"),
        ] {
            let mut failover = Failover::default();
            for failure in [no_route("")].into_iter().chain(others) {
                failover.failed(failure);
                assert!(failover.may_go_on() && !no_route("").was_accepted());
            }
            assert_eq!(failover.effect(missing).code(), code);
        }
        let two = words::no_route(&[("1", "0.1.20"), ("3", "")], "/api/embed");
        assert_eq!(two, "the hosts 1 (Ollama 0.1.20), 3 do not have /api/embed: upgrade one of them");
    }

    #[test]
    fn each_failure_is_retried_as_far_as_its_kind_allows() {
        for (statuses, asked, code) in [
            (&[0, 0, 0][..], 3, "upstream_unreachable"),
            (&[502, 504, 0], 3, "upstream_failed"),
            (&[503, 429], 2, "upstream_busy"),
            (&[0, 503, 504], 3, "upstream_busy"),
            (&[1, 1], 2, "upstream_protocol"),
            (&[2, 2, 2], 3, "upstream_protocol"),
            (&[2, 503], 2, "upstream_busy"),
            (&[3, 500], 1, "answer_too_long"),
            (&[503, 3, 500], 2, "answer_too_long"),
            (&[508, 0], 2, "loop_detected"),
            (&[508, 503], 2, "upstream_busy"),
            (&[500, 500, 500], 2, "upstream_failed"),
            (&[500, 0, 500, 500], 3, "upstream_failed"),
            (&[400, 500], 1, "upstream_rejected"),
            (&[501, 500], 1, "upstream_rejected"),
            (&[503, 422, 500], 2, "upstream_rejected"),
            (&[404, 404], 2, "model_not_found"),
            (&[404, 0], 2, "model_not_found"),
            (&[404, 503], 2, "model_not_found"),
            (&[404, 500], 2, "upstream_failed"),
            (&[301, 0], 2, "not_ollama"),
            (&[401, 0], 2, "upstream_denied"),
            (&[401, 403, 0], 2, "upstream_denied"),
            (&[413, 503, 401, 0], 3, "upstream_busy"),
            (&[421, 404, 404], 3, "upstream_denied"),
            (&[408, 400, 0], 2, "upstream_rejected"),
            (&[301, 402, 500], 3, "upstream_failed"),
            (&[505], 1, "upstream_protocol"),
            (&[], 0, "model_not_found"),
        ] {
            let missing = Error::ModelNotFound { model: "m".to_owned(), nearest: vec![] };
            let (found, error) = play(statuses, Some(missing));
            assert_eq!((found, error.code()), (asked, code), "{statuses:?}");
        }
    }

    #[test]
    fn a_404_stays_one_where_nothing_is_known_of_the_model() {
        for (statuses, status) in
            [(&[404, 404][..], 404), (&[404, 0], 404), (&[0, 404, 503], 404), (&[404, 400], 400), (&[], 502)]
        {
            let (_, error) = play(statuses, None);
            assert_eq!(error.status(), status, "{statuses:?}");
            assert_eq!(error.original().is_some(), !statuses.is_empty(), "{statuses:?}");
        }
    }

    #[test]
    fn neither_an_end_without_a_terminator_nor_a_limit_of_our_own_is_the_hosts_fault() {
        for failure in [AttemptFailure::Unfinished, AttemptFailure::TooLong(9)] {
            assert_eq!(failure.effect(), HostEffect::Neutral, "{failure:?}");
        }
        assert!(matches!(broken("half").effect(), HostEffect::Faulty(Cause::Protocol, None)));
    }
}
