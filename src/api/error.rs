//! Everything that can go wrong with a request, as one enum grouped by who must act.
//!
//! Each table below is exhaustive: a new variant does not compile until every table knows it. `Display` is what
//! the client reads: clear, with what to do, never with internal detail; that is in [`Error::detail`]. How an error
//! is written on each surface is the business of the submodule `shape`.

mod shape;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::platform::{Phase, journal::Level};
pub(crate) use shape::Family;

/// Why a request was not answered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// A session id that cannot be one.
    #[error("the session_id must have at most 128 characters and no control characters")]
    InvalidSessionId,
    /// No such session in the caller's scope.
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
    /// The body stopped before its end.
    #[error("the request body did not arrive completely")]
    IncompleteBody,
    /// A multipart body.
    #[error("multipart bodies are not accepted here; send JSON")]
    UnsupportedMediaType,
    /// A compressed body.
    #[error("compressed request bodies are not accepted; send the body without Content-Encoding")]
    UnsupportedEncoding,
    /// A session was named where there is none.
    #[error(
        "X-Paddock-Session works on /chat, /api/chat, /v1/chat/completions and /v1/messages; send this request without it"
    )]
    SessionUnsupported,
    /// An `Idempotency-Key` that cannot be one.
    #[error("the header Idempotency-Key must have 1 to 255 bytes")]
    InvalidIdempotencyKey,
    /// An `Idempotency-Key` that stands for another request already.
    #[error(
        "this Idempotency-Key was used for another request; use a new one for each request, and the same only to repeat it"
    )]
    IdempotencyKeyReused,
    /// The client wants an answer from the cache alone, and there is none.
    #[error("the answer is not in the cache, and Cache-Control: only-if-cached forbids to ask for it")]
    NotCached,
    /// The client read an answer that was shared with others too slowly.
    #[error("this answer was shared with other clients, and this one read too slowly; ask again")]
    FellBehind,
    /// Emptying the cache is not allowed to this caller.
    #[error(
        "emptying the cache needs ADMIN_TOKEN: send it as 'Authorization: Bearer TOKEN', or have the operator set it"
    )]
    PurgeForbidden,
    /// What was asked for cannot be done without the store, which is down.
    #[error("the store of this service does not answer; try again later")]
    StoreUnavailable,
    /// A web page of another origin asks.
    #[error("requests from this origin are not allowed; CORS_ALLOW_ORIGINS names the origins that are")]
    ForeignOrigin,
    /// Changing models is not allowed to this caller.
    #[error(
        "managing models is off here: send ADMIN_TOKEN as 'Authorization: Bearer TOKEN', or have the operator set \
         ADMIN_TOKEN or ALLOW_MODEL_MANAGEMENT=true"
    )]
    ManagementForbidden,
    /// Uploads are never passed on.
    #[error(
        "pushing models and uploading blobs are not passed on, whatever ADMIN_TOKEN and ALLOW_MODEL_MANAGEMENT say: \
         a model must come from one place for all hosts; use /api/pull or /api/create with 'from'"
    )]
    UploadForbidden,
    /// API keys are set and none of them was sent.
    #[error("a valid API key is required: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")]
    Unauthorized,
    /// The trusted caller header came more than once, so that it proves nothing.
    #[error("the header that names the caller must be sent exactly once")]
    AmbiguousCaller,
    /// No such path.
    #[error("no such path; GET /openapi.json lists the paths there are")]
    NotFound,
    /// The path is there, the method is not.
    #[error("method not allowed; use {allow}")]
    MethodNotAllowed {
        /// The methods that are, as in the header `Allow`.
        allow: &'static str,
    },
    /// No backend host has the model.
    #[error("{}", model_not_found(.model, .nearest))]
    ModelNotFound {
        /// The name as asked for.
        model: String,
        /// The models that the hosts have with the nearest names, nearest first.
        nearest: Vec<String>,
    },
    /// Ollama refused the request for a reason the caller can mend.
    #[error("Ollama refused the request: {message}")]
    UpstreamRejected {
        /// Ollama's own status, 4xx or 501.
        status: StatusCode,
        /// Ollama's own words.
        message: String,
        /// Ollama's own reply, for the surfaces that Ollama speaks itself.
        original: Option<Box<Original>>,
    },
    /// The client left before the reply; nobody reads this.
    #[error("the client closed the connection")]
    ClientClosed,

    // Upstream must recover.
    /// The hosts that answered do not have the model, and others could not be asked.
    #[error("{}", model_unavailable(.model, *.unknown))]
    ModelUnavailable {
        /// The name as asked for.
        model: String,
        /// How many hosts gave no answer.
        unknown: usize,
    },
    /// No backend host could be connected to.
    #[error("no Ollama host can be reached; check that Ollama runs and OLLAMA_HOSTS names it")]
    UpstreamUnreachable {
        /// What the last host said.
        detail: String,
    },
    /// Every backend host is busy.
    #[error("Ollama is busy; try again later")]
    UpstreamBusy {
        /// How long the host asks to wait.
        retry_after: Option<Duration>,
    },
    /// Every place on the hosts that have the model is taken, and the queue is full or did not move in time.
    #[error("all hosts with this model are busy and the queue is {}; try again later", if *.is_full { "full" } else { "too slow" })]
    Overloaded {
        /// Whether there was no room to wait, else the wait was too long.
        is_full: bool,
        /// When there will probably be room.
        retry_after: Duration,
    },
    /// A backend host did not answer in time.
    #[error(
        "Ollama did not answer in time; the limits are CONNECT_TIMEOUT, FIRST_BYTE_TIMEOUT, BETWEEN_BYTES_TIMEOUT and TOTAL_TIMEOUT"
    )]
    UpstreamTimeout {
        /// The phase that took too long.
        phase: Phase,
    },
    /// A backend host failed while it ran the model.
    #[error("Ollama failed to run the model: {message}")]
    UpstreamFailed {
        /// Ollama's own words.
        message: String,
        /// Ollama's own reply, for the surfaces that Ollama speaks itself.
        original: Option<Box<Original>>,
    },
    /// A change of models was not made on every host.
    #[error("not done on every host: {}", .failures.join("; "))]
    ManagementFailed {
        /// The status that says most about the failures.
        status: StatusCode,
        /// One sentence per host that failed, beginning with its name.
        failures: Vec<String>,
    },
    /// A backend host broke off or did not speak Ollama's protocol.
    #[error("the answer from Ollama broke off or could not be understood; try again")]
    UpstreamProtocol {
        /// What was wrong with it.
        detail: String,
    },

    /// The store of sessions is down, and the request is nothing without it.
    #[error("sessions are unavailable: the store does not answer; try again later")]
    SessionUnavailable,

    // We must act.
    /// The settings do not hold.
    #[error("the service is misconfigured: {}", .problems.join("; "))]
    Misconfigured {
        /// One sentence per problem, without values that may be secret.
        problems: Vec<String>,
    },
    /// The service is stopping and gave the request up.
    #[error("the service is shutting down; try again")]
    ShuttingDown,
}

