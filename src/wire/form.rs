//! Converts answers between the two deliveries: a whole answer into a stream, and a stream into a whole answer.
//!
//! It converts only what it can convert without a loss: an answer with a member that is unknown here gives `None`.
//! Values are copied as they were written.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{
    members::{self, Members},
    protocol::Protocol,
};

/// The members of an Ollama line that occur in every line; all others occur in the last line only.
const OLLAMA_PIECES: [&str; 8] =
    ["model", "created_at", "message", "response", "thinking", "tool_calls", "logprobs", "done"];
/// The members that a message of Ollama may have.
const OLLAMA_MESSAGE: [&str; 4] = ["role", "content", "thinking", "tool_calls"];
/// The members that a whole answer of OpenAI may have.
const OPENAI_ANSWER: [&str; 7] =
    ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"];

/// The events of a stream with the same content as the whole answer `body`; `request` is the request's body.
pub(crate) fn stream(protocol: Protocol, body: &[u8], request: &[u8]) -> Option<Vec<Bytes>> {
    let answer = Members::parse(body)?;
    match protocol {
        Protocol::OllamaChat | Protocol::OllamaGenerate => ollama_stream(&answer),
        Protocol::OpenAiChat => openai_stream(&answer, request, "chat.completion.chunk"),
        Protocol::OpenAiCompletion => openai_stream(&answer, request, "text_completion"),
        Protocol::OpenAiResponse | Protocol::AnthropicMessage => None,
    }
}

/// The whole answer with the same content as the stream `body`.
pub(crate) fn whole(protocol: Protocol, body: &[u8]) -> Option<Bytes> {
    match protocol {
        Protocol::OllamaChat => ollama_whole(body, true),
        Protocol::OllamaGenerate => ollama_whole(body, false),
        // Streams of these protocols lack members that their whole answers have.
        Protocol::OpenAiChat
        | Protocol::OpenAiCompletion
        | Protocol::OpenAiResponse
        | Protocol::AnthropicMessage => None,
    }
}

/// A JSON object under construction.
struct Object(Vec<u8>);

impl Object {
    fn new() -> Self {
        Self(b"{".to_vec())
    }

    fn set(&mut self, name: &str, value: &[u8]) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        // Serialising a string cannot fail.
        self.0.extend(serde_json::to_vec(name).unwrap_or_default());
        self.0.push(b':');
        self.0.extend_from_slice(value);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.set(name, &serde_json::to_vec(text).unwrap_or_default());
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

fn array<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut array = b"[".to_vec();
    for value in values {
        if array.len() > 1 {
            array.push(b',');
        }
        array.extend_from_slice(value);
    }
    array.push(b']');
    array
}

/// Two lines: the content, then the end with the counts.
fn ollama_stream(answer: &Members<'_>) -> Option<Vec<Bytes>> {
    if answer.boolean("done") != Some(true) {
        return None;
    }
    let (mut said, mut end) = (Object::new(), Object::new());
    for (name, value) in answer.iter() {
        let value = value.get().as_bytes();
        match &**name {
            "model" | "created_at" => {
                said.set(name, value);
                end.set(name, value);
            }
            "message" => {
                said.set(name, value);
                end.set(name, br#"{"role":"assistant","content":""}"#);
            }
            "response" => {
                said.set(name, value);
                end.set(name, b"\"\"");
            }
            "thinking" | "tool_calls" | "logprobs" => said.set(name, value),
            "done" => {
                said.set(name, b"false");
                end.set(name, b"true");
            }
            _ => end.set(name, value),
        }
    }
    Some([said, end].into_iter().map(|line| [line.finish(), b"\n".to_vec()].concat().into()).collect())
}

/// The concatenated contents of a stream's lines.
#[derive(Default)]
struct Sum<'a> {
    role: Option<&'a RawValue>,
    text: String,
    thinking: String,
    calls: Vec<&'a RawValue>,
    logprobs: Vec<&'a RawValue>,
}

impl<'a> Sum<'a> {
    /// Adds the content of a line, or of the message in it; `text` is the name of the member with the text.
    fn add(&mut self, said: &Members<'a>, text: &str) -> Option<()> {
        self.role = self.role.or_else(|| said.raw("role"));
        for (name, sum) in [(text, &mut self.text), ("thinking", &mut self.thinking)] {
            if let Some(piece) = said.raw(name) {
                sum.push_str(&members::string(piece)?);
            }
        }
        if let Some(calls) = said.raw("tool_calls") {
            self.calls.extend(members::elements(calls)?);
        }
        Some(())
    }

    fn write(&self, into: &mut Object, text: &str) {
        if let Some(role) = self.role {
            into.set("role", role.get().as_bytes());
        }
        into.text(text, &self.text);
        if !self.thinking.is_empty() {
            into.text("thinking", &self.thinking);
        }
        if !self.calls.is_empty() {
            into.set("tool_calls", &array(self.calls.iter().map(|call| call.get().as_bytes())));
        }
    }
}

