//! Every exchange that was recorded from a real Ollama, once more through the service: it must not show that there is
//! a gateway in between. Where it does, the exchange is named below with the reason.

use http::header;
use paddock_tests::ollama::Recording;
use serde_json::Value;

use crate::behaviors::{prelude::*, surfaces};

/// What is answered otherwise than by Ollama, without asking it: with the status, and the reason.
const EXCEPTIONS: [(&str, u16, &str); 14] = [
    ("47-copy", 403, "nobody manages models here unless that is allowed"),
    ("48-create-from-stream", 403, "as above"),
    ("49-create-from", 403, "as above"),
    ("50-delete", 403, "as above"),
    ("51-delete-2", 403, "as above"),
    ("52-pull-no-registry", 403, "as above"),
    ("53-pull-no-registry-nostream", 403, "as above"),
    ("59-e-delete-404", 403, "as above"),
    ("60-e-copy-404", 403, "as above"),
    ("77-e-notfound-path", 404, "an error is JSON in the shape of its surface, not plain text"),
    ("78-e-method", 405, "as above"),
    ("80-e-cors-denied", 403, "a refusal says why; Ollama's has no body"),
    ("82-e-blob-head-404", 403, "blobs are not passed on"),
    ("85-status", 404, "the account of one host says nothing of the others'"),
];
/// Ollama refuses a foreign `Host`. The service may be asked under any name, and asks Ollama under Ollama's own.
const FOREIGN_NAME: &str = "81-e-host-denied";
/// Headers that were sent and not recorded.
const HEADERS: [(&str, &[(&str, &str)]); 3] = [
    ("79-e-options-cors", &[("origin", "http://localhost:3000"), ("access-control-request-method", "POST")]),
    ("80-e-cors-denied", &[("origin", "http://evil.example")]),
    (FOREIGN_NAME, &[("host", "evil.example")]),
];
/// What a client may send, and Ollama must not get.
const PRIVATE: [(&str, &str); 6] = [
    ("authorization", "Bearer secret"),
    ("x-api-key", "secret"),
    ("api-key", "secret"),
    ("cookie", "id=secret"),
    ("x-paddock-session", ""),
    ("x-forwarded-for", "10.1.2.3"),
];

/// What the reply to an exchange is.
#[derive(Debug, PartialEq)]
enum Expected {
    /// Another one, with this status.
    Exception(u16),
    /// What was recorded, without asking Ollama.
    Own,
    /// The same JSON, made of the lists of all hosts.
    List,
    /// The same status and shape; the words name the models of all hosts.
    Missing,
    /// What Ollama says to a request that names it rightly.
    Renamed,
    /// What was recorded, byte by byte.
    Same,
}

impl Expected {
    fn of(recording: &Recording, answer: &Reply) -> Self {
        let exception = EXCEPTIONS.iter().find(|(name, ..)| *name == recording.name());
        match (exception, recording.method(), recording.path()) {
            (Some((_, status, _)), ..) => Self::Exception(*status),
            (None, "OPTIONS", _) | (None, _, "/") => Self::Own,
            (None, _, "/api/tags" | "/api/ps" | "/v1/models") => Self::List,
            _ if recording.name() == FOREIGN_NAME => Self::Renamed,
            _ if answer.status == 404 => Self::Missing,
            _ => Self::Same,
        }
    }
}

async fn every_recorded_exchange_is_the_same_through_the_service(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    // Whatever model was asked for in the recordings.
    ollama.has_every_model();
    // Each is asked more than once.
    let gateway =
        form.start(Setup::new([&ollama]).set("CACHE_MODE", "off").set("ALLOWED_HOSTS", "*")).await?;
    for recording in Recording::all() {
        let answer = recording.answer()?;
        let answer = Reply { status: answer.status, headers: answer.headers, body: answer.body.into() };
        let expected = Expected::of(&recording, &answer);
        for size in [usize::MAX, 7] {
            ollama.answers(recording.path(), said(&recording)?.in_pieces_of(size));
            let before = ollama.count(recording.path());
            let reply = replay(gateway.as_ref(), &recording).await?;
            check_reply(&recording, &answer, &expected, &reply)?;
            check_asked(&ollama, &recording, &expected, before)?;
        }
    }
    Ok(())
}

/// What Ollama says. The answer to HEAD is the answer to GET without its body, so that Ollama is asked for that.
fn said(recording: &Recording) -> Result<Scripted> {
    match (recording.name(), recording.method(), recording.path()) {
        (_, "HEAD", "/api/tags") => Scripted::recorded("04-tags"),
        (_, "HEAD", "/api/version") | (FOREIGN_NAME, ..) => Scripted::recorded("03-version"),
        _ => Scripted::replay(recording),
    }
}

