//! Types of Ollama's API beside the answers (Ollama 0.33, `api/types.go`), as far as Paddock writes them.
//!
//! Ollama leaves out fields that are zero or empty, so a reader requires none.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::dialect::RawMessage;

/// About how long the names of a chat request's members are together, in bytes.
const NAMES: usize = 128;

/// The body of a chat request.
#[derive(Debug, Serialize)]
pub(crate) struct OllamaChatRequest<'a> {
    /// The model's name.
    pub(crate) model: &'a str,
    /// The conversation.
    pub(crate) messages: &'a [RawMessage],
    /// Whether the answer is streamed.
    pub(crate) stream: bool,
    /// The required format of the answer: `"json"` or a schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<&'a RawValue>,
    /// The runner options.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) options: Option<&'a RawValue>,
    /// Whether and how hard the model thinks before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) think: Option<&'a RawValue>,
    /// The tools that the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tools: Option<&'a RawValue>,
    /// How long the model stays loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keep_alive: Option<&'a RawValue>,
}

impl OllamaChatRequest<'_> {
    /// The request as JSON.
    pub(crate) fn to_json(&self) -> Bytes {
        let members = [self.format, self.options, self.think, self.tools, self.keep_alive];
        let members: usize = members.into_iter().flatten().map(|value| value.get().len()).sum();
        let messages: usize = self.messages.iter().map(|message| message.len() + 1).sum();
        // Images make a request large, so its memory is taken once and at its size.
        let mut json = Vec::with_capacity(NAMES + self.model.len() + members + messages);
        // Serialising to memory cannot fail.
        let _ = serde_json::to_writer(&mut json, self);
        json.into()
    }
}

/// A message that Paddock writes itself.
#[derive(Debug, Serialize)]
pub(crate) struct OllamaMessage<'a> {
    /// The role.
    pub(crate) role: &'static str,
    /// The text.
    pub(crate) content: &'a str,
    /// Images in base64.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(crate) images: &'a [Cow<'a, str>],
}

impl OllamaMessage<'_> {
    /// The message as JSON.
    pub(crate) fn message(&self) -> RawMessage {
        // Serialising strings cannot fail.
        to_raw_value(self).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_holds_what_ollama_reads() {
        let message = OllamaMessage { role: "user", content: "hi", images: &[] }.message();
        let request = OllamaChatRequest {
            model: "m",
            messages: &[message],
            stream: true,
            format: None,
            options: None,
            think: None,
            tools: None,
            keep_alive: None,
        };
        assert_eq!(
            request.to_json(),
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#
        );
    }
}
