//! Reads answers of `/v1/responses` (Ollama 0.33, `openai/responses.go`).

use super::{CallPiece, Chunk, append, arguments, failure, filled, index, usage};
use crate::wire::{members::Members, repetition::is_repeated};

/// Reads an event of a stream. The last event repeats the whole answer; that text is not added again.
pub(super) fn read<'a>(event: &Members<'a>) -> Chunk<'a> {
    let kind = event.string("type").unwrap_or_default();
    let delta = || event.string("delta").unwrap_or_default();
    let index = index(event, "output_index");
    match &*kind {
        "response.output_text.delta" => Chunk { text: delta(), ..Chunk::default() },
        "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
            Chunk { thinking: delta(), ..Chunk::default() }
        }
        "response.output_item.added" => {
            let call = event.object("item").and_then(|item| call_piece(&item, index));
            Chunk { calls: call.into_iter().collect(), ..Chunk::default() }
        }
        "response.function_call_arguments.delta" => {
            let call = CallPiece { index, arguments: delta(), ..CallPiece::default() };
            Chunk { calls: vec![call], ..Chunk::default() }
        }
        "response.completed" | "response.incomplete" | "response.failed" => {
            let response = event.object("response");
            let mut chunk = response.as_ref().map(outcome).unwrap_or_default();
            if kind == "response.failed" && chunk.error.is_none() {
                chunk.error = Some("response.failed".into());
            }
            chunk.end = chunk.error.is_none();
            chunk
        }
        "error" => {
            let error = failure(event).or_else(|| event.string("message"));
            Chunk { error: error.or_else(|| Some("error".into())), ..Chunk::default() }
        }
        _ => Chunk { error: failure(event), ..Chunk::default() },
    }
}

/// Reads an answer that is not streamed.
pub(super) fn read_whole<'a>(answer: &Members<'a>) -> Chunk<'a> {
    let mut chunk = outcome(answer);
    let output = answer.array("output");
    chunk.end = output.is_some() && chunk.error.is_none() && chunk.finish.as_deref() != Some("failed");
    for (index, item) in output.unwrap_or_default().into_iter().enumerate() {
        let Some(item) = Members::of(item) else { continue };
        chunk.calls.extend(call_piece(&item, index));
        let parts = ["content", "summary"].into_iter().filter_map(|name| item.array(name)).flatten();
        for part in parts.filter_map(Members::of) {
            let text = part.string("text").unwrap_or_default();
            match part.string("type").as_deref() {
                Some("output_text") => append(&mut chunk.text, text),
                Some("summary_text" | "reasoning_text") => append(&mut chunk.thinking, text),
                _ => {}
            }
        }
    }
    // An answer that Ollama ended early is called completed as well, but nothing of it is counted.
    chunk.end &= chunk.tokens.is_some() || !is_repeated(&chunk);
    chunk
}

/// The end of an answer: `incomplete_details.reason` where it has one, else its status.
fn outcome<'a>(response: &Members<'a>) -> Chunk<'a> {
    let reason = response.object("incomplete_details").and_then(|details| filled(&details, "reason"));
    Chunk {
        finish: reason.or_else(|| filled(response, "status")),
        tokens: usage(response, "input_tokens", "output_tokens"),
        error: failure(response),
        ..Chunk::default()
    }
}

