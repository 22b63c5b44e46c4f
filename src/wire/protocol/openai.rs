//! Reads answers of `/v1/chat/completions` and `/v1/completions` (Ollama 0.33, `openai/openai.go`).

use super::{CallPiece, Chunk, arguments, failure, filled, index, usage};
use crate::wire::members::Members;

/// Reads an event of a stream. The terminator `[DONE]` is no JSON and is handled by the caller.
pub(super) fn read<'a>(event: &Members<'a>) -> Chunk<'a> {
    let choice = first_choice(event);
    let mut chunk = choice.as_ref().map(|choice| said(choice, "delta")).unwrap_or_default();
    chunk.tokens = usage(event, "prompt_tokens", "completion_tokens");
    chunk.error = failure(event);
    chunk.is_crash = chunk.text.is_empty()
        && chunk.thinking.is_empty()
        && event.string("model").is_some_and(|model| model.is_empty());
    chunk
}

/// Reads an answer that is not streamed.
pub(super) fn read_whole<'a>(answer: &Members<'a>) -> Chunk<'a> {
    let choice = first_choice(answer);
    let mut chunk = choice.as_ref().map(|choice| said(choice, "message")).unwrap_or_default();
    chunk.tokens = usage(answer, "prompt_tokens", "completion_tokens");
    chunk.error = failure(answer);
    // Ollama writes `null` where it does not know why the answer ended.
    let is_finished = |choice: &Members<'_>| chunk.finish.is_some() || !choice.has("finish_reason");
    chunk.end = chunk.error.is_none() && choice.is_some_and(|choice| is_finished(&choice));
    chunk
}

fn first_choice<'a>(of: &Members<'a>) -> Option<Members<'a>> {
    let choices = of.array("choices")?;
    choices.into_iter().filter_map(Members::of).find(|choice| index(choice, "index") == 0)
}

/// The content of a choice: chat has it in `message` or `delta`, completion in `text`.
fn said<'a>(choice: &Members<'a>, message: &str) -> Chunk<'a> {
    let finish = filled(choice, "finish_reason");
    let Some(message) = choice.object(message) else {
        return Chunk { text: choice.string("text").unwrap_or_default(), finish, ..Chunk::default() };
    };
    let calls = message.array("tool_calls").unwrap_or_default();
    let thinking = message.string("reasoning").or_else(|| message.string("reasoning_content"));
    Chunk {
        text: message.string("content").unwrap_or_default(),
        thinking: thinking.unwrap_or_default(),
        calls: calls.into_iter().filter_map(|call| Some(call_piece(&Members::of(call)?))).collect(),
        finish,
        ..Chunk::default()
    }
}

