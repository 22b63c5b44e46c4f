//! The stand-in's own answers beside those that were recorded.

use std::collections::BTreeSet;

use http::Request;
use serde_json::Value;

use super::*;

/// What the stand-in does not imitate, each with the reason.
const DIFFERENT: [(&str, &str); 22] = [
    ("05-ps-before", "it is told what is loaded"),
    ("09-chat-logprobs", "it has no probabilities"),
    ("14-generate-raw", "it gives a context always"),
    ("36-tools-chat-result", "it answers a tool's result with words"),
    ("39-think-chat", "it does not think"),
    ("40-think-chat-stream", "it does not think"),
    ("42-think-v1-chat", "it does not think"),
    ("43-think-v1-chat-stream", "it does not think"),
    ("44-think-v1-messages", "it does not think"),
    ("52-pull-no-registry", "it has a registry"),
    ("53-pull-no-registry-nostream", "it has a registry"),
    ("67-e-chat-badtype", "it knows no types"),
    ("71-e-chat-tools", "its models can do everything"),
    ("72-e-chat-think", "its models can do everything"),
    ("73-e-chat-embedmodel", "its models can do everything"),
    ("74-e-embed-chatmodel", "its models can do everything"),
    ("75-e-embed-toolong", "nothing is too long for it"),
    ("76-e-chat-toolong", "nothing is too long for it"),
    ("79-e-options-cors", "browsers do not ask it"),
    ("80-e-cors-denied", "browsers do not ask it"),
    ("81-e-host-denied", "it has any name"),
    ("82-e-blob-head-404", "it has no blobs"),
];

/// The names of all fields, with places in lists alike.
fn fields(value: &Value, place: &str, found: &mut BTreeSet<String>) {
    let named = value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value));
    let listed = value.as_array().into_iter().flatten().map(|value| ("*", value));
    for (name, value) in named.chain(listed) {
        let place = format!("{place}/{name}");
        fields(value, &place, found);
        found.insert(place);
    }
}

/// The shape of a body: its events in order, each kind once in a row, and every field of its objects.
fn shape(body: &str) -> (Vec<String>, BTreeSet<String>) {
    let (mut kinds, mut found) = (Vec::new(), BTreeSet::new());
    for line in body.lines() {
        match serde_json::from_str(line.strip_prefix("data: ").unwrap_or(line)) {
            Ok(value) => fields(&value, "", &mut found),
            Err(_) => kinds.push(line.to_owned()),
        }
    }
    kinds.retain(|line| !line.is_empty());
    kinds.dedup();
    (kinds, found)
}

#[test]
fn the_stand_in_answers_in_the_recorded_shapes() {
    let ollama = Arc::<State>::default();
    let models = ["smollm2-tools:135m", "smollm2-think:135m", "all-minilm:latest", "smollm2:135m"];
    ollama.set_models(Some(models.map(ToOwned::to_owned).to_vec()));
    ollama.set_loaded(vec!["all-minilm:latest".to_owned()]);
    for recording in Recording::all() {
        let name = recording.name();
        if DIFFERENT.iter().any(|(different, _)| *different == name) {
            continue;
        }
        let request = Request::builder().method(recording.method()).uri(recording.path()).body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let (given, exchange) = ollama.ask(&parts, recording.request_body().into()).unwrap();
        exchange.complete();
        let recorded = Scripted::replay(&recording).unwrap();
        let body = |scripted: &Scripted| {
            let bytes: Vec<u8> = scripted.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
            shape(std::str::from_utf8(&bytes).unwrap())
        };
        let head = |scripted: &Scripted| {
            let kind = scripted.headers.get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
            let is_sized = scripted.headers.contains_key("content-length");
            // Large objects come without their length.
            (scripted.status, kind, is_sized || scripted.pieces.len() == 1)
        };
        assert_eq!((head(&given), body(&given)), (head(&recorded), body(&recorded)), "{name}");
    }
}

#[tokio::test]
async fn models_come_and_go() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let url = ollama.url();
    let address = url.trim_start_matches("http://").parse()?;
    let ask = async |method: &str, path: &str, body: &str| {
        let request = Request::builder().method(method).uri(path).body(body.to_owned().into())?;
        crate::http_client::send(address, request).await
    };
    assert_eq!(ask("POST", "/api/copy", r#"{"source":"llama3.2","destination":"mine"}"#).await?.status, 200);
    assert_eq!(ask("DELETE", "/api/delete", r#"{"model":"llama3.2"}"#).await?.status, 200);
    assert_eq!(ask("DELETE", "/api/delete", r#"{"model":"llama3.2"}"#).await?.status, 404);
    let list = ask("GET", "/api/tags", "").await?;
    assert_eq!(
        (list.at("/models/0/name"), list.at("/models/1/name")),
        ("mine:latest".to_owned(), String::new())
    );
    assert_eq!(ask("HEAD", "/api/tags", "").await?.header("content-length"), list.header("content-length"));
    ollama.wait_for_given_up(0, Duration::ZERO).await?;
    assert_eq!((ollama.open_requests(), ollama.0.state.seen().given_up), (0, 0));
    Ok(())
}

#[test]
fn an_answer_can_break_after_any_piece() -> Result<()> {
    for path in ["/api/chat", "/v1/chat/completions", "/v1/messages", "/v1/responses"] {
        let crashed = Scripted::crashed(path)?;
        assert_eq!((crashed.status, crashed.end), (StatusCode::OK, End::Clean), "{path}");
        let terminated = Scripted::terminated(path)?;
        assert_eq!(terminated.end, End::Cut, "{path}");
        let hanging = terminated.ending_after(3, End::Hang);
        assert_eq!((hanging.pieces.len(), hanging.end), (3, End::Hang), "{path}");
    }
    let short = Scripted::recorded("23-v1-chat")?.in_pieces_of(10).ending_after(1, End::Clean);
    assert_eq!(short.headers.get("content-length").map(http::HeaderValue::as_bytes), Some(&b"10"[..]));
    assert!(Scripted::crashed("/api/tags").is_err());
    Ok(())
}
