//! The text, thinking and tool calls of an answer, added up from its chunks.
//!
//! It never reads a protocol: the chunks of all protocols are alike.

use std::{borrow::Cow, fmt};

use serde_json::value::RawValue;

use super::{
    dialect::{self, Call, Dialect, Message, MessageRole, RawMessage},
    protocol::{CallPiece, Chunk},
};

/// An answer as far as it was received. Its `Debug` form shows no content.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Spoken {
    /// The reply.
    pub(crate) text: String,
    /// The model's thinking before the reply.
    pub(crate) thinking: String,
    /// The tool calls.
    pub(crate) calls: Vec<Call>,
    /// Why the model stopped, in the protocol's own term.
    pub(crate) finish: Option<String>,
    /// The index of each call, as the host sent it.
    indices: Vec<usize>,
}

impl Spoken {
    /// Adds a chunk.
    pub(crate) fn add(&mut self, chunk: &Chunk<'_>) {
        self.text.push_str(&chunk.text);
        self.thinking.push_str(&chunk.thinking);
        if let Some(finish) = &chunk.finish {
            self.finish = Some(finish.clone().into_owned());
        }
        for piece in &chunk.calls {
            self.add_call(piece);
        }
    }

    /// Drops everything but why the model stopped.
    pub(crate) fn forget_words(&mut self) {
        *self = Self { finish: self.finish.take(), ..Self::default() };
    }

    /// Whether there is neither text nor a tool call. An answer of thinking alone is worth nothing to another client.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.calls.is_empty()
    }

    /// The length of text, thinking and calls, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let calls = self
            .calls
            .iter()
            .map(|call| call.id.as_ref().map_or(0, String::len) + call.name.len() + call.arguments.len());
        self.text.len() + self.thinking.len() + calls.sum::<usize>()
    }

    /// The answer as a message of the assistant.
    pub(crate) fn message(&self, dialect: Dialect) -> RawMessage {
        let said = Message {
            role: MessageRole::Assistant,
            text: Cow::Borrowed(&self.text),
            thinking: Cow::Borrowed(&self.thinking),
            calls: Cow::Borrowed(&self.calls),
            ..Message::default()
        };
        dialect::write(&said, dialect).into()
    }

    /// The calls as Ollama's `tool_calls`.
    pub(crate) fn calls_json(&self) -> Box<RawValue> {
        dialect::calls(&self.calls)
    }

    /// Appends a piece to the last call of its index. A piece with another id, or with a name and no id, begins a new
    /// call: Ollama sends calls whole and repeats the index.
    fn add_call(&mut self, piece: &CallPiece<'_>) {
        let same = self.indices.iter().rposition(|index| *index == piece.index);
        let open = same.and_then(|at| self.calls.get_mut(at)).filter(|call| match &piece.id {
            Some(id) => call.id.as_deref() == Some(id),
            None => piece.name.is_none(),
        });
        if let Some(call) = open {
            call.arguments.push_str(&piece.arguments);
        } else {
            self.indices.push(piece.index);
            self.calls.push(Call {
                id: piece.id.clone().map(Cow::into_owned),
                name: piece.name.clone().unwrap_or_default().into_owned(),
                arguments: piece.arguments.clone().into_owned(),
            });
        }
    }
}