fn call_piece<'a>(call: &Members<'a>) -> CallPiece<'a> {
    let function = call.object("function");
    CallPiece {
        index: index(call, "index"),
        id: filled(call, "id"),
        name: function.as_ref().and_then(|function| filled(function, "name")),
        arguments: arguments(function.and_then(|function| function.raw("arguments"))),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::wire::{protocol::Protocol, tokens::Tokens};

    fn chat(data: &str) -> Chunk<'_> {
        Protocol::OpenAiChat.read(data.as_bytes()).unwrap()
    }

    #[test]
    fn a_stream_is_text_then_a_reason_then_usage_then_done() {
        let chunk = chat(
            r#"{"id":"chatcmpl-777","object":"chat.completion.chunk","created":1795388460,"model":"smollm2:135m","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"content":" is"},"finish_reason":null}]}"#,
        );
        assert!(matches!(chunk.text, Cow::Borrowed(" is")));
        assert!(chunk.finish.is_none() && chunk.tokens.is_none() && !chunk.end);
        let chunk = chat(
            r#"{"id":"chatcmpl-422","object":"chat.completion.chunk","created":1795388467,"model":"smollm2-think:135m","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#,
        );
        assert!(chunk.finish.as_deref() == Some("length") && !chunk.end);
        let chunk = chat(
            r#"{"id":"chatcmpl-672","object":"chat.completion.chunk","created":1795388466,"model":"smollm2-tools:135m","system_fingerprint":"fp_ollama","choices":[],"usage":{"prompt_tokens":102,"completion_tokens":24,"total_tokens":126}}"#,
        );
        assert!(chunk.tokens == Some(Tokens { prompt: 102, completion: 24 }) && !chunk.end);
        assert!(chat("[DONE]").end);
        assert!(Protocol::OllamaChat.read(b"[DONE]").is_none());
    }

    #[test]
    fn the_chunk_of_a_dead_runner_is_empty_and_no_end() {
        let chunk = chat(
            r#"{"id":"chatcmpl-822","object":"chat.completion.chunk","created":1795387481,"model":"","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"content":""},"finish_reason":null}]}"#,
        );
        assert!(chunk.text.is_empty() && chunk.finish.is_none() && !chunk.end && chunk.error.is_none());
    }

    #[test]
    fn calls_and_reasoning_come_in_pieces() {
        let chunk = chat(
            r#"{"id":"chatcmpl-672","object":"chat.completion.chunk","created":1795388466,"model":"smollm2-tools:135m","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":"","tool_calls":[{"id":"call_mb2lscpz","index":0,"type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Paris\"}"}}]},"finish_reason":null}]}"#,
        );
        let call = CallPiece {
            index: 0,
            id: Some("call_mb2lscpz".into()),
            name: Some("get_weather".into()),
            arguments: r#"{"city":"Paris"}"#.into(),
        };
        assert_eq!(chunk.calls, [call]);
        let chunk = chat(
            r#"{"choices":[{"index":0,"delta":{"content":null,"tool_calls":[{"index":1,"id":"","function":{"arguments":"{\"ci"}}]}}]}"#,
        );
        assert_eq!(chunk.calls, [CallPiece { index: 1, arguments: "{\"ci".into(), ..CallPiece::default() }]);
        let chunk = chat(
            r#"{"id":"chatcmpl-422","object":"chat.completion.chunk","created":1795388467,"model":"smollm2-think:135m","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"content":"","reasoning":" France"},"finish_reason":null}]}"#,
        );
        assert_eq!(chunk.thinking, " France");
        assert_eq!(chat(r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#).thinking, "hm");
    }

    #[test]
    fn of_several_choices_the_first_one_counts() {
        assert_eq!(
            chat(r#"{"choices":[{"index":1,"delta":{"content":"b"}},{"index":0,"delta":{"content":"a"}}]}"#)
                .text,
            "a"
        );
        assert_eq!(chat(r#"{"choices":[{"index":1,"delta":{"content":"b"}}]}"#).text, "");
    }

    #[test]
    fn the_zero_usage_of_a_completion_is_a_placeholder() {
        let piece = br#"{"id":"cmpl-70","object":"text_completion","created":1795388461,"choices":[{"text":"","index":0,"finish_reason":"stop"}],"model":"smollm2:135m","system_fingerprint":"fp_ollama","usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#;
        let chunk = Protocol::OpenAiCompletion.read(piece).unwrap();
        assert!(chunk.tokens.is_none() && chunk.finish.as_deref() == Some("stop"));
        let usage = br#"{"id":"cmpl-70","object":"text_completion","created":1795388461,"choices":[],"model":"smollm2:135m","system_fingerprint":"fp_ollama","usage":{"prompt_tokens":14,"completion_tokens":3,"total_tokens":17}}"#;
        assert_eq!(
            Protocol::OpenAiCompletion.read(usage).unwrap().tokens,
            Some(Tokens { prompt: 14, completion: 3 })
        );
    }

    #[test]
    fn a_whole_answer_is_complete_when_it_has_a_choice() {
        let body = br#"{"id":"chatcmpl-245","object":"chat.completion","created":1795388467,"model":"smollm2-think:135m","system_fingerprint":"fp_ollama","choices":[{"index":0,"message":{"role":"assistant","content":"","reasoning":"Paris, France"},"finish_reason":"length"}],"usage":{"prompt_tokens":20,"completion_tokens":12,"total_tokens":32}}"#;
        let whole = Protocol::OpenAiChat.read_whole(body).unwrap();
        assert!(whole.end && whole.thinking == "Paris, France" && whole.finish.as_deref() == Some("length"));
        let body = br#"{"id":"cmpl-947","object":"text_completion","created":1795388461,"model":"smollm2:135m","system_fingerprint":"fp_ollama","choices":[{"text":"Yes.","index":0,"finish_reason":"stop"}],"usage":{"prompt_tokens":14,"completion_tokens":3,"total_tokens":17}}"#;
        let whole = Protocol::OpenAiCompletion.read_whole(body).unwrap();
        assert!(whole.end && whole.text == "Yes." && whole.tokens.is_some());
    }
}
