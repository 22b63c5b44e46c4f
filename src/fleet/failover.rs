//! What happens after an attempt failed: try another host, or tell the caller, and what to tell.
//!
//! Nothing has reached the client while these rules are asked; after the first byte there is no other host.

use std::time::Duration;

use http::StatusCode;

use crate::{
    error::{Error, Original},
    fleet::BackendHost,
    host::{Phase, UpstreamFailure},
    reply::ClientLeft,
    wire::{members::Members, protocol::failure},
};

/// How one attempt at one host failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttemptFailure {
    /// No connection, or a proxy before the host says 502.
    Unreachable(String),
    /// A limit passed, or a proxy before the host says 504.
    TimedOut(Phase),
    /// 429 or 503.
    Busy {
        /// The wait that the host asked for.
        retry_after: Option<Duration>,
    },
    /// 500, or the same said inside a stream: the host failed to run the model.
    Failed {
        /// Ollama's words.
        message: String,
        /// Its reply, unless it said so inside a stream.
        original: Option<Box<Original>>,
    },
    /// 404: the host does not have the model.
    NotFound,
    /// 501 or another 4xx: the request's own fault, the same on every host.
    Rejected {
        /// Ollama's status.
        status: StatusCode,
        /// Ollama's words.
        message: String,
        /// Its reply.
        original: Option<Box<Original>>,
    },
    /// The answer broke off or was no answer.
    Protocol(String),
    /// The client left; the host is not to blame.
    ClientLeft,
}

impl AttemptFailure {
    /// What a reply that is not a success means.
    pub(crate) fn of_refusal(original: Original, retry_after: Option<Duration>) -> Self {
        let status = original.status;
        match status.as_u16() {
            404 => Self::NotFound,
            429 | 503 => Self::Busy { retry_after },
            500 => Self::Failed { message: words(&original), original: Some(Box::new(original)) },
            502 => Self::Unreachable("the host answered 502".to_owned()),
            504 => Self::TimedOut(Phase::FirstByte),
            400..=499 | 501 => {
                Self::Rejected { status, message: words(&original), original: Some(Box::new(original)) }
            }
            _ => Self::Protocol(format!("the host answered {}", status.as_u16())),
        }
    }

    /// A failure that the host told inside a stream.
    pub(crate) fn told(words: &str) -> Self {
        Self::Failed { message: shorten(words), original: None }
    }

    /// What a client is told when nothing else can be tried.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Rejected { status, message, original } => {
                Error::UpstreamRejected { status, message, original }
            }
            Self::Failed { message, original } => Error::UpstreamFailed { message, original },
            Self::Busy { retry_after } => Error::UpstreamBusy { retry_after },
            Self::TimedOut(phase) => Error::UpstreamTimeout { phase },
            Self::Protocol(detail) => Error::UpstreamProtocol { detail },
            Self::Unreachable(detail) => Error::UpstreamUnreachable { detail },
            Self::NotFound => Error::UpstreamProtocol { detail: "the host answered 404".to_owned() },
            Self::ClientLeft => Error::ClientClosed,
        }
    }

    /// The stable word for it, in metrics and logs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut(_) => "timeout",
            Self::Busy { .. } => "busy",
            Self::Failed { .. } => "failed",
            Self::NotFound => "not_found",
            Self::Rejected { .. } => "rejected",
            Self::Protocol(_) => "protocol",
            Self::ClientLeft => "cancelled",
        }
    }

    /// What to log beyond the word; never Ollama's own words, which may quote the request.
    pub(crate) fn detail(&self) -> String {
        match self {
            Self::Unreachable(detail) | Self::Protocol(detail) => detail.clone(),
            Self::TimedOut(phase) => phase.to_string(),
            Self::Rejected { status, .. } => status.as_str().to_owned(),
            Self::Busy { .. } | Self::Failed { .. } | Self::NotFound | Self::ClientLeft => String::new(),
        }
    }
}

/// How many characters of Ollama's words a client is told.
const MESSAGE_LIMIT: usize = 2_000;

/// Ollama's words, as each of its surfaces writes them; else the status.
fn words(original: &Original) -> String {
    let words = Members::parse(&original.body).and_then(|body| failure(&body));
    words.map_or_else(|| original.status.to_string(), |words| shorten(&words))
}

fn shorten(words: &str) -> String {
    words.chars().take(MESSAGE_LIMIT).collect()
}

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
        }
    }
}

/// The course of one request over its hosts.
#[derive(Debug)]
pub(crate) struct Failover<'a> {
    untried: std::vec::IntoIter<&'a BackendHost>,
    failures: Vec<AttemptFailure>,
}

impl<'a> Failover<'a> {
    /// A course that tries `plan` in its order.
    pub(crate) fn new(plan: Vec<&'a BackendHost>) -> Self {
        Self { failures: Vec::with_capacity(plan.len()), untried: plan.into_iter() }
    }

