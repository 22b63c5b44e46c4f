//! Anthropic's protocol: `/v1/messages`.

use anyhow::{Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Scripted,
    asked::{Asked, arguments, words},
    shapes::{bad_request, event, events, object, renamed, stream, whole, with, wrong_method},
};

/// The recorded refusal of a model that is not there.
const REFUSED: &str = "63-e-v1-messages-404";

/// What Ollama answers; nothing where the path is another.
pub(super) fn answer(asked: &Asked<'_>) -> Result<Option<Scripted>> {
    if asked.path != "/v1/messages" {
        return Ok(None);
    }
    let positive = asked.body.get("max_tokens").and_then(Value::as_u64).is_some_and(|limit| limit > 0);
    let answer = if asked.method != "POST" {
        wrong_method("POST")
    } else if !asked.body.is_object() {
        refused("unexpected EOF")
    } else if !positive {
        refused("max_tokens is required and must be positive")
    } else if asked.messages.is_empty() {
        refused("messages is required")
    } else if !asked.has(asked.model()) {
        renamed(REFUSED, "nosuch", asked.model())
    } else if asked.is_streamed(false) {
        stream("33-v1-messages-stream", said_in_events(asked)?)
    } else {
        said(asked)
    };
    answer.map(Some)
}

/// The text, or the call of a tool: its type, its content and why the answer stops.
fn said(asked: &Asked<'_>) -> Result<Scripted> {
    let text = asked.reply();
    let block = match asked.tool() {
        Some(tool) => json!({ "type": "tool_use", "id": CALL, "name": tool, "input": arguments() }),
        None => json!({ "type": "text", "text": text }),
    };
    let places = [
        ("/model", asked.model().into()),
        ("/content", json!([block])),
        ("/stop_reason", stop_reason(asked).into()),
        ("/usage", usage(asked, &text)),
    ];
    whole("32-v1-messages", &with(object("32-v1-messages")?, places)?)
}

fn said_in_events(asked: &Asked<'_>) -> Result<Vec<Bytes>> {
    let text = asked.reply();
    let recorded = events("33-v1-messages-stream")?;
    let [start, begin, delta, .., end, last, stop] = recorded.as_slice() else { bail!("not six events") };
    let mut said = vec![with(start.clone(), [("/message/model", asked.model().into())])?];
    if let Some(tool) = asked.tool() {
        let block = json!({ "type": "tool_use", "id": CALL, "name": tool, "input": {} });
        let json = json!({ "type": "input_json_delta", "partial_json": arguments().to_string() });
        said.push(with(begin.clone(), [("/content_block", block)])?);
        said.push(with(delta.clone(), [("/delta", json)])?);
    } else {
        said.push(begin.clone());
        for word in words(&text) {
            said.push(with(delta.clone(), [("/delta/text", word.into())])?);
        }
    }
    said.push(end.clone());
    let places = [("/delta/stop_reason", stop_reason(asked).into()), ("/usage", usage(asked, &text))];
    said.push(with(last.clone(), places)?);
    said.push(stop.clone());
    Ok(said.iter().map(event).collect())
}

const CALL: &str = "toolu_01";

fn stop_reason(asked: &Asked<'_>) -> &'static str {
    if asked.tool().is_some() { "tool_use" } else { "end_turn" }
}

fn usage(asked: &Asked<'_>, text: &str) -> Value {
    json!({ "input_tokens": asked.prompt_tokens(), "output_tokens": words(text).count() })
}

fn refused(message: &str) -> Result<Scripted> {
    let places = [("/error/message", message.into()), ("/error/type", "invalid_request_error".into())];
    bad_request(REFUSED, &with(object(REFUSED)?, places)?)
}
