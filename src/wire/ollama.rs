//! Ollama's `/api/chat` and `/api/tags`, as far as we touch them (Ollama 0.33, `api/types.go`).
//!
//! Responses leave fields out when they are zero or empty, so none is required.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::session::Message;

/// The body of a chat request.
#[derive(Debug, Serialize)]
pub struct ChatRequest<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The conversation.
    pub messages: &'a [&'a Message],
    /// Whether the answer comes in chunks.
    pub stream: bool,
}

/// One chunk of a streamed answer, or a whole answer.
#[derive(Debug, Default, Deserialize)]
pub struct ChatChunk<'a> {
    /// What the model says.
    #[serde(borrow, default)]
    pub message: ChunkMessage<'a>,
    /// Whether this is the last chunk. Nothing else tells that an answer is complete.
    #[serde(default)]
    pub done: bool,
    /// The runner failed; no chunk follows.
    #[serde(borrow)]
    pub error: Option<Cow<'a, str>>,
    /// Tokens of the prompt; on the last chunk alone.
    #[serde(default)]
    pub prompt_eval_count: u64,
    /// Tokens of the answer; on the last chunk alone.
    #[serde(default)]
    pub eval_count: u64,
}

/// What the model says in one chunk.
#[derive(Debug, Default, Deserialize)]
pub struct ChunkMessage<'a> {
    /// A piece of the reply.
    #[serde(borrow, default)]
    pub content: Cow<'a, str>,
}

/// The body of an error.
#[derive(Debug, Deserialize)]
pub struct ErrorBody {
    /// Ollama's words.
    pub error: String,
}

/// The models of one host.
#[derive(Debug, Default, Deserialize)]
pub struct Tags {
    /// Its models, newest first.
    #[serde(default)]
    pub models: Vec<TaggedModel>,
}

/// One model of a host.
#[derive(Debug, Deserialize)]
pub struct TaggedModel {
    /// The full stored name, with its tag.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Role;

    #[test]
    fn recorded_chunks_are_understood() {
        let chunk: ChatChunk<'_> = serde_json::from_str(
            r#"{"model":"smollm2:135m","created_at":"2026-11-22T23:00:56.6Z","message":{"role":"assistant","content":" Paris"},"done":false}"#,
        )
        .unwrap();
        assert!(matches!(chunk.message.content, Cow::Borrowed(" Paris")));
        let last: ChatChunk<'_> = serde_json::from_str(
            r#"{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":19,"eval_count":8}"#,
        )
        .unwrap();
        assert!(last.done && last.prompt_eval_count == 19 && last.eval_count == 8);
        let failed: ChatChunk<'_> = serde_json::from_str(
            r#"{"error":"an error was encountered while running the model: unexpected EOF"}"#,
        )
        .unwrap();
        assert!(failed.error.is_some() && !failed.done);
    }

    #[test]
    fn a_request_holds_what_ollama_reads() {
        let message = Message::new(Role::User, "hi");
        let request = ChatRequest { model: "m", messages: &[&message], stream: true };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#
        );
    }
}