/// A reply of Ollama's as it came, to be passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The status.
    pub status: StatusCode,
    /// The content type.
    pub content_type: Option<HeaderValue>,
    /// The body.
    pub body: Bytes,
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

impl Error {
    /// The reply's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::InvalidJson(_)
            | Self::MissingField(_)
            | Self::EmptyField(_)
            | Self::WrongType { .. }
            | Self::InvalidSessionId
            | Self::SessionUnsupported
            | Self::InvalidIdempotencyKey
            | Self::AmbiguousCaller => StatusCode::BAD_REQUEST,
            Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::ForeignOrigin
            | Self::ManagementForbidden
            | Self::PurgeForbidden
            | Self::UploadForbidden => StatusCode::FORBIDDEN,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NotFound | Self::ModelNotFound { .. } | Self::SessionNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::IncompleteBody => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType | Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UpstreamRejected { status, .. } | Self::ManagementFailed { status, .. } => *status,
            // nginx's number for it; it is seen in logs and metrics only.
            Self::ClientClosed => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::UpstreamUnreachable { .. }
            | Self::UpstreamFailed { .. }
            | Self::UpstreamProtocol { .. } => StatusCode::BAD_GATEWAY,
            Self::ModelUnavailable { .. }
            | Self::UpstreamBusy { .. }
            | Self::Overloaded { .. }
            | Self::FellBehind
            | Self::SessionUnavailable
            | Self::StoreUnavailable
            | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotCached | Self::UpstreamTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Misconfigured { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable word for it: `code` in the body, `outcome` in metrics and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidJson(_) => "invalid_json",
            Self::MissingField(_) => "missing_field",
            Self::EmptyField(_) => "empty_field",
            Self::WrongType { .. } => "wrong_type",
            Self::InvalidSessionId => "invalid_session_id",
            Self::SessionNotFound => "session_not_found",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::IncompleteBody => "incomplete_body",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::SessionUnsupported => "session_unsupported",
            Self::InvalidIdempotencyKey => "invalid_idempotency_key",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::NotCached => "not_cached",
            Self::FellBehind => "fell_behind",
            Self::ForeignOrigin => "foreign_origin",
            Self::ManagementForbidden => "management_forbidden",
            Self::PurgeForbidden => "purge_forbidden",
            Self::StoreUnavailable => "store_unavailable",
            Self::UploadForbidden => "upload_forbidden",
            Self::Unauthorized => "unauthorized",
            Self::AmbiguousCaller => "ambiguous_caller",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::UpstreamRejected { .. } => "upstream_rejected",
            Self::ClientClosed => "client_closed",
            Self::ModelUnavailable { .. } => "model_unavailable",
            Self::UpstreamUnreachable { .. } => "upstream_unreachable",
            Self::UpstreamBusy { .. } => "upstream_busy",
            Self::Overloaded { .. } => "overloaded",
            Self::UpstreamTimeout { .. } => "upstream_timeout",
            Self::UpstreamFailed { .. } => "upstream_failed",
            Self::ManagementFailed { .. } => "management_failed",
            Self::UpstreamProtocol { .. } => "upstream_protocol",
            Self::SessionUnavailable => "session_unavailable",
            Self::Misconfigured { .. } => "misconfigured",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// The family of the error, as OpenAI's clients know it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidJson(_)
            | Self::MissingField(_)
            | Self::EmptyField(_)
            | Self::WrongType { .. }
            | Self::InvalidSessionId
            | Self::BodyTooLarge { .. }
            | Self::IncompleteBody
            | Self::UnsupportedMediaType
            | Self::UnsupportedEncoding
            | Self::SessionUnsupported
            | Self::InvalidIdempotencyKey
            | Self::IdempotencyKeyReused
            | Self::NotCached
            | Self::FellBehind
            | Self::AmbiguousCaller
            | Self::MethodNotAllowed { .. }
            | Self::UpstreamRejected { .. }
            | Self::ClientClosed => "invalid_request_error",
            Self::ForeignOrigin
            | Self::ManagementForbidden
            | Self::PurgeForbidden
            | Self::UploadForbidden => "permission_error",
            Self::Unauthorized => "authentication_error",
            Self::NotFound | Self::ModelNotFound { .. } | Self::SessionNotFound => "not_found_error",
            Self::ModelUnavailable { .. }
            | Self::UpstreamUnreachable { .. }
            | Self::UpstreamBusy { .. }
            | Self::Overloaded { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamFailed { .. }
            | Self::ManagementFailed { .. }
            | Self::UpstreamProtocol { .. }
            | Self::SessionUnavailable
            | Self::StoreUnavailable
            | Self::Misconfigured { .. }
            | Self::ShuttingDown => "api_error",
        }
    }

