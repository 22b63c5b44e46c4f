//! Every error of a request, as one enum grouped by who must act.
//!
//! `Error::row` has a line for each variant, and `Error::detail` decides for each what the log may contain: a new
//! variant does not compile until both have it. `Display` is the client's message: what is wrong and what to do,
//! without internal details. The submodule `shape` writes an error in the format of each endpoint.

mod shape;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::{
    platform::{Phase, journal::Level},
    wire::members::{MEMBERS_LIMIT, TooManyMembers},
};
pub(crate) use shape::ErrorFormat;

/// Why a request was not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // The caller must act.
    /// The body is not one JSON object.
    #[error("the request body must be one JSON object such as {{\"message\":\"Hello\"}}: {0}")]
    InvalidJson(String),
    /// A required field is absent.
    #[error("the field '{0}' is required")]
    MissingField(&'static str),
    /// A required field is empty.
    #[error("the field '{0}' must not be empty")]
    EmptyField(&'static str),
    /// A field has the wrong JSON type.
    #[error("the field '{param}' must be {expected}")]
    WrongType {
        /// The field's name.
        param: &'static str,
        /// The JSON type it should have.
        expected: &'static str,
    },
    /// The session id is too long or has control characters.
    #[error("the session_id must have at most 128 characters and no control characters")]
    InvalidSessionId,
    /// The caller has no session of this id.
    #[error(
        "no such session, or it has expired; POST /sessions makes one, and so does a first turn with an id of your own"
    )]
    SessionNotFound,
    /// The body exceeds the limit.
    #[error("the request body is larger than {limit} bytes, the limit that {setting} sets")]
    BodyTooLarge {
        /// The limit in bytes.
        limit: u64,
        /// The setting that raises it.
        setting: &'static str,
    },
    /// The body ended early.
    #[error("the request body did not arrive completely")]
    IncompleteBody,
    /// A multipart body.
    #[error("multipart bodies are not accepted here; send JSON")]
    UnsupportedMediaType,
    /// A compressed body.
    #[error(
        "compressed request bodies are not accepted, but for zstd on the paths under /v1 that ask a model with JSON; send the \
         body without Content-Encoding"
    )]
    UnsupportedEncoding,
    /// A body that is not what its `Content-Encoding` says.
    #[error(
        "the request body is no zstd that can be unpacked, with a window of at most 8 MiB and without a dictionary"
    )]
    DamagedBody,
    /// The request names a session on a route that supports none.
    #[error(
        "X-Paddock-Session works on /chat, /api/chat, /v1/chat/completions and /v1/messages; send this request without it"
    )]
    SessionUnsupported,
    /// The `Idempotency-Key` is malformed.
    #[error("the header Idempotency-Key must have 1 to 255 bytes")]
    InvalidIdempotencyKey,
    /// The `Idempotency-Key` was used for another request.
    #[error(
        "this Idempotency-Key was used for another request; use a new one for each request, and the same only to repeat it"
    )]
    IdempotencyKeyReused,
    /// The request of the `Idempotency-Key` is being answered in the other delivery.
    #[error(
        "the request with this Idempotency-Key is being answered with another `stream`; repeat it as it was, or wait until it has ended"
    )]
    IdempotencyKeyInUse,
    /// The client accepts only a cached answer (`only-if-cached`), and there is none.
    #[error("the answer is not in the cache, and Cache-Control: only-if-cached forbids to ask for it")]
    NotCached,
    /// The client read a shared answer so slowly that its beginning is no longer buffered.
    #[error("this answer was shared with other clients, and this one read too slowly; ask again")]
    FellBehind,
    /// The caller may not empty the cache.
    #[error(
        "emptying the cache needs ADMIN_TOKEN: send it as 'Authorization: Bearer TOKEN', or have the operator set it"
    )]
    PurgeForbidden,
    /// The request needs the store, and the store is down.
    #[error("the store of this service does not answer; try again later")]
    StoreUnavailable,
    /// The request addresses the service by a name that is not allowed.
    #[error(
        "requests to this name are not answered here; address the service by localhost or its IP address, or have the \
         operator name the host in ALLOWED_HOSTS"
    )]
    HostNotAllowed,
    /// The request comes from a web page whose origin is not allowed.
    #[error("requests from this origin are not allowed; CORS_ALLOW_ORIGINS names the origins that are")]
    ForeignOrigin,
    /// A web page of another origin, which may ask, administers.
    #[error(
        "web pages of other origins may ask, but not administer: no model, cache or fleet of this service is theirs"
    )]
    ForeignAdministration,
    /// The caller may not change models.
    #[error(
        "managing models is off here: send ADMIN_TOKEN as 'Authorization: Bearer TOKEN', or have the operator set \
         ADMIN_TOKEN or ALLOW_MODEL_MANAGEMENT=true"
    )]
    ManagementForbidden,
    /// Uploads are never relayed.
    #[error(
        "pushing models and uploading blobs are not passed on, whatever ADMIN_TOKEN and ALLOW_MODEL_MANAGEMENT say: \
         a model must come from one place for all hosts; use /api/pull or /api/create with 'from'"
    )]
    UploadForbidden,
    /// API keys are set, and the request has none of them.
    #[error("a valid API key is required: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")]
    Unauthorized,
    /// The trusted caller header is empty or occurs more than once, so it proves nothing.
    #[error("the header that names the caller must be sent exactly once, and must not be empty")]
    AmbiguousCaller,
    /// No route has this path.
    #[error("no such path; {}", right_path(*.meant))]
    NotFound {
        /// The route that was probably meant.
        meant: Option<&'static str>,
    },
    /// The path is another spelling of a route's.
    #[error("this path is spelled otherwise; the right spelling is in the header Location")]
    Moved {
        /// 301, or 307 for a request that must be repeated with its body.
        status: StatusCode,
        /// The path and query to ask instead, without scheme and host.
        location: String,
    },
    /// The route does not allow this method.
    #[error("method not allowed; use {allow}")]
    MethodNotAllowed {
        /// The allowed methods, as in the header `Allow`.
        allow: &'static str,
    },
    /// No backend host has the model.
    #[error("{}", model_not_found(.model, .nearest))]
    ModelNotFound {
        /// The name in the request.
        model: String,
        /// The most similar names among the hosts' models, nearest first.
        nearest: Vec<String>,
    },
    /// Ollama refused the request, and the caller can correct it.
    #[error("Ollama refused the request: {message}")]
    UpstreamRejected {
        /// Ollama's status, 4xx or 501.
        status: StatusCode,
        /// Ollama's message.
        message: String,
        /// Ollama's reply, for the endpoints that relay Ollama.
        original: Option<Box<Original>>,
    },
    /// The hosts with the model do not have the path: they are older than it.
    #[error("{words}")]
    RouteMissing {
        /// Which hosts lack what.
        words: String,
    },
    /// A host did not let the request pass, and neither did another.
    #[error("{message}")]
    UpstreamDenied {
        /// The host's status, such as 401 or 413.
        status: StatusCode,
        /// What the host said, or what its reply was.
        message: String,
        /// The host's reply, for the endpoints that relay Ollama.
        original: Option<Box<Original>>,
    },
    /// The client left before the reply; nobody receives this error.
    #[error("the client closed the connection")]
    ClientClosed,

    // Upstream must recover.
    /// The hosts that answered do not have the model, and other hosts did not answer.
    #[error("{}", model_unavailable(.model, *.unknown))]
    ModelUnavailable {
        /// The name in the request.
        model: String,
        /// How many hosts did not answer.
        unknown: usize,
    },
    /// No host accepted a connection.
    #[error("no Ollama host can be reached; check that Ollama runs and OLLAMA_HOSTS names it")]
    UpstreamUnreachable {
        /// The failure of the last attempt.
        detail: String,
    },
    /// Every host answered 429 or 503.
    #[error("{}", busy(.said.as_deref()))]
    UpstreamBusy {
        /// What the last of them said, if it said anything.
        said: Option<Box<Said>>,
        /// The `Retry-After` of the host.
        retry_after: Option<Duration>,
    },
    /// There is no room for the request: in the queue, or in memory.
    #[error("{cause}; try again later")]
    Overloaded {
        /// What is full.
        cause: Overload,
        /// The estimated time until there is room.
        retry_after: Duration,
    },
    /// A host did not answer within a time limit.
    #[error(
        "Ollama did not answer in time; the limits are CONNECT_TIMEOUT, FIRST_BYTE_TIMEOUT, BETWEEN_BYTES_TIMEOUT and TOTAL_TIMEOUT, and of what hosts are asked about themselves PROBE_CONNECT_TIMEOUT and HEALTH_TIMEOUT"
    )]
    UpstreamTimeout {
        /// The phase whose limit passed.
        phase: Phase,
    },
    /// A host failed while it ran the model.
    #[error("Ollama failed to run the model: {message}")]
    UpstreamFailed {
        /// Ollama's message.
        message: String,
        /// Ollama's reply, for the endpoints that relay Ollama.
        original: Option<Box<Original>>,
    },
    /// A change of models failed on at least one host.
    #[error("{}{}", if *.is_only_host { "" } else { "not done on every host: " }, .failures.join("; "))]
    ManagementFailed {
        /// The status of the most significant failure.
        status: StatusCode,
        /// One sentence per host that failed, which begins with the host's name if there are several hosts.
        failures: Vec<String>,
        /// Whether there is one host alone, whose own words say enough.
        is_only_host: bool,
    },
    /// A host closed the connection early or did not speak Ollama's protocol.
    #[error("the answer from Ollama broke off or could not be understood; try again")]
    UpstreamProtocol {
        /// Details of the violation.
        detail: String,
    },

    /// A host answered, and not as Ollama does.
    #[error(
        "{words}; have the operator see that OLLAMA_HOST and OLLAMA_HOSTS name Ollama, and what stands before it"
    )]
    NotOllama {
        /// Which host answered what.
        words: String,
    },

    /// The answer is longer than a reply in one piece may be: a limit of our own.
    #[error(
        "the answer is longer than {limit} bytes, the most that a reply in one piece may have; ask for a stream"
    )]
    AnswerTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// No host has told its version yet, and whoever has no key may not have one asked.
    #[error("no Ollama host has told its version yet; send an API key to have one asked, or try again later")]
    VersionUnknown,

    /// The request has come back to this service, or a host says that it has come back there.
    #[error(
        "this request goes round: it has been here before, or has passed eight services like this one; have the operator see that OLLAMA_HOST and OLLAMA_HOSTS name Ollama, here and there, and no service that leads back"
    )]
    LoopDetected {
        /// The marks of the services that it has passed, or who said so.
        detail: String,
    },

    /// The session store is down, and `SESSION_REQUIRED` or the request itself forbids to go on without it.
    #[error("sessions are unavailable: the store does not answer; try again later")]
    SessionUnavailable,

    // The operator must act.
    /// The settings are invalid.
    #[error("the service is misconfigured: {}", .problems.join("; "))]
    Misconfigured {
        /// One sentence per problem, without values that may be secret.
        problems: Vec<String>,
    },
    /// There is no room for another connection.
    #[error("too many connections at the same time, the limit that MAX_CONNECTIONS sets; try again later")]
    TooManyConnections,
    /// The service is stopping and cancelled the request.
    #[error("the service is shutting down; try again")]
    ShuttingDown,
}