async fn replay(gateway: &dyn Gateway, recording: &Recording) -> Result<Reply> {
    let own = HEADERS.into_iter().find(|(name, _)| *name == recording.name());
    // A page of this machine may ask, yet Ollama gets no Origin.
    let own = own.map_or(&[("origin", "http://localhost:3000")][..], |(_, headers)| headers);
    let headers = [&PRIVATE[..], own].concat();
    gateway.request(recording.method().parse()?, recording.path(), recording.request_body(), &headers).await
}

fn check_reply(recording: &Recording, answer: &Reply, expected: &Expected, reply: &Reply) -> Result<()> {
    let name = recording.name();
    let shown = format!("{name}: {} {:?}\n{}", reply.status, reply.headers, reply.text());
    let is_same = |other: &Reply| {
        (reply.status, reply.header("content-type"), &reply.body)
            == (other.status, other.header("content-type"), &other.body)
    };
    match expected {
        Expected::Exception(status) => {
            ensure!(reply.status == *status, shown);
            ensure!(!is_same(answer), "{name} is no exception any more");
        }
        Expected::Own | Expected::Same => ensure!(is_same(answer), shown),
        Expected::List => {
            let essence = |reply: &Reply| reply.header("content-type").split(';').next().map(str::to_owned);
            let seen = (reply.status, essence(reply), reply.json());
            ensure!(seen == (answer.status, essence(answer), answer.json()), shown);
        }
        Expected::Missing => {
            ensure!(reply.status == answer.status, shown);
            let words = surfaces::told(recording.path(), reply)?;
            ensure!(words.contains("'nosuch'") && words.contains("ollama pull nosuch"), shown);
        }
        Expected::Renamed => {
            ensure!(answer.status == 403, "{name} is no exception any more");
            ensure!(reply.status == 200 && reply.json() != Value::Null, shown);
        }
    }
    // A complete reply tells its length, and the reply to HEAD that of the body it leaves out.
    let is_streamed = ["text/event-stream", "application/x-ndjson"].contains(&reply.header("content-type"));
    let length = match recording.method() {
        "HEAD" if reply.status == 200 => answer.header("content-length").to_owned(),
        "HEAD" => return Ok(()),
        _ if is_streamed || reply.status == 204 => String::new(),
        _ => reply.body.len().to_string(),
    };
    ensure!(reply.header("content-length") == length, shown);
    Ok(())
}

/// What Ollama was sent: the client's bytes, and nothing of who the client is.
fn check_asked(ollama: &FakeOllama, recording: &Recording, expected: &Expected, before: usize) -> Result<()> {
    let name = recording.name();
    let asked: Vec<_> = ollama
        .requests()
        .into_iter()
        .filter(|request| request.path == recording.path())
        .skip(before)
        .collect();
    match expected {
        Expected::Exception(_) | Expected::Own => ensure!(asked.is_empty(), "{name}: {asked:?}"),
        // Natively the service itself asks once, when it starts.
        Expected::List => ensure!(!asked.is_empty(), "{name}"),
        // The service asks for the version itself, too.
        Expected::Renamed | Expected::Same if recording.path() == "/api/version" => {
            ensure!(!asked.is_empty(), "{name}");
        }
        // Once the hosts have listed their models, none is asked for another.
        Expected::Missing => ensure!(asked.len() <= 1, "{name}: {asked:?}"),
        Expected::Renamed | Expected::Same => {
            ensure!(asked.len() == 1, "{name}: {asked:?}");
        }
    }
    for request in asked {
        let method = if recording.method() == "HEAD" { "GET" } else { recording.method() };
        assert_eq!(
            (&*request.method, &*request.body),
            (method, recording.request_body().as_bytes()),
            "{name}"
        );
        for (private, _) in PRIVATE.into_iter().chain([("origin", "")]) {
            assert!(!request.headers.contains_key(private), "{name}: {:?}", request.headers);
        }
        let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
        // In memory there is no HTTP that wants a Host.
        let own = ollama.url().replace("http://", "");
        assert!(text(header::HOST).is_none_or(|host| host == own), "{name}: {:?}", request.headers);
        let length = (request.method == "POST").then(|| request.body.len().to_string());
        assert_eq!(text(header::CONTENT_LENGTH), length.as_deref(), "{name}");
    }
    Ok(())
}

async fn every_exception_is_of_an_exchange_that_was_recorded(_: &dyn Form) -> Result<()> {
    let names: Vec<_> = Recording::all().map(|recording| recording.name()).collect();
    let exceptions = EXCEPTIONS.iter().map(|(name, ..)| name);
    for name in exceptions.chain(HEADERS.iter().map(|(name, _)| name)) {
        assert!(names.contains(name), "{name}");
    }
    Ok(())
}

on_every_form! {
    every_recorded_exchange_is_the_same_through_the_service,
    every_exception_is_of_an_exchange_that_was_recorded,
}
