use std::collections::HashSet;

use super::*;

#[test]
fn a_missing_model_names_what_there_is_and_how_to_pull() {
    let error = Error::ModelNotFound {
        model: "qwen3".into(),
        nearest: vec!["llama3.2:latest".into(), "smollm2:135m".into()],
    };
    assert_eq!(
        error.to_string(),
        "model 'qwen3' not found: no Ollama host has it; the nearest names are: llama3.2:latest, smollm2:135m; \
         to add it: ollama pull qwen3"
    );
}

#[test]
fn what_upstream_said_is_told_to_the_client_but_not_to_the_log() {
    let status = StatusCode::BAD_REQUEST;
    let error = Error::UpstreamRejected { status, message: "secret prompt".into(), original: None };
    assert!(error.to_string().contains("secret prompt"));
    assert_eq!(error.detail().as_deref(), Some("upstream answered 400 Bad Request"));
}

/// One error of each variant with its row: status, code, kind, level, whether it is retryable, and field.
fn lines() -> Vec<(Error, &'static str)> {
    [lines_of_the_caller(), lines_of_upstream_and_ours()].concat()
}

/// The errors on which the caller must act.
fn lines_of_the_caller() -> Vec<(Error, &'static str)> {
    let (status, nearest, original) = (StatusCode::BAD_REQUEST, vec![], None);
    let (model, message) = ("m".to_owned(), "words".to_owned());
    let too_large = Error::BodyTooLarge { limit: 1, setting: "S" };
    vec![
        (Error::InvalidJson(String::new()), "400 invalid_json invalid_request_error Info false -"),
        (Error::MissingField("a"), "400 missing_field invalid_request_error Info false a"),
        (Error::EmptyField("b"), "400 empty_field invalid_request_error Info false b"),
        (
            Error::WrongType { param: "c", expected: "a string" },
            "400 wrong_type invalid_request_error Info false c",
        ),
        (Error::InvalidSessionId, "400 invalid_session_id invalid_request_error Info false session_id"),
        (Error::SessionNotFound, "404 session_not_found not_found_error Info false session_id"),
        (too_large, "413 body_too_large invalid_request_error Info false -"),
        (Error::IncompleteBody, "408 incomplete_body invalid_request_error Info true -"),
        (Error::UnsupportedMediaType, "415 unsupported_media_type invalid_request_error Info false -"),
        (Error::UnsupportedEncoding, "415 unsupported_encoding invalid_request_error Info false -"),
        (Error::DamagedBody, "400 damaged_body invalid_request_error Info false -"),
        (Error::SessionUnsupported, "400 session_unsupported invalid_request_error Info false -"),
        (Error::InvalidIdempotencyKey, "400 invalid_idempotency_key invalid_request_error Info false -"),
        (Error::IdempotencyKeyReused, "422 idempotency_key_reused invalid_request_error Info false -"),
        (Error::IdempotencyKeyInUse, "409 idempotency_key_in_use invalid_request_error Info true -"),
        (Error::NotCached, "504 not_cached invalid_request_error Info false -"),
        (Error::FellBehind, "503 fell_behind invalid_request_error Info true -"),
        (Error::PurgeForbidden, "403 purge_forbidden permission_error Info false -"),
        (Error::StoreUnavailable, "503 store_unavailable api_error Warn true -"),
        (Error::HostNotAllowed, "403 host_not_allowed permission_error Info false -"),
        (Error::ForeignOrigin, "403 foreign_origin permission_error Info false -"),
        (Error::ForeignAdministration, "403 foreign_administration permission_error Info false -"),
        (Error::ManagementForbidden, "403 management_forbidden permission_error Info false -"),
        (Error::UploadForbidden, "403 upload_forbidden permission_error Info false -"),
        (Error::Unauthorized, "401 unauthorized authentication_error Info false -"),
        (Error::AmbiguousCaller, "400 ambiguous_caller invalid_request_error Info false -"),
        (
            Error::Moved { status: StatusCode::TEMPORARY_REDIRECT, location: "/chat".into() },
            "307 moved invalid_request_error Info false -",
        ),
        (Error::NOT_FOUND, "404 not_found not_found_error Info false -"),
        (
            Error::MethodNotAllowed { allow: "GET" },
            "405 method_not_allowed invalid_request_error Info false -",
        ),
        (Error::ModelNotFound { model, nearest }, "404 model_not_found not_found_error Info false model"),
        (
            Error::UpstreamRejected { status, message, original },
            "400 upstream_rejected invalid_request_error Info false -",
        ),
        (
            Error::RouteMissing { words: "words".to_owned() },
            "404 route_missing not_found_error Error false -",
        ),
        (
            Error::UpstreamDenied {
                status: StatusCode::FORBIDDEN,
                message: "words".to_owned(),
                original: None,
            },
            "403 upstream_denied api_error Error false -",
        ),
        (Error::ClientClosed, "499 client_closed invalid_request_error Info false -"),
    ]
}

