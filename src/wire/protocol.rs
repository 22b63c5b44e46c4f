//! Reads one event or one whole answer of any of Ollama's chat protocols into a [`Chunk`]. Requests are read by the
//! handlers, and messages are written by [`dialect`](super::dialect).
//!
//! This is the only place that tells the protocols' answers apart: all later code sees a [`Chunk`]. It never requires a
//! field, since Ollama leaves out what is zero or empty, and only a stream's terminator makes a stream complete.
//!
//! No crate serves: the typed answers of `async-openai` and `ollama-rs` drop fields that they do not know, and Paddock
//! passes the body on as it came.

mod anthropic;
mod ollama;
mod openai;
mod responses;

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    members::{self, Members},
    tokens::Tokens,
};

/// The protocol of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Ollama's `/api/chat`.
    OllamaChat,
    /// Ollama's `/api/generate`.
    OllamaGenerate,
    /// `/v1/chat/completions`.
    OpenAiChat,
    /// `/v1/completions`.
    OpenAiCompletion,
    /// `/v1/responses`.
    OpenAiResponse,
    /// `/v1/messages`.
    AnthropicMessage,
}

/// The content of one event; of several choices only the first.
#[derive(Debug, Default)]
pub(crate) struct Chunk<'a> {
    /// A piece of the reply.
    pub(crate) text: Cow<'a, str>,
    /// A piece of the model's thinking before the reply.
    pub(crate) thinking: Cow<'a, str>,
    /// Pieces of tool calls.
    pub(crate) calls: Vec<CallPiece<'a>>,
    /// Why the model stopped, in the protocol's own term.
    pub(crate) finish: Option<Cow<'a, str>>,
    /// Ollama's own counts, where the event has them; estimates and placeholders are left out.
    pub(crate) tokens: Option<Tokens>,
    /// Where the time went; only Ollama's own protocol reports it.
    pub(crate) durations: Option<Durations>,
    /// Whether the answer is complete. No other field tells that.
    pub(crate) end: bool,
    /// The host's error message, when it reports a failure inside the stream.
    pub(crate) error: Option<Cow<'a, str>>,
    /// Whether it stands for the end of a runner that died: on `/v1/chat/completions` and `/v1/completions` Ollama sends an
    /// empty piece of no model in place of its error.
    pub(crate) is_crash: bool,
}

/// A piece of a tool call: a whole one in Ollama's protocol, a fragment in the others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CallPiece<'a> {
    /// The index of the call that this piece belongs to. Ollama repeats the same index for different calls.
    pub(crate) index: usize,
    /// The call's id, on its first piece.
    pub(crate) id: Option<Cow<'a, str>>,
    /// The tool's name, on the call's first piece.
    pub(crate) name: Option<Cow<'a, str>>,
    /// JSON text of the arguments, or a fragment of it.
    pub(crate) arguments: Cow<'a, str>,
}

/// Where a host spent the time, in nanoseconds; 0 when it does not report it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Durations {
    /// The whole request.
    pub(crate) total: u64,
    /// Loading the model.
    pub(crate) load: u64,
    /// Reading the prompt.
    pub(crate) prompt_eval: u64,
    /// Writing the answer.
    pub(crate) eval: u64,
}

impl Protocol {
    /// Reads the data of one event of a stream; `None` when it is no JSON object.
    pub(crate) fn read(self, data: &[u8]) -> Option<Chunk<'_>> {
        if matches!(self, Self::OpenAiChat | Self::OpenAiCompletion) && data.trim_ascii() == b"[DONE]" {
            return Some(Chunk { end: true, ..Chunk::default() });
        }
        let event = Members::parse(data)?;
        let chunk = match self {
            Self::OllamaChat | Self::OllamaGenerate => ollama::read(&event),
            Self::OpenAiChat | Self::OpenAiCompletion => openai::read(&event),
            Self::OpenAiResponse => responses::read(&event),
            Self::AnthropicMessage => anthropic::read(&event),
        };
        Some(chunk)
    }

    /// Reads an answer that is not streamed; `None` when it is no JSON object.
    pub(crate) fn read_whole(self, body: &[u8]) -> Option<Chunk<'_>> {
        let answer = Members::parse(body)?;
        let chunk = match self {
            Self::OllamaChat | Self::OllamaGenerate => ollama::read(&answer),
            Self::OpenAiChat | Self::OpenAiCompletion => openai::read_whole(&answer),
            Self::OpenAiResponse => responses::read_whole(&answer),
            Self::AnthropicMessage => anthropic::read_whole(&answer),
        };
        Some(chunk)
    }
}

