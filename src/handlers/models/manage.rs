//! Changes of models, made on every host: pull, create, copy and delete.
//!
//! Each progress line names its host, and the lines of all hosts are interleaved. The reply ends with one success,
//! and only if no host failed. A host without the model does not fail a copy or a delete as long as another host has
//! it. The cached answers of the model are purged before the success is sent: a client that has read the success must
//! never get an answer of the former model.

use std::{borrow::Cow, future::Future, pin::pin, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};

use crate::{
    api::{
        auth::CallerId,
        body,
        error::{Error, ErrorFormat},
        hops::X_PADDOCK_HOPS,
        memory_budget::HeldBytes,
        reply::{self, Outlet, ReplyBody},
        route::Operation,
    },
    cache::epoch_name,
    fleet::{AttemptFailure, BackendHost, is_no_route, no_host, no_route},
    handlers::{Handled, HandlerResult, RequestBody},
    host::{Platform, Service},
    platform::{Background, Phase, Timeouts, Upstream, UpstreamFailure, race},
    request::{ReplyNotes, RequestInfo, StoreAccess},
    upstream::AnswerHead,
    wire::{
        framer::{self, Framer, Framing},
        members::{Members, insert},
        pace::Pace,
        protocol,
        request::text,
    },
};

/// The maximum length of a progress line, and of a host's whole answer, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;
const SUCCESS: &[u8] = b"{\"status\":\"success\"}";

/// The result of a change on one host.
#[derive(Debug, PartialEq, Eq)]
enum ManageOutcome {
    Done,
    /// The host does not have the model.
    Absent,
    /// The host said that it did not make the change: the status for the client, and the host's error message.
    Refused(StatusCode, String),
    /// The host did not say how the change ended, so it may have made it: the status for the client, and what happened.
    Lost(StatusCode, String),
}

pub(crate) async fn manage<P: Platform, B: RequestBody>(
    service: &Service<P>,
    operation: Operation,
    headers: &HeaderMap,
    body: B,
    request: &Arc<RequestInfo>,
) -> HandlerResult {
    let limit = service.config().access.body_limits.other;
    let mut held = service.account(&CallerId::public());
    let body = body::read(headers, body, limit, &mut held, service).await?;
    let read = async |mut pace: Pace| {
        let text = text(&body, &mut pace).await;
        let members = Members::of_request(&text, &mut pace).await?;
        let model = members.as_ref().and_then(|members| changed(operation, members));
        let streams = match operation {
            Operation::Pull | Operation::Create => {
                members.and_then(|members| members.boolean("stream")).unwrap_or(true)
            }
            Operation::Copy | Operation::Delete => false,
        };
        Ok::<_, Error>((model, streams))
    };
    let (model, streams) = service.compute(body.len(), read).await?;
    if streams {
        let response = progress(service, operation, model, (body, held), request);
        return Ok(Handled::Streaming(response, Box::default()));
    }
    let hosts = service.fleet().hosts();
    let streamed =
        service.compute(body.len(), async |mut pace: Pace| streamed(operation, &body, &mut pace).await).await;
    let changes = hosts.iter().map(|backend| {
        let (body, streamed, hops) = (body.clone(), streamed.clone(), request.hops(service));
        let change = async move {
            match streamed {
                Some(streamed) => follow(service, backend, operation, (streamed, hops), None).await,
                None => change(service, backend, operation, (&body, hops)).await,
            }
        };
        with_backend(backend, change)
    });
    let changes = pin!(join_all(changes));
    let outcomes = race! {
        outcomes = changes => Some(outcomes),
        () = service.shutdown().begun() => None,
    };
    // A host may go on with what is given up.
    if outcomes.as_ref().is_none_or(|outcomes| may_have_changed(outcomes)) {
        forget_answers(service, &request.store, model).await;
    }
    combined(outcomes.ok_or(Error::ShuttingDown)?)?;
    let response = match operation {
        Operation::Pull | Operation::Create => reply::complete(StatusCode::OK, "application/json", SUCCESS),
        Operation::Copy | Operation::Delete => reply::typed(StatusCode::OK, None, Bytes::new()),
    };
    Ok(response.into())
}