fn ollama_whole(body: &[u8], is_chat: bool) -> Option<Bytes> {
    let lines: Vec<_> =
        body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    let lines = lines.iter().map(|line| Members::parse(line)).collect::<Option<Vec<_>>>()?;
    let (last, pieces) = lines.split_last()?;
    if last.boolean("done") != Some(true) {
        return None;
    }
    let is_piece = |(name, _): &(Cow<'_, str>, _)| OLLAMA_PIECES.contains(&&**name);
    if !pieces.iter().all(|piece| piece.iter().all(is_piece)) {
        return None;
    }
    let mut sum = Sum::default();
    for line in &lines {
        if is_chat {
            let message = line.object("message")?;
            if !message.iter().all(|(name, _)| OLLAMA_MESSAGE.contains(&&**name)) {
                return None;
            }
            sum.add(&message, "content")?;
        } else {
            sum.add(line, "response")?;
        }
        if let Some(logprobs) = line.raw("logprobs") {
            sum.logprobs.extend(members::elements(logprobs)?);
        }
    }
    let mut whole = Object::new();
    for (name, value) in last.iter() {
        match &**name {
            "message" => {
                let mut message = Object::new();
                sum.write(&mut message, "content");
                whole.set(name, &message.finish());
            }
            "response" => sum.write(&mut whole, "response"),
            "thinking" | "tool_calls" | "logprobs" => {}
            _ => whole.set(name, value.get().as_bytes()),
        }
    }
    if !sum.logprobs.is_empty() {
        whole.set("logprobs", &array(sum.logprobs.iter().map(|piece| piece.get().as_bytes())));
    }
    Some(whole.finish().into())
}

/// One event with the content of each choice, one with each finish reason, and one with the usage if the request asked
/// for it.
fn openai_stream(answer: &Members<'_>, request: &[u8], object: &str) -> Option<Vec<Bytes>> {
    if !answer.iter().all(|(name, _)| OPENAI_ANSWER.contains(&&**name)) {
        return None;
    }
    let options = Members::parse(request).and_then(|request| request.object("stream_options"));
    let counts = options.and_then(|options| options.boolean("include_usage")) == Some(true);
    let event = |choices: &[u8], usage: Option<&RawValue>| {
        let mut event = Object::new();
        for (name, value) in answer.iter() {
            match &**name {
                "object" => event.text(name, object),
                "choices" => event.set(name, choices),
                "usage" => {}
                _ => event.set(name, value.get().as_bytes()),
            }
        }
        if let Some(usage) = usage {
            event.set("usage", usage.get().as_bytes());
        }
        Bytes::from([b"data: ", &*event.finish(), b"\n\n"].concat())
    };
    let mut events = Vec::new();
    for choice in answer.array("choices")? {
        let [said, end] = openai_choice(&Members::of(choice)?)?;
        events.push(event(&array([&*said.finish()]), None));
        events.push(event(&array([&*end.finish()]), None));
    }
    if counts {
        events.push(event(b"[]", Some(answer.raw("usage")?)));
    }
    events.push(Bytes::from_static(b"data: [DONE]\n\n"));
    Some(events)
}

/// The events of one choice: what it says, and its end. `None` for a choice that a stream could not tell whole.
fn openai_choice(choice: &Members<'_>) -> Option<[Object; 2]> {
    let (mut said, mut end) = (Object::new(), Object::new());
    for (name, value) in choice.iter() {
        let raw = value.get().as_bytes();
        match &**name {
            "index" => {
                said.set(name, raw);
                end.set(name, raw);
            }
            "message" => {
                // In a stream the index identifies a tool call.
                let calls = Members::of(value)?.array("tool_calls").unwrap_or_default();
                if !calls.iter().all(|call| Members::of(call).is_some_and(|call| call.raw("index").is_some()))
                {
                    return None;
                }
                said.set("delta", raw);
                end.set("delta", b"{}");
            }
            "text" => {
                said.set(name, raw);
                end.text(name, "");
            }
            "finish_reason" => {
                said.set(name, b"null");
                end.set(name, raw);
            }
            "logprobs" => said.set(name, raw),
            _ => return None,
        }
    }
    Some([said, end])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(events: &[Bytes]) -> Vec<Value> {
        let text =
            |event: &Bytes| String::from_utf8_lossy(event).trim_start_matches("data: ").trim().to_owned();
        events.iter().filter_map(|event| serde_json::from_str(&text(event)).ok()).collect()
    }

    #[test]
    fn a_whole_answer_of_ollamas_becomes_a_stream_and_again_a_whole() {
        for (protocol, answer) in [
            (
                Protocol::OllamaChat,
                json!({"model": "m", "created_at": "t", "message": {"role": "assistant", "content": "a\nb", "thinking": "hm", "tool_calls": [{"function": {"name": "f"}}]}, "done": true, "done_reason": "stop", "eval_count": 2, "logprobs": [{"token": "a"}, {"token": "b"}]}),
            ),
            (
                Protocol::OllamaGenerate,
                json!({"model": "m", "created_at": "t", "response": "a", "thinking": "hm", "done": true, "context": [1, 2], "eval_count": 2}),
            ),
        ] {
            let events = stream(protocol, answer.to_string().as_bytes(), b"{}").unwrap();
            let [said, end] = &parsed(&events)[..] else { panic!("{events:?}") };
            assert_eq!(
                (&said["done"], &end["done"], &end["eval_count"]),
                (&json!(false), &json!(true), &json!(2))
            );
            assert_eq!(said.get("eval_count"), None);
            let whole = whole(protocol, &events.concat()).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&whole).unwrap(), answer);
        }
    }

    #[test]
    fn the_pieces_of_a_stream_of_ollamas_are_added_up() {
        let body = concat!(
            r#"{"model":"m","created_at":"1","message":{"role":"assistant","content":"a","thinking":"h"},"done":false,"logprobs":[1]}"#,
            "\n",
            r#"{"model":"m","created_at":"2","message":{"role":"assistant","content":"b","thinking":"m","tool_calls":[2]},"done":false,"logprobs":[3]}"#,
            "\n",
            r#"{"model":"m","created_at":"3","message":{"role":"assistant","content":""},"done":true,"eval_count":9}"#,
            "\n"
        );
        let whole = whole(Protocol::OllamaChat, body.as_bytes()).unwrap();
        let expected = json!({"model": "m", "created_at": "3", "message": {"role": "assistant", "content": "ab", "thinking": "hm", "tool_calls": [2]}, "done": true, "eval_count": 9, "logprobs": [1, 3]});
        assert_eq!(serde_json::from_slice::<Value>(&whole).unwrap(), expected);
    }

    #[test]
    fn a_whole_answer_of_openais_becomes_a_stream() {
        let answer = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "system_fingerprint": "fp", "choices": [{"index": 0, "message": {"role": "assistant", "content": "a", "reasoning": "hm", "tool_calls": [{"index": 0, "id": "x"}]}, "finish_reason": "stop", "logprobs": {"content": []}}], "usage": {"prompt_tokens": 1}});
        let body = answer.to_string();
        let events = stream(Protocol::OpenAiChat, body.as_bytes(), b"{}").unwrap();
        let chunks = parsed(&events);
        assert_eq!(chunks.len(), 2);
        assert_eq!(chunks[0]["choices"][0]["delta"], answer["choices"][0]["message"]);
        assert_eq!(chunks[0]["choices"][0]["logprobs"], answer["choices"][0]["logprobs"]);
        assert_eq!(chunks[0]["object"], "chat.completion.chunk");
        assert_eq!(
            (&chunks[0]["choices"][0]["finish_reason"], &chunks[1]["choices"][0]["finish_reason"]),
            (&Value::Null, &json!("stop"))
        );
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        assert_eq!(events.last().unwrap(), "data: [DONE]\n\n");
        let counted =
            stream(Protocol::OpenAiChat, body.as_bytes(), br#"{"stream_options":{"include_usage":true}}"#)
                .unwrap();
        assert_eq!(parsed(&counted)[2]["usage"], answer["usage"]);
        let completion = json!({"id": "c", "object": "text_completion", "created": 1, "choices": [{"text": "a", "index": 0, "finish_reason": "stop"}], "model": "m"});
        let chunks =
            parsed(&stream(Protocol::OpenAiCompletion, completion.to_string().as_bytes(), b"{}").unwrap());
        assert_eq!(
            (&chunks[0]["choices"][0]["text"], &chunks[1]["choices"][0]["text"]),
            (&json!("a"), &json!(""))
        );
    }

    #[test]
    fn what_would_lose_something_is_not_built() {
        for (protocol, body) in [
            (Protocol::OllamaChat, r#"{"message":{"content":"a"},"done":false}"#),
            (Protocol::OpenAiChat, r#"{"choices":[],"novelty":1}"#),
            (Protocol::OpenAiChat, r#"{"choices":[{"index":0,"novelty":1}]}"#),
            (Protocol::OpenAiChat, r#"{"choices":[{"index":0,"message":{"tool_calls":[{"id":"x"}]}}]}"#),
            (Protocol::AnthropicMessage, r#"{"type":"message"}"#),
            (Protocol::OllamaChat, "5"),
        ] {
            assert_eq!(stream(protocol, body.as_bytes(), b"{}"), None, "{body}");
        }
        for (protocol, body) in [
            (Protocol::OllamaChat, ""),
            (
                Protocol::OllamaChat,
                "{\"message\":{\"content\":\"a\",\"images\":[]},\"done\":false}\n{\"message\":{},\"done\":true}",
            ),
            (
                Protocol::OllamaChat,
                "{\"message\":{},\"done\":false,\"novelty\":1}\n{\"message\":{},\"done\":true}",
            ),
            (Protocol::OllamaChat, "{\"message\":{},\"done\":false}"),
            (Protocol::OllamaChat, "{\"message\":{\"content\":\"a\"},\"done\":false}\n{\"done\":true}"),
            (Protocol::OllamaGenerate, "{\"response\":5,\"done\":true}"),
            (Protocol::OpenAiChat, "data: [DONE]\n\n"),
        ] {
            assert_eq!(whole(protocol, body.as_bytes()), None, "{body}");
        }
    }
}