/// The message of a failure, from an error's body or from inside a stream: a string, or the `message` of an object.
/// Ollama sends the string also over the protocols of OpenAI and Anthropic.
pub(crate) fn failure<'a>(of: &Members<'a>) -> Option<Cow<'a, str>> {
    let error = of.raw("error")?;
    let words = members::string(error).or_else(|| Members::of(error)?.string("message"));
    Some(words.unwrap_or(Cow::Borrowed("error without a message")))
}

/// Whether a response of a path without chat, such as `/api/embed`, has content: it is no failure and no empty list of
/// embeddings.
pub(crate) fn says_something(of: &Members<'_>) -> bool {
    let is_empty = |name: &&str| of.array(name).is_some_and(|list| list.is_empty());
    failure(of).is_none() && !["embeddings", "embedding", "data"].iter().any(is_empty)
}

/// The counts of a `usage` object; `None` when all are 0, as in a placeholder.
fn usage(of: &Members<'_>, prompt: &str, completion: &str) -> Option<Tokens> {
    let usage = of.object("usage")?;
    let tokens = Tokens {
        prompt: usage.number(prompt).unwrap_or(0),
        completion: usage.number(completion).unwrap_or(0),
    };
    (tokens != Tokens::default()).then_some(tokens)
}

/// The arguments of a call as JSON text. They come as a string with JSON or as a value.
pub(super) fn arguments(value: Option<&RawValue>) -> Cow<'_, str> {
    let Some(value) = value else { return Cow::Borrowed("") };
    members::string(value).unwrap_or_else(|| Cow::Borrowed(value.get()))
}

/// A string member that is not empty: some servers repeat empty ids and names.
fn filled<'a>(of: &Members<'a>, name: &str) -> Option<Cow<'a, str>> {
    of.string(name).filter(|text| !text.is_empty())
}

/// The index of a choice, call or block; 0 when it is absent.
fn index(of: &Members<'_>, name: &str) -> usize {
    of.number(name).and_then(|index| index.try_into().ok()).unwrap_or(0)
}

/// Appends a piece; the first piece is not copied.
fn append<'a>(whole: &mut Cow<'a, str>, piece: Cow<'a, str>) {
    if whole.is_empty() {
        *whole = piece;
    } else {
        whole.to_mut().push_str(&piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_no_object_is_an_error() {
        for protocol in [
            Protocol::OllamaChat,
            Protocol::OllamaGenerate,
            Protocol::OpenAiChat,
            Protocol::OpenAiCompletion,
            Protocol::OpenAiResponse,
            Protocol::AnthropicMessage,
        ] {
            for data in ["", "{", "[1]", "upstream error"] {
                assert!(protocol.read(data.as_bytes()).is_none(), "{protocol:?} {data}");
                assert!(protocol.read_whole(data.as_bytes()).is_none(), "{protocol:?} {data}");
            }
            let nothing = protocol.read(b"{}").unwrap();
            assert!(!nothing.end && nothing.error.is_none() && nothing.tokens.is_none());
            assert!(!protocol.read_whole(b"{}").unwrap().end);
        }
    }

    #[test]
    fn neither_a_failure_nor_an_empty_list_of_embeddings_says_something() {
        for (answer, expected) in [
            (r#"{"embeddings":[[0.1]],"model":"m"}"#, true),
            (r#"{"embedding":[0.1]}"#, true),
            (r#"{"object":"list","data":[{"embedding":[0.1]}]}"#, true),
            (r#"{"version":"0.12.0"}"#, true),
            (r#"{"embeddings":[],"model":"m"}"#, false),
            (r#"{"embedding":[ ]}"#, false),
            (r#"{"object":"list","data":[]}"#, false),
            (r#"{"error":"full"}"#, false),
        ] {
            assert_eq!(says_something(&Members::parse(answer.as_bytes()).unwrap()), expected, "{answer}");
        }
    }

    #[test]
    fn every_form_of_failure_is_understood_in_every_protocol() {
        for protocol in
            [Protocol::OllamaChat, Protocol::OpenAiChat, Protocol::OpenAiResponse, Protocol::AnthropicMessage]
        {
            for data in [
                r#"{"error":"full"}"#,
                r#"{"error":{"message":"full","type":"api_error","param":null,"code":null}}"#,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"full"},"request_id":"req_1"}"#,
            ] {
                for chunk in [protocol.read(data.as_bytes()), protocol.read_whole(data.as_bytes())] {
                    let chunk = chunk.unwrap();
                    assert_eq!(chunk.error.as_deref(), Some("full"), "{protocol:?} {data}");
                    assert!(!chunk.end);
                }
            }
        }
        assert!(Protocol::OllamaChat.read(br#"{"error":null}"#).unwrap().error.is_none());
        assert!(Protocol::OllamaChat.read(br#"{"error":{}}"#).unwrap().error.is_some());
    }
}