/// The name of the model whose answers are out of date after the change.
fn changed(operation: Operation, request: &Members<'_>) -> Option<String> {
    let names: &[_] = match operation {
        Operation::Copy => &["destination"],
        Operation::Pull | Operation::Create | Operation::Delete => &["model", "name"],
    };
    // An empty name counts as none (`cmp.Or(r.Model, r.Name)`).
    let given = |name: &&str| request.string(name).filter(|name| !name.is_empty());
    names.iter().find_map(given).map(Cow::into_owned)
}

/// The body that asks a host for progress lines, where the change has them: a host that pulls a large model says so, and
/// one that says nothing for too long is given up. `None` where a change takes milliseconds.
async fn streamed(operation: Operation, body: &Bytes, pace: &mut Pace) -> Option<Bytes> {
    match operation {
        Operation::Copy | Operation::Delete => None,
        Operation::Pull | Operation::Create => {
            let end = Members::of_request(body, pace).await.ok().flatten()?.end();
            Some(insert(body, vec![(end, br#","stream":true"#)], pace).await)
        }
    }
}

/// Whether a host may have another model now than before. That one host may is enough: it answers with the new model.
fn may_have_changed(outcomes: &[(&BackendHost, ManageOutcome)]) -> bool {
    outcomes.iter().any(|(_, outcome)| match outcome {
        ManageOutcome::Done | ManageOutcome::Lost(..) => true,
        ManageOutcome::Absent | ManageOutcome::Refused(..) => false,
    })
}

/// Purges the cached answers of the model.
async fn forget_answers<P: Platform>(service: &Service<P>, store: &StoreAccess, model: Option<String>) {
    if let Some(model) = model {
        store.purge(service, Some(&epoch_name(&model))).await;
    }
}

/// Pairs the result of a change with its host.
async fn with_backend(
    backend: &BackendHost,
    change: impl Future<Output = ManageOutcome>,
) -> (&BackendHost, ManageOutcome) {
    (backend, change.await)
}

/// The result for the client: a failure if any host failed, or if no host has the model.
fn combined(outcomes: Vec<(&BackendHost, ManageOutcome)>) -> Result<(), Error> {
    if outcomes.is_empty() {
        return Err(no_host());
    }
    let any_done = outcomes.iter().any(|(_, outcome)| *outcome == ManageOutcome::Done);
    // Where there is one host alone, its name says nothing.
    let is_only_host = outcomes.len() == 1;
    let told = |backend: &BackendHost, words: &str| {
        // What stands before a host is told with the host's name.
        let is_named = is_only_host || words.starts_with(&format!("host {} ", backend.name()));
        if is_named { words.to_owned() } else { format!("host {}: {words}", backend.name()) }
    };
    let mut worst = None;
    let mut failures = Vec::new();
    for (backend, outcome) in outcomes {
        match outcome {
            ManageOutcome::Done => {}
            ManageOutcome::Absent if any_done => {}
            ManageOutcome::Absent => failures.push(told(backend, "model not found")),
            ManageOutcome::Refused(status, words) | ManageOutcome::Lost(status, words) => {
                worst = worst.max(Some(status));
                failures.push(told(backend, &words));
            }
        }
    }
    let status = worst.unwrap_or(StatusCode::NOT_FOUND);
    if failures.is_empty() { Ok(()) } else { Err(Error::ManagementFailed { status, failures, is_only_host }) }
}

/// The reply that streams the progress of all hosts, and a background task that makes the changes.
fn progress<P: Platform>(
    service: &Service<P>,
    operation: Operation,
    model: Option<String>,
    (body, held): (Bytes, HeldBytes),
    request: &Arc<RequestInfo>,
) -> Response<ReplyBody> {
    let (mut outlet, mut presence, inlet) = reply::channel();
    let (task_service, request) = (service.clone(), Arc::clone(request));
    service.spawn(async move {
        let service = &task_service;
        // The body is held for as long as hosts may be asked.
        let _held = held;
        let hosts = service.fleet().hosts();
        let follow = |backend| {
            let (asked, outlet) = ((body.clone(), request.hops(service)), outlet.clone());
            with_backend(backend, follow(service, backend, operation, asked, Some(outlet)))
        };
        // What the hosts are asked ends with this statement, whether they answered, the client left or the process ends.
        let changes = pin!(join_all(hosts.iter().map(follow)));
        let answered = race! {
            answered = presence.during(changes) => answered.map_err(Error::from),
            () = service.shutdown().begun() => Err(Error::ShuttingDown),
        };
        let (end, has_changed) = match answered {
            Ok(outcomes) => {
                let has_changed = may_have_changed(&outcomes);
                (combined(outcomes), has_changed)
            }
            Err(error) => (Err(error), true),
        };
        if has_changed {
            forget_answers(service, &request.store, model).await;
        }
        let last = match &end {
            Ok(()) => SUCCESS.to_vec(),
            Err(error) => error.body(ErrorFormat::Ollama, &request.request_id),
        };
        let told = outlet.send([&*last, b"\n"].concat().into()).await;
        let end = if told.is_ok() { end } else { Err(Error::ClientClosed) };
        let notes = ReplyNotes::default();
        request.close(service, &notes, end.as_ref().map(|()| StatusCode::OK)).await;
    });
    reply::streamed(reply::NDJSON, inlet)
}

async fn send<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    operation: Operation,
    (body, hops): (&Bytes, HeaderValue),
    limits: Timeouts,
) -> Result<Response<P::Body>, UpstreamFailure> {
    let uri = backend.endpoint(operation.path()).map_err(UpstreamFailure::Protocol)?;
    let request = Request::builder()
        .method(operation.method())
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))
        .header(X_PADDOCK_HOPS, hops)
        .header(header::ACCEPT_ENCODING, reply::IDENTITY)
        .body(body.clone());
    service.send(request.map_err(|error| UpstreamFailure::Protocol(error.to_string()))?, limits).await
}

/// Makes the change on one host and waits for its answer.
async fn change<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    operation: Operation,
    asked: (&Bytes, HeaderValue),
) -> ManageOutcome {
    match send(service, backend, operation, asked, service.config().whole_limits()).await {
        Ok(response) => ended(backend, operation, response).await,
        Err(failure) => failed(failure),
    }
}

