//! Holds the reading of requests against Go's own: `tests/go-reading` says what Ollama would read of each request.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::*;
use crate::wire::{
    dialect::{MessageRole, role, text, text_in},
    options::Options,
    pace::at_once,
};

const READ: &str = include_str!("../../../../tests/fixtures/go-reading.jsonl");
const OPTIONS: [&str; 8] =
    ["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict", "num_predict", "seed"];

/// The requests to an endpoint: the body, and what Ollama reads; `None` for what it refuses.
fn requests(path: &str) -> impl Iterator<Item = (Bytes, Option<Value>)> {
    let lines = READ.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(move |line| line["surface"] == path).map(|line| {
        let in_base64 = |body: &Value| STANDARD.decode(body["base64"].as_str().unwrap()).unwrap();
        let body = &line["body"];
        let body = body.as_str().map_or_else(|| in_base64(body), |text| text.as_bytes().to_vec());
        (body.into(), Some(line).filter(|line| line["ok"] == true))
    })
}

/// The role of a message by the name that Ollama read.
fn role_of(name: &str) -> MessageRole {
    match name {
        "system" | "developer" => MessageRole::System,
        "user" => MessageRole::User,
        "assistant" => MessageRole::Assistant,
        "tool" => MessageRole::Tool,
        _ => MessageRole::Other,
    }
}

#[test]
fn every_odd_request_is_read_as_go_reads_it() {
    let mut compared = 0;
    for endpoint in Endpoint::ALL {
        for (body, read) in requests(endpoint.path()) {
            let utf8 = at_once(request_text(&body, &mut Pace::unbroken()));
            let (session, mut pace) = (RequestedSession::None, Pace::unbroken());
            let parse = RelayedQuestion::parse(endpoint, "", session, &body, &utf8, &mut pace);
            let question = at_once(parse).unwrap();
            let what =
                format!("{endpoint:?} {}", String::from_utf8_lossy(&body.slice(..body.len().min(200))));
            // Whatever it is, it has a place.
            let request = question.upstream(&CallerId::public(), None, Reading::AsSent);
            assert_eq!(request.routing_key.lane().is_some(), endpoint.work().is_some(), "{what}");
            assert_eq!(request.body, body, "{what}");
            let Some(read) = read else { continue };
            compared += 1;
            let model = read["model"].as_str();
            // `null` in place of the object is an empty one to Ollama.
            let Some(members) = &question.members else {
                assert!(utf8.trim_ascii_start().starts_with(b"null"), "{what}");
                assert_eq!((model, &question.named_model), (None, &NamedModel::Unreadable), "{what}");
                continue;
            };
            let named = model.map_or(NamedModel::None, |model| NamedModel::Name(model.into()));
            assert_eq!(question.named_model, named, "{what}");
            if endpoint.protocol().is_some() {
                assert_eq!(Value::from(question.streams), read["stream"], "{what}");
            }
            if endpoint.family() == crate::api::error::ErrorFormat::Ollama {
                let options = Options::of(members);
                for name in OPTIONS {
                    assert_eq!(options.whole(name), read["options"][name].as_i64(), "{name} {what}");
                }
                assert_eq!(options.flag("use_mmap"), read["options"]["use_mmap"].as_bool(), "{what}");
            }
            if endpoint.dialect().is_some() {
                compare_messages(endpoint, members, &read, &what);
            }
        }
    }
    assert!(compared > 900, "{compared}");
}

/// Compares the messages, and what Anthropic has beside them.
fn compare_messages(endpoint: Endpoint, members: &Members<'_>, read: &Value, what: &str) {
    if endpoint.dialect() == Some(Dialect::Anthropic) {
        let system = members.raw("system").filter(|system| system.get() != "{}" && system.get() != "5");
        let told = system.map(text).unwrap_or_default().replace('\n', "");
        let heard = read["system"].as_str().unwrap_or_default();
        assert!(
            told == heard || members.raw("system").is_some_and(|it| it.get().contains("[\"s\"]")),
            "{what}"
        );
    }
    // A second list is mixed with the first there, so that a session refuses it.
    let is_mixed = endpoint.dialect() != Some(Dialect::Ollama) && members.all("messages").count() > 1;
    if is_mixed {
        return;
    }
    let messages = members.array("messages").unwrap_or_default();
    let heard = read["messages"].as_array().cloned().unwrap_or_default();
    assert_eq!(messages.len(), heard.len(), "{what}");
    for (message, heard) in messages.into_iter().zip(heard) {
        let name = heard["role"].as_str().unwrap();
        // A message that is `null` or says nothing of its role is nobody's.
        assert_eq!(role(message), role_of(name), "{what}");
        if let Some(heard) = heard["text"].as_str().filter(|text| !text.is_empty()) {
            assert_eq!(text_in(endpoint.dialect().unwrap(), message), heard, "{what}");
        }
    }
}