/// The errors on which upstream or the operator must act.
fn lines_of_upstream_and_ours() -> Vec<(Error, &'static str)> {
    let (status, original, retry_after) = (StatusCode::BAD_REQUEST, None, Duration::ZERO);
    let text = || "words".to_owned();
    vec![
        (
            Error::ModelUnavailable { model: text(), unknown: 1 },
            "503 model_unavailable api_error Error true model",
        ),
        (Error::UpstreamUnreachable { detail: text() }, "502 upstream_unreachable api_error Error true -"),
        (Error::UpstreamBusy { said: None, retry_after: None }, "503 upstream_busy api_error Warn true -"),
        (
            Error::Overloaded { cause: Overload::QueueFull, retry_after },
            "503 overloaded api_error Warn true -",
        ),
        (Error::UpstreamTimeout { phase: Phase::Connect }, "504 upstream_timeout api_error Error true -"),
        (Error::UpstreamFailed { message: text(), original }, "502 upstream_failed api_error Error true -"),
        (
            Error::ManagementFailed { status, failures: vec![], is_only_host: false },
            "400 management_failed api_error Error true -",
        ),
        (Error::UpstreamProtocol { detail: text() }, "502 upstream_protocol api_error Error true -"),
        (Error::NotOllama { words: text() }, "502 not_ollama api_error Error true -"),
        (Error::AnswerTooLong { limit: 1 }, "502 answer_too_long api_error Info false -"),
        (Error::LoopDetected { detail: text() }, "508 loop_detected api_error Error false -"),
        (Error::VersionUnknown, "503 version_unknown api_error Info true -"),
        (Error::SessionUnavailable, "503 session_unavailable api_error Warn true -"),
        (Error::Misconfigured { problems: vec![] }, "500 misconfigured api_error Error false -"),
        (Error::TooManyConnections, "503 too_many_connections api_error Warn true -"),
        (Error::ShuttingDown, "503 shutting_down api_error Warn true -"),
    ]
}

#[test]
fn clients_and_operators_know_each_error_by_its_line() {
    for (error, line) in lines() {
        let (status, code, kind) = (error.status().as_u16(), error.code(), error.kind());
        let (level, retryable, param) = (error.level(), error.retryable(), error.param().unwrap_or("-"));
        assert_eq!(format!("{status} {code} {kind} {level:?} {retryable} {param}"), line, "{error:?}");
    }
}

#[test]
fn no_two_errors_have_the_same_code_and_none_is_left_out() {
    let codes: HashSet<_> = lines().iter().map(|(error, _)| error.code()).collect();
    let variants = include_str!("../error.rs").lines().filter(|line| line.trim().starts_with("#[error("));
    assert_eq!(codes.len(), lines().len());
    assert_eq!(codes.len(), variants.count());
}

#[test]
fn what_ollama_or_a_host_answered_is_the_status() {
    for status in [StatusCode::BAD_REQUEST, StatusCode::TOO_MANY_REQUESTS, StatusCode::NOT_IMPLEMENTED] {
        let rejected = Error::UpstreamRejected { status, message: String::new(), original: None };
        let failed = Error::ManagementFailed { status, failures: vec![], is_only_host: false };
        assert_eq!((rejected.status(), failed.status()), (status, status));
    }
}
