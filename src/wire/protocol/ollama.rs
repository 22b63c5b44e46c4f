//! Reads Ollama's own answers (Ollama 0.33, `api/types.go`). A whole answer has the form of a stream's last line.

use super::{CallPiece, Chunk, Durations, arguments, failure, filled, index};
use crate::wire::{members::Members, tokens::Tokens};

/// Reads a line of `/api/chat` or `/api/generate`: both have the same fields, `/api/chat` some of them inside
/// `message`.
pub(super) fn read<'a>(line: &Members<'a>) -> Chunk<'a> {
    let message = line.object("message");
    let said = message.as_ref().unwrap_or(line);
    let text = if message.is_some() { "content" } else { "response" };
    let calls = said.array("tool_calls").unwrap_or_default();
    let end = line.boolean("done") == Some(true);
    Chunk {
        text: said.string(text).unwrap_or_default(),
        thinking: said.string("thinking").unwrap_or_default(),
        calls: calls.into_iter().filter_map(|call| call_piece(&Members::of(call)?)).collect(),
        finish: filled(line, "done_reason"),
        tokens: if end { tokens(line) } else { None },
        durations: end.then(|| Durations {
            total: line.number("total_duration").unwrap_or(0),
            load: line.number("load_duration").unwrap_or(0),
            prompt_eval: line.number("prompt_eval_duration").unwrap_or(0),
            eval: line.number("eval_duration").unwrap_or(0),
        }),
        end,
        error: failure(line),
        is_crash: false,
    }
}

fn call_piece<'a>(call: &Members<'a>) -> Option<CallPiece<'a>> {
    let function = call.object("function")?;
    Some(CallPiece {
        index: index(&function, "index"),
        id: filled(call, "id"),
        name: filled(&function, "name"),
        arguments: arguments(function.raw("arguments")),
    })
}

fn tokens(line: &Members<'_>) -> Option<Tokens> {
    let (prompt, completion) = (line.number("prompt_eval_count"), line.number("eval_count"));
    (prompt.is_some() || completion.is_some())
        .then(|| Tokens { prompt: prompt.unwrap_or(0), completion: completion.unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::wire::protocol::Protocol;

    fn chat(line: &str) -> Chunk<'_> {
        Protocol::OllamaChat.read(line.as_bytes()).unwrap()
    }

    #[test]
    fn a_line_is_a_piece_of_text_and_the_last_one_has_the_counts() {
        let chunk = chat(
            r#"{"model":"smollm2:135m","created_at":"2026-11-22T23:00:56.713838783Z","message":{"role":"assistant","content":" Paris"},"done":false}"#,
        );
        assert!(matches!(chunk.text, Cow::Borrowed(" Paris")));
        assert!(!chunk.end && chunk.tokens.is_none() && chunk.durations.is_none() && chunk.finish.is_none());
        let last = chat(
            r#"{"model":"smollm2:135m","created_at":"2026-11-22T23:00:56.751097495Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":139449198,"load_duration":1061295,"prompt_eval_count":19,"prompt_eval_duration":16347000,"eval_count":8,"eval_duration":119185000}"#,
        );
        assert!(last.end && last.text.is_empty() && last.error.is_none());
        assert_eq!(last.finish.as_deref(), Some("stop"));
        assert_eq!(last.tokens, Some(Tokens { prompt: 19, completion: 8 }));
        let durations =
            Durations { total: 139_449_198, load: 1_061_295, prompt_eval: 16_347_000, eval: 119_185_000 };
        assert_eq!(last.durations, Some(durations));
    }

    #[test]
    fn a_tool_call_comes_whole() {
        let chunk = chat(
            r#"{"model":"smollm2-tools:135m","created_at":"2026-11-22T23:01:04.493825265Z","message":{"role":"assistant","content":"","tool_calls":[{"id":"call_k5xbloqq","function":{"index":0,"name":"get_weather","arguments":{"city":"Paris"}}}]},"done":false}"#,
        );
        let call = CallPiece {
            index: 0,
            id: Some("call_k5xbloqq".into()),
            name: Some("get_weather".into()),
            arguments: r#"{"city":"Paris"}"#.into(),
        };
        assert_eq!(chunk.calls, [call]);
    }

    #[test]
    fn thinking_is_kept_apart_from_text() {
        let chunk = chat(
            r#"{"model":"smollm2-think:135m","created_at":"2026-11-22T23:01:06.580841165Z","message":{"role":"assistant","content":"","thinking":" France"},"done":false}"#,
        );
        assert_eq!((&*chunk.text, &*chunk.thinking), ("", " France"));
        let chunk =
            Protocol::OllamaGenerate.read(br#"{"response":"Yes","thinking":"hm","done":false}"#).unwrap();
        assert_eq!((&*chunk.text, &*chunk.thinking), ("Yes", "hm"));
    }

    #[test]
    fn a_dead_runner_says_so_and_does_not_end_the_answer() {
        let chunk = chat(r#"{"error":"an error was encountered while running the model: unexpected EOF"}"#);
        assert!(!chunk.end && chunk.error.is_some_and(|words| words.ends_with("unexpected EOF")));
    }

    #[test]
    fn a_whole_answer_is_complete_when_it_is_done() {
        let body = br#"{"model":"smollm2:135m","created_at":"2026-11-22T23:00:57.470980111Z","response":"The capital of France is Paris.","done":true,"done_reason":"stop","context":[1,4093],"total_duration":284208296,"load_duration":1239277,"prompt_eval_count":14,"prompt_eval_duration":150367000,"eval_count":8,"eval_duration":129418000}"#;
        let whole = Protocol::OllamaGenerate.read_whole(body).unwrap();
        assert!(whole.end && whole.text == "The capital of France is Paris.");
        assert_eq!(whole.tokens, Some(Tokens { prompt: 14, completion: 8 }));
        let loaded =
            br#"{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"load"}"#;
        let loaded = Protocol::OllamaChat.read_whole(loaded).unwrap();
        assert!(loaded.end && loaded.tokens.is_none() && loaded.finish.as_deref() == Some("load"));
        assert!(
            !Protocol::OllamaChat.read_whole(br#"{"message":{"content":"x"},"done":false}"#).unwrap().end
        );
    }
}