/// What is full when a request is refused as [`Error::Overloaded`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overload {
    /// All slots on the hosts with the model are taken, and as many requests wait as may.
    QueueFull,
    /// All slots on the hosts with the model are taken, and the request waited for as long as it may.
    QueueSlow,
    /// The requests and replies of all clients hold as many bytes as they may.
    Memory,
}

impl std::fmt::Display for Overload {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::QueueFull => "all hosts with this model are busy and the queue is full",
            Self::QueueSlow => "all hosts with this model are busy and the queue is too slow",
            Self::Memory => "there is no room for this request or its reply within MEMORY_BUDGET",
        })
    }
}

impl From<TooManyMembers> for Error {
    fn from(_: TooManyMembers) -> Self {
        Self::InvalidJson(format!("it has more than {MEMBERS_LIMIT} members"))
    }
}

/// What a host said when it refused a request for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The status.
    pub status: StatusCode,
    /// The message.
    pub message: String,
}

/// A reply of Ollama, kept as it came so that it can be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The status.
    pub status: StatusCode,
    /// The content type.
    pub content_type: Option<HeaderValue>,
    /// The body.
    pub body: Bytes,
}

fn busy(said: Option<&Said>) -> String {
    match said {
        Some(said) => format!("Ollama is busy: {}", said.message),
        None => "Ollama is busy; try again later".to_owned(),
    }
}