/// Makes the change on one host, and passes its progress lines to the client if there is an outlet.
async fn follow<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    operation: Operation,
    (body, hops): (Bytes, HeaderValue),
    mut outlet: Option<Outlet>,
) -> ManageOutcome {
    let limits =
        Timeouts { between_bytes: service.config().timeouts.total, ..service.config().timeouts.upstream };
    let response = match send(service, backend, operation, (&body, hops), limits).await {
        Ok(response) if response.status().is_success() => response,
        Ok(response) => return ended(backend, operation, response).await,
        Err(failure) => return failed(failure),
    };
    if let Err(failure) = AnswerHead::of_change(backend.name(), &response).check(response.headers()) {
        return unread(failure);
    }
    let mut body = response.into_body();
    let mut framer = Framer::new(Framing::Lines, ANSWER_LIMIT);
    loop {
        loop {
            let line = match framer.next_event() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => return ManageOutcome::Lost(StatusCode::BAD_GATEWAY, error.to_string()),
            };
            let Some(data) = framer::data(Framing::Lines, &line) else { continue };
            let members = Members::parse(&data);
            if let Some(words) = members.as_ref().and_then(protocol::failure) {
                return ManageOutcome::Refused(StatusCode::INTERNAL_SERVER_ERROR, words.into_owned());
            }
            if members.and_then(|members| members.string("status")).as_deref() == Some("success") {
                return ManageOutcome::Done;
            }
            if let Some(outlet) = &mut outlet
                && outlet.send(with_host(&data, backend.name()).into()).await.is_err()
            {
                return ManageOutcome::Lost(StatusCode::BAD_GATEWAY, "the client left".to_owned());
            }
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    framer.push(piece);
                }
            }
            Some(Err(failure)) => return failed(failure),
            None => {
                return ManageOutcome::Lost(
                    StatusCode::BAD_GATEWAY,
                    "it ended without saying success".to_owned(),
                );
            }
        }
    }
}

