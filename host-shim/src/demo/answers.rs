//! The answers of the demo host in each protocol, whole or word by word. Pure.

use serde_json::{Value, json};

const CREATED: u64 = 1_767_225_600;
const CREATED_AT: &str = "2026-01-01T00:00:00Z";

/// An answer.
pub(super) enum Answer {
    Whole(Value),
    /// Events, each with its own end.
    Events {
        content_type: &'static str,
        events: Vec<String>,
    },
}

/// The answer to a request on one of the demo's chat endpoints.
pub(super) fn answer(path: &str, body: &Value) -> Option<Answer> {
    let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
    let is_streamed = |default| body.get("stream").and_then(Value::as_bool).unwrap_or(default);
    let reply = reply(body);
    Some(match path {
        "/api/chat" => native(model, &reply, is_streamed(true), |text| {
            ("message", json!({"role": "assistant", "content": text}))
        }),
        "/api/generate" => native(model, &reply, is_streamed(true), |text| ("response", text.into())),
        "/v1/chat/completions" => openai(model, &reply, is_streamed(false)),
        "/v1/messages" => anthropic(model, &reply, is_streamed(false)),
        _ => return None,
    })
}

struct Reply {
    text: String,
    /// Ten for each message.
    prompt_tokens: usize,
}

impl Reply {
    fn words(&self) -> impl Iterator<Item = &str> {
        self.text.split_inclusive(' ')
    }

    /// One token for each word.
    fn tokens(&self) -> usize {
        self.words().count()
    }
}

fn reply(body: &Value) -> Reply {
    let messages = body.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let prompt = body.get("prompt").and_then(Value::as_str);
    let asked = messages.last().and_then(|message| message.get("content")).map(content);
    let asked = prompt.map(str::to_owned).or(asked).unwrap_or_default();
    let earlier = match messages.len().saturating_sub(1) {
        0 => String::new(),
        earlier => format!(" I was also sent {earlier} earlier messages of this session."),
    };
    let text = format!(
        "This is a demo answer from the stand-in inside Paddock, not from a language model. You said: \"{asked}\".{earlier}"
    );
    Reply { text, prompt_tokens: messages.len().max(1) * 10 }
}

/// The text of a message's content, which may be a list of parts.
fn content(content: &Value) -> String {
    let text = |part: &Value| part.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

fn native(
    model: &str,
    reply: &Reply,
    is_streamed: bool,
    said: impl Fn(&str) -> (&'static str, Value),
) -> Answer {
    let chunk = |text: &str, done: bool| {
        let (name, value) = said(text);
        let mut chunk = json!({"model": model, "created_at": CREATED_AT, "done": done});
        if let Some(members) = chunk.as_object_mut() {
            members.insert(name.to_owned(), value);
            if done {
                members.insert("done_reason".to_owned(), "stop".into());
                members.insert("prompt_eval_count".to_owned(), reply.prompt_tokens.into());
                members.insert("eval_count".to_owned(), reply.tokens().into());
            }
        }
        chunk
    };
    if !is_streamed {
        return Answer::Whole(chunk(&reply.text, true));
    }
    let chunks = reply.words().map(|word| chunk(word, false)).chain([chunk("", true)]);
    Answer::Events {
        content_type: "application/x-ndjson",
        events: chunks.map(|chunk| format!("{chunk}\n")).collect(),
    }
}

fn openai(model: &str, reply: &Reply, is_streamed: bool) -> Answer {
    let usage = json!({
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.tokens(),
        "total_tokens": reply.prompt_tokens + reply.tokens(),
    });
    if !is_streamed {
        let message = json!({"role": "assistant", "content": reply.text});
        return Answer::Whole(json!({
            "id": "chatcmpl-demo", "object": "chat.completion", "created": CREATED, "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage,
        }));
    }
    let chunk = |delta: Value, finish: Value| {
        let chunk = json!({
            "id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": CREATED, "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        });
        format!("data: {chunk}\n\n")
    };
    let words = reply.words().map(|word| chunk(json!({"role": "assistant", "content": word}), Value::Null));
    let last = [chunk(json!({}), "stop".into()), "data: [DONE]\n\n".to_owned()];
    Answer::Events { content_type: "text/event-stream", events: words.chain(last).collect() }
}

fn anthropic(model: &str, reply: &Reply, is_streamed: bool) -> Answer {
    let message = |content: Value, stop_reason: Value, output: usize| {
        json!({
            "id": "msg_demo", "type": "message", "role": "assistant", "model": model, "content": content,
            "stop_reason": stop_reason, "usage": {"input_tokens": reply.prompt_tokens, "output_tokens": output},
        })
    };
    if !is_streamed {
        let content = json!([{"type": "text", "text": reply.text}]);
        return Answer::Whole(message(content, "end_turn".into(), reply.tokens()));
    }
    let event = |kind: &str, mut data: Value| {
        if let Some(members) = data.as_object_mut() {
            members.insert("type".to_owned(), kind.into());
        }
        format!("event: {kind}\ndata: {data}\n\n")
    };
    let delta = |word: &str| json!({"index": 0, "delta": {"type": "text_delta", "text": word}});
    let first = [
        event("message_start", json!({"message": message(json!([]), Value::Null, 0)})),
        event("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
    ];
    let words = reply.words().map(|word| event("content_block_delta", delta(word)));
    let usage = json!({"input_tokens": reply.prompt_tokens, "output_tokens": reply.tokens()});
    let last = [
        event("content_block_stop", json!({"index": 0})),
        event("message_delta", json!({"delta": {"stop_reason": "end_turn"}, "usage": usage})),
        event("message_stop", json!({})),
    ];
    Answer::Events {
        content_type: "text/event-stream",
        events: first.into_iter().chain(words).chain(last).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_is_answered_by_a_demo_that_says_so_and_repeats_what_was_said() {
        let said = json!([{"role": "user", "content": [{"type": "text", "text": "hello"}]}]);
        for (path, terminator) in [
            ("/api/chat", "\"done\":true"),
            ("/v1/chat/completions", "data: [DONE]"),
            ("/v1/messages", "event: message_stop"),
        ] {
            let plain = json!({"model": "m", "messages": said, "stream": false});
            let Some(Answer::Whole(whole)) = answer(path, &plain) else { panic!("{path}") };
            assert!(
                whole.to_string().contains("demo answer") && whole.to_string().contains("hello"),
                "{path}"
            );
            let streamed = json!({"model": "m", "messages": said, "stream": true});
            let Some(Answer::Events { events, .. }) = answer(path, &streamed) else { panic!("{path}") };
            assert!(events.last().unwrap().contains(terminator), "{path}");
        }
        assert!(answer("/v1/embeddings", &json!({})).is_none());
    }
}