fn right_path(meant: Option<&str>) -> String {
    match meant {
        Some(path) => format!("the right one may be {path}: check the client's base URL"),
        None => "GET /openapi.json lists the paths there are".to_owned(),
    }
}

fn model_unavailable(model: &str, unknown: usize) -> String {
    let why = match unknown {
        0 => format!("the Ollama hosts that have the model '{model}' are being drained"),
        _ => format!("no Ollama host that answers has the model '{model}', and {unknown} did not answer"),
    };
    format!("{why}; try again later")
}

fn model_not_found(model: &str, nearest: &[String]) -> String {
    let have = if nearest.is_empty() {
        "no host has any model yet".to_owned()
    } else {
        format!("the nearest names are: {}", nearest.join(", "))
    };
    format!("model '{model}' not found: no Ollama host has it; {have}; to add it: ollama pull {model}")
}

/// The properties of an error variant.
struct Row {
    /// The reply's status, from 100 to 999.
    status: u16,
    /// The error's code, a stable word.
    code: &'static str,
    /// The error's `type`, in the terms of OpenAI's clients.
    kind: &'static str,
    /// How urgently the operator should know.
    level: Level,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// The field of the request that caused the error.
    param: Option<&'static str>,
}

const INVALID: &str = "invalid_request_error";
const PERMISSION: &str = "permission_error";
const AUTHENTICATION: &str = "authentication_error";
const NOT_FOUND: &str = "not_found_error";
const API: &str = "api_error";
const INFO: Level = Level::Info;
const WARN: Level = Level::Warn;
const ERROR: Level = Level::Error;

