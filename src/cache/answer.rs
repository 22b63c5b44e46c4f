//! A complete answer that `/chat` added up from its chunks, stored in the format of Ollama's `/api/chat`.

use serde::Serialize;

use crate::wire::{
    dialect::{Dialect, RawMessage},
    protocol::{Durations, Protocol},
    spoken::Spoken,
    tokens::Tokens,
};

/// A complete answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CachedAnswer {
    /// Text, thinking and tool calls.
    pub(crate) spoken: Spoken,
    /// Tokens as Ollama counted them.
    pub(crate) tokens: Tokens,
    /// How long Ollama took.
    pub(crate) durations: Durations,
}

/// The members of a stored answer, as Ollama writes them.
#[derive(Serialize)]
struct Written<'a> {
    message: RawMessage,
    done: bool,
    done_reason: Option<&'a str>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: u64,
    prompt_eval_duration: u64,
    eval_count: u64,
    eval_duration: u64,
}

impl CachedAnswer {
    /// An answer with its counts.
    pub(crate) fn new(spoken: Spoken, tokens: Tokens, durations: Durations) -> Self {
        Self { spoken, tokens, durations }
    }

    /// Reads what [`CachedAnswer::to_json`] wrote; `None` for anything else.
    pub(crate) fn from_json(json: &[u8]) -> Option<Self> {
        let chunk = Protocol::OllamaChat.read_whole(json).filter(|chunk| chunk.end)?;
        let mut spoken = Spoken::default();
        spoken.add(&chunk);
        Some(Self::new(spoken, chunk.tokens.unwrap_or_default(), chunk.durations.unwrap_or_default()))
    }

    /// The answer in the format of Ollama's `/api/chat`.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let Self { spoken, tokens, durations } = self;
        let written = Written {
            message: self.message(Dialect::Ollama),
            done: true,
            done_reason: spoken.finish.as_deref(),
            total_duration: durations.total,
            load_duration: durations.load,
            prompt_eval_count: tokens.prompt,
            prompt_eval_duration: durations.prompt_eval,
            eval_count: tokens.completion,
            eval_duration: durations.eval,
        };
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// Whether the answer has neither text nor tool calls, so that it is not kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.spoken.is_empty()
    }

    /// The answer as a message of the assistant.
    pub(crate) fn message(&self, dialect: Dialect) -> RawMessage {
        self.spoken.message(dialect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let line = br#"{"message":{"content":"a\n\"","thinking":"hm","tool_calls":[{"id":"c","function":{"index":0,"name":"f","arguments":{"x": 1}}}]},"done":true,"done_reason":"stop","total_duration":4,"load_duration":3,"prompt_eval_count":7,"prompt_eval_duration":2,"eval_count":9,"eval_duration":1}"#;
        let answer = CachedAnswer::from_json(line).unwrap();
        assert_eq!((answer.spoken.text.as_str(), answer.spoken.calls.len()), ("a\n\"", 1));
        assert_eq!((answer.tokens, answer.durations.total), (Tokens { prompt: 7, completion: 9 }, 4));
        assert_eq!(CachedAnswer::from_json(&answer.to_json()), Some(answer));
    }
}