    /// Whether the same request may succeed later, unchanged.
    pub fn retryable(&self) -> bool {
        match self {
            Self::InvalidJson(_)
            | Self::MissingField(_)
            | Self::EmptyField(_)
            | Self::WrongType { .. }
            | Self::InvalidSessionId
            | Self::SessionNotFound
            | Self::BodyTooLarge { .. }
            | Self::UnsupportedMediaType
            | Self::UnsupportedEncoding
            | Self::SessionUnsupported
            | Self::InvalidIdempotencyKey
            | Self::IdempotencyKeyReused
            | Self::NotCached
            | Self::ForeignOrigin
            | Self::ManagementForbidden
            | Self::PurgeForbidden
            | Self::UploadForbidden
            | Self::Unauthorized
            | Self::AmbiguousCaller
            | Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::ModelNotFound { .. }
            | Self::UpstreamRejected { .. }
            | Self::ClientClosed
            | Self::Misconfigured { .. } => false,
            Self::IncompleteBody
            | Self::FellBehind
            | Self::ModelUnavailable { .. }
            | Self::UpstreamUnreachable { .. }
            | Self::UpstreamBusy { .. }
            | Self::Overloaded { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamFailed { .. }
            | Self::ManagementFailed { .. }
            | Self::UpstreamProtocol { .. }
            | Self::SessionUnavailable
            | Self::StoreUnavailable
            | Self::ShuttingDown => true,
        }
    }

    /// How urgently the operator should know.
    pub fn level(&self) -> Level {
        match self {
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
            | Self::SessionUnsupported
            | Self::InvalidIdempotencyKey
            | Self::IdempotencyKeyReused
            | Self::NotCached
            | Self::FellBehind
            | Self::ForeignOrigin
            | Self::ManagementForbidden
            | Self::PurgeForbidden
            | Self::UploadForbidden
            | Self::Unauthorized
            | Self::AmbiguousCaller
            | Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::ModelNotFound { .. }
            | Self::UpstreamRejected { .. }
            | Self::ClientClosed => Level::Info,
            Self::UpstreamBusy { .. }
            | Self::Overloaded { .. }
            | Self::SessionUnavailable
            | Self::StoreUnavailable
            | Self::ShuttingDown => Level::Warn,
            Self::ModelUnavailable { .. }
            | Self::UpstreamUnreachable { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamFailed { .. }
            | Self::ManagementFailed { .. }
            | Self::UpstreamProtocol { .. }
            | Self::Misconfigured { .. } => Level::Error,
        }
    }

    /// The field that the error is about.
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::MissingField(param) | Self::EmptyField(param) | Self::WrongType { param, .. } => {
                Some(param)
            }
            Self::InvalidSessionId | Self::SessionNotFound => Some("session_id"),
            Self::ModelNotFound { .. } | Self::ModelUnavailable { .. } => Some("model"),
            Self::InvalidJson(_)
            | Self::BodyTooLarge { .. }
            | Self::IncompleteBody
            | Self::UnsupportedMediaType
            | Self::UnsupportedEncoding
            | Self::SessionUnsupported
            | Self::InvalidIdempotencyKey
            | Self::IdempotencyKeyReused
            | Self::NotCached
            | Self::FellBehind
            | Self::ForeignOrigin
            | Self::ManagementForbidden
            | Self::PurgeForbidden
            | Self::UploadForbidden
            | Self::Unauthorized
            | Self::AmbiguousCaller
            | Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::UpstreamRejected { .. }
            | Self::ClientClosed
            | Self::UpstreamUnreachable { .. }
            | Self::UpstreamBusy { .. }
            | Self::Overloaded { .. }
            | Self::UpstreamTimeout { .. }
            | Self::UpstreamFailed { .. }
            | Self::ManagementFailed { .. }
            | Self::UpstreamProtocol { .. }
            | Self::SessionUnavailable
            | Self::StoreUnavailable
            | Self::Misconfigured { .. }
            | Self::ShuttingDown => None,
        }
    }

