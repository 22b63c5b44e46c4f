//! Changes of models, made on every host: pull, create, copy and delete.
//!
//! Each progress line names its host, and the lines of all hosts are interleaved. The reply ends with one success,
//! and only if no host failed. A host without the model does not fail a copy or a delete as long as another host has
//! it. The cached answers of the model are purged before the success is sent: a client that has read the success must
//! never get an answer of the former model.

use std::{borrow::Cow, future::Future, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Limited};

use crate::{
    api::{
        body,
        error::{Error, ErrorFormat},
        reply::{self, ClientLeft, Outlet, ReplyBody},
        route::Operation,
    },
    cache::epoch_name,
    fleet::{AttemptFailure, BackendHost, no_host},
    handlers::{Handled, HandlerResult, RequestBody},
    host::{Platform, Service},
    platform::{Background, Timeouts, Upstream, UpstreamFailure},
    request::{ReplyNotes, RequestInfo, StoreAccess},
    wire::{
        framer::{self, Framer, Framing},
        members::Members,
        protocol,
    },
};

/// The time limit of a change without progress lines. It is long because a large model may come over a slow line.
const CHANGE_LIMIT: Duration = Duration::from_hours(6);
/// The maximum length of a progress line, and of a host's whole answer, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;
const SUCCESS: &[u8] = b"{\"status\":\"success\"}";

/// The result of a change on one host.
#[derive(Debug, PartialEq, Eq)]
enum ManageOutcome {
    Done,
    /// The host does not have the model.
    Absent,
    /// The status for the client, and the host's error message.
    Failed(StatusCode, String),
}

pub(crate) async fn manage<P: Platform, B: RequestBody>(
    service: &Service<P>,
    operation: Operation,
    headers: &HeaderMap,
    body: B,
    request: &Arc<RequestInfo>,
) -> HandlerResult {
    let body = body::read(service, headers, body, service.config().access.body_limits.other).await?;
    let members = Members::parse(&body);
    let model = members.as_ref().and_then(|members| changed(operation, members));
    let streams = match operation {
        Operation::Pull | Operation::Create => {
            members.and_then(|members| members.boolean("stream")).unwrap_or(true)
        }
        Operation::Copy | Operation::Delete => false,
    };
    if streams {
        let response = progress(service, operation, model, body, request);
        return Ok(Handled::Streaming(response, Box::default()));
    }
    let hosts = service.fleet().hosts();
    let changes = hosts.iter().map(|backend| named(backend, change(service, backend, operation, &body)));
    let outcomes = join_all(changes).await;
    forget_answers(service, &request.store, model).await;
    combined(outcomes)?;
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
    names.iter().find_map(|name| request.string(name)).map(Cow::into_owned)
}

/// Purges the cached answers of the model. This happens even if only some hosts made the change, because those hosts
/// answer with the new model.
async fn forget_answers<P: Platform>(service: &Service<P>, store: &StoreAccess, model: Option<String>) {
    if let Some(model) = model {
        store.purge(service, Some(&epoch_name(&model))).await;
    }
}

/// Pairs the result of a change with its host.
async fn named(
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
    let mut worst = None;
    let mut failures = Vec::new();
    for (backend, outcome) in outcomes {
        match outcome {
            ManageOutcome::Done => {}
            ManageOutcome::Absent if any_done => {}
            ManageOutcome::Absent => failures.push(format!("host {}: model not found", backend.name())),
            ManageOutcome::Failed(status, words) => {
                worst = worst.max(Some(status));
                failures.push(format!("host {}: {words}", backend.name()));
            }
        }
    }
    let status = worst.unwrap_or(StatusCode::NOT_FOUND);
    if failures.is_empty() { Ok(()) } else { Err(Error::ManagementFailed { status, failures }) }
}