/// A progress line with the member `host` put first. The other bytes stay as they were.
fn with_host(line: &[u8], name: &str) -> Vec<u8> {
    let rest = line.strip_prefix(b"{").unwrap_or(line).trim_ascii_start();
    let comma = if rest.first() == Some(&b'}') { "" } else { "," };
    [format!("{{\"host\":\"{name}\"{comma}").as_bytes(), rest, b"\n"].concat()
}

async fn ended<B>(backend: &BackendHost, operation: Operation, response: Response<B>) -> ManageOutcome
where
    B: Body<Data = Bytes, Error = UpstreamFailure>,
{
    let status = response.status();
    let head = AnswerHead::of_change(backend.name(), &response);
    let checked = head.check(response.headers());
    let body = match Limited::new(response.into_body(), ANSWER_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) if status == StatusCode::NOT_FOUND => return ManageOutcome::Absent,
        // A failure is known from its status even if the body breaks off. A success must have its whole body.
        Err(_) if !status.is_success() => Bytes::new(),
        Err(error) => {
            let failure = error.downcast::<UpstreamFailure>().map(|failure| *failure);
            return failed(failure.unwrap_or_else(|error| UpstreamFailure::Protocol(error.to_string())));
        }
    };
    if status == StatusCode::NOT_FOUND {
        let words = || no_route(&[(backend.name(), "")], operation.path());
        let is_older = is_no_route(&body);
        return if is_older { ManageOutcome::Refused(status, words()) } else { ManageOutcome::Absent };
    }
    if status.is_success()
        && let Err(failure) = checked.and_then(|()| head.check_start(&body))
    {
        return unread(failure);
    }
    match Members::parse(&body).and_then(|members| protocol::failure(&members)) {
        Some(words) => ManageOutcome::Refused(status.max(StatusCode::BAD_REQUEST), words.into_owned()),
        None if status.is_success() => ManageOutcome::Done,
        // A redirection is not followed and its target is not shown: it is internal to the operator's network.
        None if status.is_redirection() => {
            ManageOutcome::Refused(StatusCode::BAD_GATEWAY, status.to_string())
        }
        None => ManageOutcome::Refused(status, status.to_string()),
    }
}

/// The outcome where something else than Ollama answered, behind which the change may have been made.
fn unread(failure: AttemptFailure) -> ManageOutcome {
    let error = failure.into_error();
    ManageOutcome::Lost(error.status(), error.to_string())
}

