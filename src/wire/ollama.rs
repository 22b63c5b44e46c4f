//! Ollama's API beside the answers of models, as far as we touch it (Ollama 0.33, `api/types.go`).
//!
//! Responses leave fields out when they are zero or empty, so none is required.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::dialect::RawMessage;

/// The body of a chat request.
#[derive(Debug, Serialize)]
pub struct OllamaChatRequest<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The conversation.
    pub messages: &'a [RawMessage],
    /// Whether the answer comes in chunks.
    pub stream: bool,
    /// The form that the answer must have: `"json"` or a schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<&'a RawValue>,
    /// The options of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options: Option<&'a RawValue>,
    /// Whether and how hard the model thinks first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<&'a RawValue>,
    /// The tools that the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<&'a RawValue>,
    /// How long the model stays loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<&'a RawValue>,
}

/// A message of a conversation, to be written.
#[derive(Debug, Serialize)]
pub struct OllamaMessage<'a> {
    /// Who says it.
    pub role: &'static str,
    /// What is said.
    pub content: &'a str,
    /// Images in base64.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub images: &'a [Cow<'a, str>],
}

impl OllamaMessage<'_> {
    /// The message as it goes over the wire.
    pub fn message(&self) -> RawMessage {
        // Strings alone: writing them cannot fail.
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
            serde_json::to_string(&request).unwrap(),
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#
        );
    }
}
