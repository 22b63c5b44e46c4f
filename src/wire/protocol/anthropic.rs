//! Reads answers of `/v1/messages` (Ollama 0.33, `anthropic/anthropic.go`).

use std::borrow::Cow;

use super::{CallPiece, Chunk, append, arguments, failure, filled, index, usage};
use crate::wire::members::Members;

/// Reads an event of a stream. The counts of `message_start` are an estimate and are ignored.
pub(super) fn read<'a>(event: &Members<'a>) -> Chunk<'a> {
    let mut chunk = Chunk { error: failure(event), ..Chunk::default() };
    let index = index(event, "index");
    match event.string("type").as_deref() {
        // The input of a call that starts here is an empty placeholder; deltas bring it.
        Some("content_block_start") => {
            if let Some(block) = event.object("content_block") {
                add_block(&mut chunk, &block, index, |_| Cow::Borrowed(""));
            }
        }
        Some("content_block_delta") => {
            if let Some(delta) = event.object("delta") {
                chunk.text = delta.string("text").unwrap_or_default();
                chunk.thinking = delta.string("thinking").unwrap_or_default();
                let piece = delta.string("partial_json");
                chunk.calls.extend(piece.map(|arguments| CallPiece {
                    index,
                    arguments,
                    ..CallPiece::default()
                }));
            }
        }
        Some("message_delta") => {
            chunk.finish = event.object("delta").and_then(|delta| filled(&delta, "stop_reason"));
            chunk.tokens = usage(event, "input_tokens", "output_tokens");
        }
        Some("message_stop") => chunk.end = true,
        Some("error") if chunk.error.is_none() => chunk.error = Some("error".into()),
        _ => {}
    }
    chunk
}

/// Reads an answer that is not streamed.
pub(super) fn read_whole<'a>(answer: &Members<'a>) -> Chunk<'a> {
    let content = answer.array("content");
    let mut chunk = Chunk {
        finish: filled(answer, "stop_reason"),
        tokens: usage(answer, "input_tokens", "output_tokens"),
        error: failure(answer),
        ..Chunk::default()
    };
    // The content of an empty answer is `null`; Ollama leaves the reason out where the answer did not end by itself.
    chunk.end = chunk.finish.is_some() && chunk.error.is_none();
    for (index, block) in content.unwrap_or_default().into_iter().enumerate() {
        if let Some(block) = Members::of(block) {
            add_block(&mut chunk, &block, index, |block| arguments(block.raw("input")));
        }
    }
    chunk
}

fn add_block<'a>(
    chunk: &mut Chunk<'a>,
    block: &Members<'a>,
    index: usize,
    arguments: fn(&Members<'a>) -> Cow<'a, str>,
) {
    match block.string("type").as_deref() {
        Some("text") => append(&mut chunk.text, block.string("text").unwrap_or_default()),
        Some("thinking") => append(&mut chunk.thinking, block.string("thinking").unwrap_or_default()),
        Some("tool_use") => chunk.calls.push(CallPiece {
            index,
            id: filled(block, "id"),
            name: filled(block, "name"),
            arguments: arguments(block),
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{protocol::Protocol, tokens::Tokens};

    fn event(data: &str) -> Chunk<'_> {
        Protocol::AnthropicMessage.read(data.as_bytes()).unwrap()
    }

    #[test]
    fn a_stream_counts_at_its_end_and_not_at_its_start() {
        let start = event(
            r#"{"type":"message_start","message":{"id":"msg_b1733ef2c04d09fe75587a6d","type":"message","role":"assistant","model":"smollm2:135m","content":[],"usage":{"input_tokens":12,"output_tokens":0}}}"#,
        );
        assert!(start.tokens.is_none() && !start.end);
        assert_eq!(
            event(r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#)
                .text,
            ""
        );
        let delta = event(
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" capital"}}"#,
        );
        assert!(matches!(delta.text, Cow::Borrowed(" capital")));
        let delta = event(
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":19,"output_tokens":8}}"#,
        );
        assert_eq!(delta.tokens, Some(Tokens { prompt: 19, completion: 8 }));
        assert!(delta.finish.as_deref() == Some("end_turn") && !delta.end);
        assert!(event(r#"{"type":"message_stop"}"#).end);
    }

    #[test]
    fn calls_and_thinking_come_in_deltas() {
        let start = event(
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"get_weather","input":{}}}"#,
        );
        let call = CallPiece {
            index: 1,
            id: Some("toolu_1".into()),
            name: Some("get_weather".into()),
            arguments: "".into(),
        };
        assert_eq!(start.calls, [call]);
        let delta = event(
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"city\":"}}"#,
        );
        assert_eq!(
            delta.calls,
            [CallPiece { index: 1, arguments: "{\"city\":".into(), ..CallPiece::default() }]
        );
        let delta = event(
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
        );
        assert!(delta.thinking == "hm" && delta.text.is_empty());
        let delta = event(
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"x"}}"#,
        );
        assert!(delta.thinking.is_empty() && delta.text.is_empty());
    }

    #[test]
    fn a_failure_in_band_is_an_error_and_no_end() {
        let chunk = event(r#"{"type":"error","error":{"type":"overloaded_error","message":"server busy"}}"#);
        assert!(chunk.error.as_deref() == Some("server busy") && !chunk.end);
        assert!(event(r#"{"type":"error"}"#).error.is_some());
    }

    #[test]
    fn a_whole_answer_joins_its_blocks() {
        let body = br#"{"id":"msg_14ae24643855d2b8bd04ebc9","type":"message","role":"assistant","model":"smollm2-think:135m","content":[{"type":"thinking","thinking":"Paris, France"},{"type":"text","text":"Sunny"},{"type":"tool_use","id":"toolu_1","name":"f","input":{"a": 1}}],"stop_reason":"max_tokens","usage":{"input_tokens":20,"output_tokens":12}}"#;
        let whole = Protocol::AnthropicMessage.read_whole(body).unwrap();
        assert!(whole.end && whole.thinking == "Paris, France" && whole.text == "Sunny");
        assert_eq!(whole.calls[0].arguments, "{\"a\": 1}");
        assert_eq!(whole.finish.as_deref(), Some("max_tokens"));
        assert_eq!(whole.tokens, Some(Tokens { prompt: 20, completion: 12 }));
    }
}