/// The reply that streams the progress of all hosts, and a background task that makes the changes.
fn progress<P: Platform>(
    service: &Service<P>,
    operation: Operation,
    model: Option<String>,
    body: Bytes,
    request: &Arc<RequestInfo>,
) -> Response<ReplyBody> {
    let (mut outlet, mut presence, inlet) = reply::channel();
    let (task_service, request) = (service.clone(), Arc::clone(request));
    service.spawn(async move {
        let service = &task_service;
        let hosts = service.fleet().hosts();
        let follow = |backend| {
            let (body, outlet) = (body.clone(), outlet.clone());
            named(backend, follow(service, backend, operation, body, outlet))
        };
        // What the hosts are asked ends with this statement, whether they answered or the client left.
        let end = match presence.during(pin!(join_all(hosts.iter().map(follow)))).await {
            Ok(outcomes) => combined(outcomes),
            Err(ClientLeft) => Err(Error::ClientClosed),
        };
        forget_answers(service, &request.store, model).await;
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
    body: &Bytes,
    limits: Timeouts,
) -> Result<Response<P::Body>, UpstreamFailure> {
    let uri = backend.endpoint(operation.path()).map_err(UpstreamFailure::Protocol)?;
    let request = Request::builder()
        .method(operation.method())
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))
        .body(body.clone());
    service.send(request.map_err(|error| UpstreamFailure::Protocol(error.to_string()))?, limits).await
}

/// Makes the change on one host and waits for its answer.
async fn change<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    operation: Operation,
    body: &Bytes,
) -> ManageOutcome {
    let limits = Timeouts {
        first_byte: CHANGE_LIMIT,
        between_bytes: CHANGE_LIMIT,
        total: Some(CHANGE_LIMIT),
        ..service.config().timeouts.upstream
    };
    match send(service, backend, operation, body, limits).await {
        Ok(response) => ended(response).await,
        Err(failure) => failed(failure),
    }
}

/// Makes the change on one host and passes its progress lines to the client.
async fn follow<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    operation: Operation,
    body: Bytes,
    mut outlet: Outlet,
) -> ManageOutcome {
    let limits =
        Timeouts { between_bytes: service.config().timeouts.total, ..service.config().timeouts.upstream };
    let response = match send(service, backend, operation, &body, limits).await {
        Ok(response) if response.status().is_success() => response,
        Ok(response) => return ended(response).await,
        Err(failure) => return failed(failure),
    };
    let mut body = response.into_body();
    let mut framer = Framer::new(Framing::Lines, ANSWER_LIMIT);
    loop {
        loop {
            let line = match framer.next_event() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => return ManageOutcome::Failed(StatusCode::BAD_GATEWAY, error.to_string()),
            };
            let Some(data) = framer::data(Framing::Lines, &line) else { continue };
            let members = Members::parse(&data);
            if let Some(words) = members.as_ref().and_then(protocol::failure) {
                return ManageOutcome::Failed(StatusCode::INTERNAL_SERVER_ERROR, words.into_owned());
            }
            if members.and_then(|members| members.string("status")).as_deref() == Some("success") {
                return ManageOutcome::Done;
            }
            if outlet.send(with_host(&data, backend.name()).into()).await.is_err() {
                return ManageOutcome::Failed(StatusCode::BAD_GATEWAY, "the client left".to_owned());
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
                return ManageOutcome::Failed(
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

async fn ended<B>(response: Response<B>) -> ManageOutcome
where
    B: Body<Data = Bytes, Error = UpstreamFailure>,
{
    let status = response.status();
    if status == StatusCode::NOT_FOUND {
        return ManageOutcome::Absent;
    }
    let body = match Limited::new(response.into_body(), ANSWER_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        // A failure is known from its status even if the body breaks off. A success must have its whole body.
        Err(_) if !status.is_success() => Bytes::new(),
        Err(error) => {
            let failure = error.downcast::<UpstreamFailure>().map(|failure| *failure);
            return failed(failure.unwrap_or_else(|error| UpstreamFailure::Protocol(error.to_string())));
        }
    };
    match Members::parse(&body).and_then(|members| protocol::failure(&members)) {
        Some(words) => ManageOutcome::Failed(status.max(StatusCode::BAD_REQUEST), words.into_owned()),
        None if status.is_success() => ManageOutcome::Done,
        // A redirection is not followed and its target is not shown: it is internal to the operator's network.
        None if status.is_redirection() => ManageOutcome::Failed(StatusCode::BAD_GATEWAY, status.to_string()),
        None => ManageOutcome::Failed(status, status.to_string()),
    }
}

fn failed(failure: UpstreamFailure) -> ManageOutcome {
    let error = AttemptFailure::from(failure).into_error();
    ManageOutcome::Failed(error.status(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let failed = |words: &str| ManageOutcome::Failed(StatusCode::INTERNAL_SERVER_ERROR, words.to_owned());
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