    /// What the operator should know beyond the code; without content.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::UpstreamUnreachable { detail } | Self::UpstreamProtocol { detail } => Some(detail.clone()),
            Self::UpstreamTimeout { phase } => Some(phase.to_string()),
            Self::ModelUnavailable { unknown, .. } => Some(format!("{unknown} hosts unknown")),
            // Ollama's words may quote the request: the status alone is safe to log.
            Self::UpstreamRejected { status, .. } => Some(format!("upstream answered {status}")),
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
            | Self::SessionUnsupported
            | Self::InvalidIdempotencyKey
            | Self::IdempotencyKeyReused
            | Self::NotCached
            | Self::FellBehind
            | Self::ForeignOrigin
            | Self::ManagementForbidden
            | Self::PurgeForbidden
            | Self::UploadForbidden
            | Self::Unauthorized
            | Self::AmbiguousCaller
            | Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::ModelNotFound { .. }
            | Self::ClientClosed
            | Self::UpstreamBusy { .. }
            | Self::Overloaded { .. }
            | Self::UpstreamFailed { .. }
            | Self::ManagementFailed { .. }
            | Self::SessionUnavailable
            | Self::StoreUnavailable
            | Self::Misconfigured { .. }
            | Self::ShuttingDown => None,
        }
    }
}

#[cfg(test)]
mod tests;