impl Error {
    /// No route has this path, and none like it is known.
    pub(crate) const NOT_FOUND: Self = Self::NotFound { meant: None };

    /// The properties of each variant, one line each: a new variant does not compile without its line.
    const fn row(&self) -> Row {
        let (status, code, kind, level, retryable, param) = match self {
            // The caller must act.
            Self::InvalidJson(_) => (400, "invalid_json", INVALID, INFO, false, None),
            Self::MissingField(param) => (400, "missing_field", INVALID, INFO, false, Some(*param)),
            Self::EmptyField(param) => (400, "empty_field", INVALID, INFO, false, Some(*param)),
            Self::WrongType { param, .. } => (400, "wrong_type", INVALID, INFO, false, Some(*param)),
            Self::InvalidSessionId => (400, "invalid_session_id", INVALID, INFO, false, Some("session_id")),
            Self::SessionNotFound => (404, "session_not_found", NOT_FOUND, INFO, false, Some("session_id")),
            Self::BodyTooLarge { .. } => (413, "body_too_large", INVALID, INFO, false, None),
            Self::IncompleteBody => (408, "incomplete_body", INVALID, INFO, true, None),
            Self::UnsupportedMediaType => (415, "unsupported_media_type", INVALID, INFO, false, None),
            Self::UnsupportedEncoding => (415, "unsupported_encoding", INVALID, INFO, false, None),
            Self::DamagedBody => (400, "damaged_body", INVALID, INFO, false, None),
            Self::SessionUnsupported => (400, "session_unsupported", INVALID, INFO, false, None),
            Self::InvalidIdempotencyKey => (400, "invalid_idempotency_key", INVALID, INFO, false, None),
            Self::IdempotencyKeyReused => (422, "idempotency_key_reused", INVALID, INFO, false, None),
            Self::IdempotencyKeyInUse => (409, "idempotency_key_in_use", INVALID, INFO, true, None),
            Self::NotCached => (504, "not_cached", INVALID, INFO, false, None),
            Self::FellBehind => (503, "fell_behind", INVALID, INFO, true, None),
            Self::PurgeForbidden => (403, "purge_forbidden", PERMISSION, INFO, false, None),
            Self::StoreUnavailable => (503, "store_unavailable", API, WARN, true, None),
            Self::HostNotAllowed => (403, "host_not_allowed", PERMISSION, INFO, false, None),
            Self::ForeignOrigin => (403, "foreign_origin", PERMISSION, INFO, false, None),
            Self::ForeignAdministration => (403, "foreign_administration", PERMISSION, INFO, false, None),
            Self::ManagementForbidden => (403, "management_forbidden", PERMISSION, INFO, false, None),
            Self::UploadForbidden => (403, "upload_forbidden", PERMISSION, INFO, false, None),
            Self::Unauthorized => (401, "unauthorized", AUTHENTICATION, INFO, false, None),
            Self::AmbiguousCaller => (400, "ambiguous_caller", INVALID, INFO, false, None),
            Self::NotFound { .. } => (404, "not_found", NOT_FOUND, INFO, false, None),
            Self::Moved { status, .. } => (status.as_u16(), "moved", INVALID, INFO, false, None),
            Self::MethodNotAllowed { .. } => (405, "method_not_allowed", INVALID, INFO, false, None),
            Self::ModelNotFound { .. } => (404, "model_not_found", NOT_FOUND, INFO, false, Some("model")),
            Self::UpstreamRejected { status, .. } => {
                (status.as_u16(), "upstream_rejected", INVALID, INFO, false, None)
            }
            Self::RouteMissing { .. } => (404, "route_missing", NOT_FOUND, ERROR, false, None),
            Self::UpstreamDenied { status, .. } => {
                (status.as_u16(), "upstream_denied", API, ERROR, false, None)
            }
            // nginx's number for this case; only logs and metrics show it.
            Self::ClientClosed => (499, "client_closed", INVALID, INFO, false, None),
            // Upstream must recover.
            Self::ModelUnavailable { .. } => (503, "model_unavailable", API, ERROR, true, Some("model")),
            Self::UpstreamUnreachable { .. } => (502, "upstream_unreachable", API, ERROR, true, None),
            Self::UpstreamBusy { said: Some(said), .. } => {
                (said.status.as_u16(), "upstream_busy", API, WARN, true, None)
            }
            Self::UpstreamBusy { said: None, .. } => (503, "upstream_busy", API, WARN, true, None),
            Self::Overloaded { .. } => (503, "overloaded", API, WARN, true, None),
            Self::UpstreamTimeout { .. } => (504, "upstream_timeout", API, ERROR, true, None),
            Self::UpstreamFailed { original: Some(original), .. } if original.status.as_u16() == 504 => {
                (504, "upstream_failed", API, ERROR, true, None)
            }
            Self::UpstreamFailed { .. } => (502, "upstream_failed", API, ERROR, true, None),
            Self::ManagementFailed { status, .. } => {
                (status.as_u16(), "management_failed", API, ERROR, true, None)
            }
            Self::UpstreamProtocol { .. } => (502, "upstream_protocol", API, ERROR, true, None),
            Self::NotOllama { .. } => (502, "not_ollama", API, ERROR, true, None),
            Self::AnswerTooLong { .. } => (502, "answer_too_long", API, INFO, false, None),
            Self::VersionUnknown => (503, "version_unknown", API, INFO, true, None),
            Self::LoopDetected { .. } => (508, "loop_detected", API, ERROR, false, None),
            Self::SessionUnavailable => (503, "session_unavailable", API, WARN, true, None),
            // The operator must act.
            Self::Misconfigured { .. } => (500, "misconfigured", API, ERROR, false, None),
            Self::TooManyConnections => (503, "too_many_connections", API, WARN, true, None),
            Self::ShuttingDown => (503, "shutting_down", API, WARN, true, None),
        };
        Row { status, code, kind, level, retryable, param }
    }