fn call_piece<'a>(item: &Members<'a>, index: usize) -> Option<CallPiece<'a>> {
    (item.string("type").as_deref() == Some("function_call")).then(|| CallPiece {
        index,
        id: filled(item, "call_id"),
        name: filled(item, "name"),
        arguments: arguments(item.raw("arguments")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{protocol::Protocol, tokens::Tokens};

    fn event(data: &str) -> Chunk<'_> {
        Protocol::OpenAiResponse.read(data.as_bytes()).unwrap()
    }

    #[test]
    fn text_comes_in_deltas_and_is_not_read_twice() {
        let chunk = event(
            r#"{"content_index":0,"delta":"France","item_id":"msg_388902","logprobs":[],"output_index":0,"sequence_number":4,"type":"response.output_text.delta"}"#,
        );
        assert!(chunk.text == "France" && !chunk.end);
        for repeated in [
            r#"{"response":{"error":null,"status":"in_progress","usage":null},"sequence_number":0,"type":"response.created"}"#,
            r#"{"content_index":0,"item_id":"msg_388902","logprobs":[],"output_index":0,"sequence_number":12,"text":"France, officially the French Republic, is","type":"response.output_text.done"}"#,
            r#"{"item":{"content":[{"annotations":[],"logprobs":[],"text":"France","type":"output_text"}],"id":"msg_388902","role":"assistant","status":"completed","type":"message"},"output_index":0,"sequence_number":14,"type":"response.output_item.done"}"#,
        ] {
            let chunk = event(repeated);
            assert!(chunk.text.is_empty() && !chunk.end && chunk.error.is_none() && chunk.finish.is_none());
        }
        let last = event(
            r#"{"response":{"error":null,"incomplete_details":null,"output":[{"content":[{"text":"France","type":"output_text"}],"type":"message"}],"status":"completed","usage":{"input_tokens":18,"output_tokens":8,"total_tokens":26}},"sequence_number":15,"type":"response.completed"}"#,
        );
        assert!(last.end && last.text.is_empty() && last.finish.as_deref() == Some("completed"));
        assert_eq!(last.tokens, Some(Tokens { prompt: 18, completion: 8 }));
    }

    #[test]
    fn calls_and_reasoning_come_in_deltas() {
        let chunk =
            event(r#"{"type":"response.reasoning_summary_text.delta","delta":"hm","output_index":0}"#);
        assert_eq!(chunk.thinking, "hm");
        let chunk = event(
            r#"{"type":"response.output_item.added","output_index":1,"item":{"id":"fc_1","type":"function_call","call_id":"call_1","name":"get_weather","arguments":""}}"#,
        );
        let call = CallPiece {
            index: 1,
            id: Some("call_1".into()),
            name: Some("get_weather".into()),
            arguments: "".into(),
        };
        assert_eq!(chunk.calls, [call]);
        let chunk =
            event(r#"{"type":"response.function_call_arguments.delta","output_index":1,"delta":"{}"}"#);
        assert_eq!(chunk.calls, [CallPiece { index: 1, arguments: "{}".into(), ..CallPiece::default() }]);
    }

    #[test]
    fn a_cut_answer_is_complete_and_a_failed_one_is_not() {
        let chunk = event(
            r#"{"type":"response.incomplete","response":{"status":"incomplete","incomplete_details":{"reason":"max_output_tokens"}}}"#,
        );
        assert!(chunk.end && chunk.finish.as_deref() == Some("max_output_tokens"));
        let chunk = event(
            r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error","message":"gone"}}}"#,
        );
        assert!(!chunk.end && chunk.error.as_deref() == Some("gone"));
        assert!(event(r#"{"type":"response.failed"}"#).error.is_some());
        assert_eq!(event(r#"{"type":"error","code":"x","message":"gone"}"#).error.as_deref(), Some("gone"));
    }

    #[test]
    fn a_whole_answer_joins_its_items() {
        let body = br#"{"id":"resp_385610","object":"response","status":"completed","incomplete_details":null,"output":[{"id":"rs_1","type":"reasoning","summary":[{"type":"summary_text","text":"hm"}]},{"id":"msg_386367","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"France, ","annotations":[],"logprobs":[]},{"type":"output_text","text":"officially"}]},{"type":"function_call","call_id":"call_1","name":"f","arguments":"{\"a\":1}"}],"error":null,"usage":{"input_tokens":18,"output_tokens":24,"total_tokens":42}}"#;
        let whole = Protocol::OpenAiResponse.read_whole(body).unwrap();
        assert!(whole.end && whole.text == "France, officially" && whole.thinking == "hm");
        assert_eq!(whole.calls.len(), 1);
        assert_eq!(whole.tokens, Some(Tokens { prompt: 18, completion: 24 }));
    }
}