impl fmt::Debug for Spoken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Spoken({} bytes)", self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::protocol::Protocol;

    fn hear(protocol: Protocol, events: &[&str]) -> Spoken {
        let mut spoken = Spoken::default();
        for event in events {
            spoken.add(&protocol.read(event.as_bytes()).unwrap());
        }
        spoken
    }

    fn call(id: Option<&str>, name: &str, arguments: &str) -> Call {
        Call { id: id.map(str::to_owned), name: name.to_owned(), arguments: arguments.to_owned() }
    }

    #[test]
    fn text_and_thinking_add_up() {
        let mut spoken = hear(Protocol::OllamaChat, &[r#"{"message":{"content":"","thinking":"hm"}}"#]);
        assert!(spoken.is_empty() && spoken.bytes() == 2);
        for line in [
            r#"{"message":{"content":"a"}}"#,
            r#"{"message":{"content":"b"},"done":true,"done_reason":"stop"}"#,
        ] {
            spoken.add(&Protocol::OllamaChat.read(line.as_bytes()).unwrap());
        }
        assert_eq!((&*spoken.text, &*spoken.thinking, spoken.finish.as_deref()), ("ab", "hm", Some("stop")));
        assert!(!spoken.is_empty());
        assert_eq!(format!("{spoken:?}"), "Spoken(4 bytes)");
    }

    #[test]
    fn whole_calls_stay_apart_though_they_repeat_the_index() {
        let line = r#"{"message":{"tool_calls":[{"function":{"index":0,"name":"f","arguments":{"a":1}}}]}}"#;
        let spoken = hear(Protocol::OllamaChat, &[line, line]);
        assert_eq!(spoken.calls, [call(None, "f", "{\"a\":1}"), call(None, "f", "{\"a\":1}")]);
        assert!(!spoken.is_empty() && spoken.bytes() == 16);
        let line = |id: &str| line.replace("{\"function\"", &format!("{{\"id\":\"{id}\",\"function\""));
        let spoken = hear(Protocol::OllamaChat, &[&line("call_1"), &line("call_2")]);
        assert_eq!(spoken.calls.len(), 2);
    }

    #[test]
    fn fragments_join_the_call_of_their_index() {
        let spoken = hear(
            Protocol::OpenAiChat,
            &[
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"f","arguments":""}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"call_2","function":{"name":"g","arguments":"{"}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\""}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"f","arguments":":1}"}},{"index":1,"function":{"arguments":"}"}}]}}]}"#,
            ],
        );
        assert_eq!(spoken.calls, [call(Some("call_1"), "f", "{\"a\":1}"), call(Some("call_2"), "g", "{}")]);
        let spoken = hear(
            Protocol::AnthropicMessage,
            &[
                r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}"#,
                r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}"#,
                r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"1}"}}"#,
            ],
        );
        assert_eq!(spoken.calls, [call(Some("t"), "f", "{\"a\":1}")]);
    }

    #[test]
    fn an_answer_becomes_a_message_of_each_dialect() {
        let spoken = Spoken {
            text: "It is\n\"sunny\"".to_owned(),
            thinking: "hm".to_owned(),
            calls: vec![call(Some("call_9"), "f", "{\"a\": 1}"), call(None, "g", "{\"a\":")],
            ..Spoken::default()
        };
        let cases = [
            (
                Dialect::Ollama,
                r#"{"role":"assistant","content":"It is\n\"sunny\"","thinking":"hm","tool_calls":[{"id":"call_9","function":{"index":0,"name":"f","arguments":{"a": 1}}},{"function":{"index":1,"name":"g","arguments":{}}}]}"#,
            ),
            (
                Dialect::OpenAi,
                r#"{"role":"assistant","content":"It is\n\"sunny\"","reasoning":"hm","tool_calls":[{"id":"call_9","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}},{"id":"call_1","type":"function","function":{"name":"g","arguments":"{\"a\":"}}]}"#,
            ),
            (
                Dialect::Anthropic,
                r#"{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":""},{"type":"text","text":"It is\n\"sunny\""},{"type":"tool_use","id":"call_9","name":"f","input":{"a": 1}},{"type":"tool_use","id":"call_1","name":"g","input":{}}]}"#,
            ),
        ];
        for (dialect, expected) in cases {
            assert_eq!(spoken.message(dialect).as_str(), expected);
        }
        assert_eq!(
            spoken.calls_json().get(),
            r#"[{"id":"call_9","function":{"index":0,"name":"f","arguments":{"a": 1}}},{"function":{"index":1,"name":"g","arguments":{}}}]"#
        );
        assert_eq!(
            Spoken::default().message(Dialect::Anthropic).as_str(),
            r#"{"role":"assistant","content":""}"#
        );
        assert_eq!(Spoken::default().calls_json().get(), "[]");
        assert_eq!(format!("{:?}", spoken.calls[0]), "Call(8 bytes)");
    }
}
