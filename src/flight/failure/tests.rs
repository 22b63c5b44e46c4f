use super::*;

fn original(body: Vec<u8>) -> Original {
    let content_type = Some(HeaderValue::from_static("application/json"));
    Original { status: StatusCode::BAD_REQUEST, content_type, body: body.into() }
}

/// Every failure that is everybody's, with all that can be said of it.
fn shared() -> Vec<Error> {
    let status = StatusCode::BAD_REQUEST;
    let said = Some(Box::new(original(b"{\"error\":\n\"\xff no\"}".to_vec())));
    let time = Duration::from_millis(1_500);
    let mut shared = vec![
        Error::UpstreamRejected { status, message: "no \"way\"\n".into(), original: said.clone() },
        Error::UpstreamRejected {
            status: StatusCode::NOT_IMPLEMENTED,
            message: String::new(),
            original: None,
        },
        Error::UpstreamFailed { message: "out of memory".into(), original: said },
        Error::UpstreamFailed { message: "out of memory".into(), original: None },
        Error::ModelNotFound { model: "m".into(), nearest: vec![] },
        Error::ModelNotFound { model: "m".into(), nearest: vec!["a\"".into(), "b".into()] },
        Error::ModelUnavailable { model: "m".into(), unknown: 2 },
        Error::UpstreamUnreachable { detail: "refused".into() },
        Error::UpstreamProtocol { detail: "cut".into() },
        Error::LoopDetected { detail: "the host answered 508".into() },
        Error::AnswerTooLong { limit: 16 << 20 },
        Error::UpstreamBusy { said: None, retry_after: None },
        Error::UpstreamBusy { said: None, retry_after: Some(time) },
        Error::UpstreamBusy {
            said: Some(Box::new(Said { status: StatusCode::TOO_MANY_REQUESTS, message: "upgrade".into() })),
            retry_after: Some(time),
        },
        Error::Overloaded { cause: Overload::QueueFull, retry_after: time },
        Error::Overloaded { cause: Overload::QueueSlow, retry_after: time },
    ];
    shared.extend(PHASES.map(|(phase, _)| Error::UpstreamTimeout { phase }));
    shared
}

#[test]
fn a_failure_of_the_flight_is_everybodys_and_read_as_it_was_written() {
    for error in shared() {
        let record = record(&error, false).unwrap();
        assert_eq!(read(&record), Some(error), "{record:?}");
    }
}

#[test]
fn what_concerns_the_leaders_process_alone_is_nobody_elses() {
    for error in [
        Error::ClientClosed,
        Error::FellBehind,
        Error::ShuttingDown,
        Error::NotCached,
        Error::IdempotencyKeyReused,
        Error::IdempotencyKeyInUse,
        Error::SessionUnavailable,
        Error::StoreUnavailable,
        Error::Unauthorized,
        Error::MissingField("model"),
        Error::Misconfigured { problems: vec![] },
    ] {
        assert_eq!(record(&error, false), None, "{error:?}");
    }
}

#[test]
fn a_queue_of_the_leaders_own_is_nobody_elses() {
    for error in shared() {
        let is_of_a_queue = matches!(error, Error::Overloaded { .. });
        assert_eq!(record(&error, true).is_none(), is_of_a_queue, "{error:?}");
    }
}

#[test]
fn what_this_version_cannot_read_is_none() {
    for text in [
        "",
        "{}\n",
        "no JSON\n",
        "{\"code\":\"upstream_failed\",\"message\":\"no end of a line\"}",
        "{\"code\":\"upstream_failed\"}\n",
        "{\"code\":\"client_closed\"}\n",
        "{\"code\":\"novelty\",\"message\":\"a\"}\n",
        "{\"code\":\"upstream_rejected\",\"status\":1,\"message\":\"a\"}\n",
        "{\"code\":\"upstream_rejected\",\"status\":70000,\"message\":\"a\"}\n",
        "{\"code\":\"upstream_timeout\",\"phase\":\"novelty\"}\n",
        "{\"code\":\"overloaded\",\"is_full\":true}\n",
    ] {
        assert_eq!(read(&Bytes::from(text)), None, "{text}");
    }
    // A member that a newer version adds says nothing to this one.
    let newer = Bytes::from("{\"code\":\"upstream_busy\",\"novelty\":1}\n");
    assert_eq!(read(&newer), Some(Error::UpstreamBusy { said: None, retry_after: None }));
}

#[test]
fn what_goes_along_is_bounded() {
    let long = "a".repeat(BODY_LIMIT + 1);
    let failed = |body: &str| Error::UpstreamFailed {
        message: "no".into(),
        original: Some(Box::new(original(body.as_bytes().to_vec()))),
    };
    assert_eq!(
        read(&record(&failed(&long), false).unwrap()),
        Some(Error::UpstreamFailed { message: "no".into(), original: None })
    );
    assert_eq!(read(&record(&failed(&long[1..]), false).unwrap()), Some(failed(&long[1..])));
    let told = record(&Error::UpstreamProtocol { detail: long }, false).unwrap();
    assert!(told.len() < 2 * DETAIL_LIMIT);
}