fn failed(failure: UpstreamFailure) -> ManageOutcome {
    let has_no_connection =
        matches!(failure, UpstreamFailure::Unreachable(_) | UpstreamFailure::TimedOut(Phase::Connect));
    let error = AttemptFailure::from(failure).into_error();
    let outcome = if has_no_connection { ManageOutcome::Refused } else { ManageOutcome::Lost };
    outcome(error.status(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pace::at_once;

    fn hosts(count: usize) -> Vec<BackendHost> {
        (1..=count)
            .map(|position| BackendHost::new(position, &format!("http://h{position}:1")).unwrap())
            .collect()
    }

    #[track_caller]
    fn check(outcomes: Vec<ManageOutcome>, expected: Result<(), (u16, &str)>) {
        let hosts = hosts(outcomes.len());
        let found = combined(hosts.iter().zip(outcomes).collect());
        let found = found.map_err(|error| (error.status().as_u16(), error.to_string()));
        assert_eq!(found, expected.map_err(|(status, words)| (status, words.to_owned())));
    }

    #[test]
    fn one_success_when_no_host_failed_and_a_failure_names_its_hosts() {
        let failed =
            |words: &str| ManageOutcome::Refused(StatusCode::INTERNAL_SERVER_ERROR, words.to_owned());
        check(vec![ManageOutcome::Done, ManageOutcome::Done], Ok(()));
        check(vec![ManageOutcome::Absent, ManageOutcome::Done], Ok(()));
        check(
            vec![ManageOutcome::Absent, ManageOutcome::Absent],
            Err((404, "not done on every host: host 1: model not found; host 2: model not found")),
        );
        check(
            vec![ManageOutcome::Done, failed("disk full"), ManageOutcome::Absent],
            Err((500, "not done on every host: host 2: disk full")),
        );
        check(vec![failed("disk full")], Err((500, "disk full")));
        check(vec![ManageOutcome::Absent], Err((404, "model not found")));
    }

    #[test]
    fn only_a_host_that_may_have_another_model_makes_answers_old() {
        for (outcome, expected) in [
            (ManageOutcome::Done, true),
            (ManageOutcome::Absent, false),
            (ManageOutcome::Refused(StatusCode::BAD_REQUEST, String::new()), false),
            (failed(UpstreamFailure::Unreachable(String::new())), false),
            (failed(UpstreamFailure::TimedOut(Phase::Connect)), false),
            (failed(UpstreamFailure::TimedOut(Phase::FirstByte)), true),
            (failed(UpstreamFailure::Protocol(String::new())), true),
        ] {
            let hosts = hosts(2);
            let outcomes: Vec<_> = hosts.iter().zip([ManageOutcome::Absent, outcome]).collect();
            assert_eq!(may_have_changed(&outcomes), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn the_model_of_every_odd_change_is_read_as_go_reads_it() {
        let read = include_str!("../../../tests/fixtures/go-reading.jsonl");
        let lines = read.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let taken = lines.filter(|line| line["surface"] == "/api/pull" && line["ok"] == true);
        for line in taken {
            // What is no text is covered where questions are read.
            let Some(body) = line["body"].as_str() else { continue };
            let read = at_once(Members::of_request(body.as_bytes(), &mut Pace::unbroken()));
            let Some(members) = read.unwrap() else { continue };
            assert_eq!(changed(Operation::Pull, &members).as_deref(), line["model"].as_str(), "{body}");
            assert_eq!(members.boolean("stream").unwrap_or(true), line["stream"], "{body}");
        }
    }

    #[test]
    fn a_change_in_one_piece_asks_hosts_for_progress_and_keeps_its_other_bytes() {
        let streamed = |operation, body: &'static str| {
            at_once(streamed(operation, &Bytes::from_static(body.as_bytes()), &mut Pace::unbroken()))
        };
        let asked = streamed(Operation::Pull, "{\"model\": \"m\", \"stream\":false }\n").unwrap();
        assert_eq!(asked, "{\"model\": \"m\", \"stream\":false ,\"stream\":true}\n");
        assert_eq!(streamed(Operation::Create, "no JSON"), None);
        assert_eq!(streamed(Operation::Delete, "{\"model\":\"m\"}"), None);
    }

    #[test]
    fn a_line_of_progress_names_its_host_and_keeps_its_bytes() {
        assert_eq!(
            with_host(b"{\"status\":\"x\", \"total\": 1.0}", "2"),
            b"{\"host\":\"2\",\"status\":\"x\", \"total\": 1.0}\n"
        );
        assert_eq!(with_host(b"{}", "1"), b"{\"host\":\"1\"}\n");
    }
}