    /// The reply's status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The stable word of the error: `code` in the body, `outcome` in metrics and logs.
    pub fn code(&self) -> &'static str {
        self.row().code
    }

    /// The error's `type`, in the terms of OpenAI's clients.
    pub(crate) fn kind(&self) -> &'static str {
        self.row().kind
    }

    /// Whether the same request may succeed later, unchanged.
    pub(crate) fn retryable(&self) -> bool {
        self.row().retryable
    }

    /// How urgently the operator should know.
    pub(crate) fn level(&self) -> Level {
        self.row().level
    }

    /// The field of the request that caused the error.
    pub(crate) fn param(&self) -> Option<&'static str> {
        self.row().param
    }

    /// Details for the operator beyond the code, without content.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::UpstreamUnreachable { detail }
            | Self::UpstreamProtocol { detail }
            | Self::LoopDetected { detail } => Some(detail.clone()),
            Self::UpstreamTimeout { phase } => Some(phase.to_string()),
            Self::ModelUnavailable { unknown, .. } => Some(format!("{unknown} hosts unknown")),
            // Ollama's message may quote the request; only the status is safe to log.
            Self::UpstreamRejected { status, .. } | Self::UpstreamDenied { status, .. } => {
                Some(format!("upstream answered {status}"))
            }
            Self::NotOllama { words } | Self::RouteMissing { words } => Some(words.clone()),
            Self::InvalidJson(_)
            | Self::MissingField(_)
            | Self::EmptyField(_)
            | Self::WrongType { .. }
            | Self::InvalidSessionId
            | Self::SessionNotFound
            | Self::BodyTooLarge { .. }
            | Self::IncompleteBody
            | Self::UnsupportedMediaType
            | Self::UnsupportedEncoding
            | Self::DamagedBody
            | Self::SessionUnsupported
            | Self::InvalidIdempotencyKey
            | Self::IdempotencyKeyReused
            | Self::IdempotencyKeyInUse
            | Self::NotCached
            | Self::FellBehind
            | Self::HostNotAllowed
            | Self::ForeignOrigin
            | Self::ForeignAdministration
            | Self::ManagementForbidden
            | Self::PurgeForbidden
            | Self::UploadForbidden
            | Self::Unauthorized
            | Self::AmbiguousCaller
            | Self::NotFound { .. }
            | Self::Moved { .. }
            | Self::MethodNotAllowed { .. }
            | Self::ModelNotFound { .. }
            | Self::ClientClosed
            | Self::UpstreamBusy { .. }
            | Self::Overloaded { .. }
            | Self::UpstreamFailed { .. }
            | Self::ManagementFailed { .. }
            | Self::AnswerTooLong { .. }
            | Self::VersionUnknown
            | Self::SessionUnavailable
            | Self::StoreUnavailable
            | Self::Misconfigured { .. }
            | Self::TooManyConnections
            | Self::ShuttingDown => None,
        }
    }
}

#[cfg(test)]
mod tests;