    /// The host to try next; `None` when the caller must be told.
    pub(crate) fn next_host(&mut self) -> Option<&'a BackendHost> {
        let last_word = match self.failures.last() {
            Some(AttemptFailure::Rejected { .. } | AttemptFailure::ClientLeft) => true,
            // A request that makes Ollama fail must not make the whole fleet fail.
            Some(AttemptFailure::Failed { .. }) => {
                self.count(|failure| matches!(failure, AttemptFailure::Failed { .. })) > 1
            }
            Some(
                AttemptFailure::Unreachable(_)
                | AttemptFailure::TimedOut(_)
                | AttemptFailure::Busy { .. }
                | AttemptFailure::NotFound
                | AttemptFailure::Protocol(_),
            )
            | None => false,
        };
        if last_word { None } else { self.untried.next() }
    }

    /// Takes note of how the attempt at the last host failed.
    pub(crate) fn failed(&mut self, failure: AttemptFailure) {
        self.failures.push(failure);
    }

    /// Whether the model is on no host: each was asked and said so.
    pub(crate) fn model_is_nowhere(&self) -> bool {
        !self.failures.is_empty() && self.count(|failure| *failure != AttemptFailure::NotFound) == 0
    }

    /// What to tell the caller, from the failure that says most: what the caller can mend, then what a later
    /// try may mend.
    pub(crate) fn verdict(self, model: Option<&str>, available: Vec<String>) -> Error {
        let model = model.unwrap_or_default().to_owned();
        if self.model_is_nowhere() {
            return Error::ModelNotFound { model, available };
        }
        let absent = self.count(|failure| *failure == AttemptFailure::NotFound);
        let unknown = self.failures.len() - absent;
        let worst = self.failures.into_iter().max_by_key(weight);
        match worst {
            Some(worst @ (AttemptFailure::Rejected { .. } | AttemptFailure::Failed { .. })) => {
                worst.into_error()
            }
            Some(_) if absent > 0 => Error::ModelUnavailable { model, unknown },
            Some(worst) => worst.into_error(),
            None => Error::UpstreamUnreachable { detail: "no host".to_owned() },
        }
    }

    fn count(&self, is_such: impl Fn(&AttemptFailure) -> bool) -> usize {
        self.failures.iter().filter(|failure| is_such(failure)).count()
    }
}

fn weight(failure: &AttemptFailure) -> u8 {
    match failure {
        AttemptFailure::ClientLeft => 7,
        AttemptFailure::Rejected { .. } => 6,
        AttemptFailure::Failed { .. } => 5,
        AttemptFailure::Busy { .. } => 4,
        AttemptFailure::TimedOut(_) => 3,
        AttemptFailure::Protocol(_) => 2,
        AttemptFailure::Unreachable(_) => 1,
        AttemptFailure::NotFound => 0,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Plays the statuses against as many hosts (0 stands for a refused connection), and returns how many were
    /// asked and the code that the caller gets.
    fn play(statuses: &[u16]) -> (usize, &'static str) {
        let hosts: Vec<_> = (1..=statuses.len())
            .map(|place| BackendHost::new(place, &format!("http://h{place}:1")).unwrap())
            .collect();
        let mut failover = Failover::new(hosts.iter().collect());
        let mut asked = 0;
        while failover.next_host().is_some() {
            let failure = match statuses[asked] {
                0 => AttemptFailure::Unreachable("refused".into()),
                1 => AttemptFailure::Protocol("cut".into()),
                status => {
                    let status = StatusCode::from_u16(status).unwrap();
                    AttemptFailure::of_refusal(
                        Original { status, content_type: None, body: Bytes::new() },
                        None,
                    )
                }
            };
            failover.failed(failure);
            asked += 1;
        }
        (asked, failover.verdict(Some("m"), vec![]).code())
    }

    #[test]
    fn each_failure_is_retried_as_far_as_its_kind_allows() {
        for (statuses, asked, code) in [
            (&[0, 0, 0][..], 3, "upstream_unreachable"),
            (&[502, 504, 0], 3, "upstream_timeout"),
            (&[503, 429], 2, "upstream_busy"),
            (&[0, 503, 504], 3, "upstream_busy"),
            (&[1, 1], 2, "upstream_protocol"),
            (&[500, 500, 500], 2, "upstream_failed"),
            (&[500, 0, 500, 500], 3, "upstream_failed"),
            (&[400, 500], 1, "upstream_rejected"),
            (&[501, 500], 1, "upstream_rejected"),
            (&[503, 422, 500], 2, "upstream_rejected"),
            (&[404, 404], 2, "model_not_found"),
            (&[404, 0], 2, "model_unavailable"),
            (&[404, 503], 2, "model_unavailable"),
            (&[404, 500], 2, "upstream_failed"),
            (&[301, 0], 2, "upstream_protocol"),
            (&[505], 1, "upstream_protocol"),
            (&[], 0, "upstream_unreachable"),
        ] {
            assert_eq!(play(statuses), (asked, code), "{statuses:?}");
        }
    }
}
