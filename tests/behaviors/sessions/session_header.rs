//! Memory for clients that keep none, on every surface of chats: `X-Paddock-Session`.

use serde_json::Value;

use crate::behaviors::{prelude::*, surfaces};

const OPENAI: &str = "/v1/chat/completions";
const ANTHROPIC: &str = "/v1/messages";
/// The surfaces of Ollama's that can have a session, with a recorded stream of each.
const SURFACES: [(&str, &str); 3] =
    [(CHAT, "08-chat-stream"), (OPENAI, "24-v1-chat-stream"), (ANTHROPIC, "33-v1-messages-stream")];
/// Those and our own.
const ALL: [&str; 4] = ["/chat", CHAT, OPENAI, ANTHROPIC];
const IMAGE: &str = "iVBORw0KGgo=";

/// Where a question on this path goes.
fn upstream(path: &str) -> &str {
    if path == "/chat" { CHAT } else { path }
}

/// A question of one message, in the words of the path.
fn question(path: &str, message: Value, stream: bool) -> Value {
    if path == "/chat" {
        let mut body = message;
        body["message"] = body["content"].take();
        body["stream"] = stream.into();
        return body;
    }
    json!({"model": "llama3.2", "max_tokens": 64, "stream": stream, "messages": [message]})
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// What Ollama was asked last.
fn asked(ollama: &FakeOllama) -> Value {
    surfaces::questions(ollama).last().map(Recorded::json).unwrap_or_default()
}

fn messages(body: &Value) -> Vec<Value> {
    body["messages"].as_array().cloned().unwrap_or_default()
}

async fn the_turns_before_go_ahead_and_every_other_byte_stays(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, _) in SURFACES {
        for stream in [false, true] {
            let session = [("x-paddock-session", &*format!("{path} {stream}"))];
            let start = format!(r#" {{ "max_tokens":64, "x": 1.50,"stream":{stream},"messages" : [ "#);
            let end = r#" ] ,"model":"llama3.2", "y":"\u00e9" }"#;
            let said = [r#"{"content":"on\u0065",  "role":"user"}"#, r#"{"role":"user","content":"two"}"#];
            let mut ahead = String::new();
            for (turn, message) in said.into_iter().enumerate() {
                let body = format!("{start}{message}{end}");
                let reply = gateway.request(Method::POST, path, body, &session).await?;
                assert_eq!(reply.status, 200, "{path}: {}", reply.text());
                // The head of a stream is older than its answer.
                let status = if stream { "" } else { "stored" };
                assert_eq!(reply.header("x-session"), status, "{path}");
                let sent = surfaces::questions(&ollama).pop().map(|asked| asked.body).unwrap_or_default();
                assert_eq!(String::from_utf8_lossy(&sent), format!("{start}{ahead}{message}{end}"), "{path}");
                let word = ["one", "two"][turn];
                let answer = format!("echo of {word} #{}", ollama.count(path));
                ahead = format!(r#"{ahead}{message},{{"role":"assistant","content":"{answer}"}},"#);
            }
        }
    }
    Ok(())
}

async fn a_stream_says_in_its_last_event_that_its_turn_is_stored_and_keeps_every_other_byte(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_ENABLED", "false")).await?;
    for (path, recorded) in SURFACES {
        let body = question(path, user("one"), true);
        ollama.next(path, Scripted::recorded(recorded)?);
        let plain = gateway.post_to(path, body.clone(), &[]).await?.text();
        ollama.next(path, Scripted::recorded(recorded)?);
        let told = gateway.post_to(path, body, &[("x-paddock-session", path)]).await?.text();
        let expected = if path == CHAT {
            let line = plain.trim_end().strip_suffix('}').context("no object")?;
            format!("{line},\"session\":\"stored\"}}\n")
        } else {
            let (events, last) = plain.trim_end().rsplit_once("\n\n").context("one event alone")?;
            format!("{events}\n\n: x-session stored\n\n{last}\n\n")
        };
        assert_eq!(told, expected, "{path}");
        // A history of one's own is no turn of the session.
        let mut own = question(path, user("a"), true);
        own["messages"] = json!([user("a"), {"role": "assistant", "content": "b"}, user("c")]);
        let told = gateway.post_to(path, own, &[("x-paddock-session", path)]).await?.text();
        assert!(!told.contains("session"), "{path}: {told}");
    }
    Ok(())
}

/// A picture with words, in the words of the path.
fn picture(path: &str, text: &str) -> Value {
    let part = json!({"type": "text", "text": text});
    match path {
        OPENAI => {
            let url = format!("data:image/png;base64,{IMAGE}");
            json!({"role": "user", "content": [part, {"type": "image_url", "image_url": {"url": url}}]})
        }
        ANTHROPIC => {
            let source = json!({"type": "base64", "media_type": "image/png", "data": IMAGE});
            json!({"role": "user", "content": [part, {"type": "image", "source": source}]})
        }
        _ => json!({"role": "user", "content": text, "images": [IMAGE]}),
    }
}

/// Runs a behaviour on every pair of surfaces, the first streamed and not, each time in a session of its own.
async fn on_every_pair(
    form: &dyn Form,
    first: impl Fn(&FakeOllama, &str, bool) -> Result<Value>,
    check: impl Fn(&FakeOllama, &str, &str, &[Value]),
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    // Enough for a picture.
    ollama.reads(None, 8192);
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_ENABLED", "false")).await?;
    for from in ALL {
        for to in ALL {
            for stream in [false, true] {
                let session = [("x-paddock-session", &*format!("{from} {to} {stream}"))];
                let reply = gateway.post_to(from, first(&ollama, from, stream)?, &session).await?;
                assert_eq!(reply.status, 200, "{from}: {}", reply.text());
                let before = format!("echo of look #{}", ollama.count(upstream(from)));
                let reply = gateway.post_to(to, question(to, user("and now?"), false), &session).await?;
                assert_eq!(reply.status, 200, "{from} {to}: {}", reply.text());
                let messages = messages(&asked(&ollama));
                assert_eq!(messages.len(), 3, "{from} {to} {stream}: {messages:?}");
                assert_eq!(messages[2], user("and now?"), "{from} {to}");
                check(&ollama, to, &before, &messages);
            }
        }
    }
    Ok(())
}

async fn a_session_goes_on_on_any_surface_with_its_texts_and_pictures(form: &dyn Form) -> Result<()> {
    let first = |_: &FakeOllama, path: &str, stream| Ok(question(path, picture(path, "look"), stream));
    on_every_pair(form, first, |_, to, answer, messages| {
        assert_eq!(messages[0], picture(to, "look"), "{to}");
        assert_eq!(messages[1], json!({"role": "assistant", "content": answer}), "{to}");
    })
    .await
}

/// The first call of a tool in a message of the path: its name and its arguments.
fn call(path: &str, message: &Value) -> (Value, Value) {
    let blocks = message["content"].as_array().cloned().unwrap_or_default();
    let function = &message["tool_calls"][0]["function"];
    match path {
        OPENAI => {
            let arguments = function["arguments"].as_str().unwrap_or_default();
            assert!(message["tool_calls"][0]["id"].is_string(), "{message}");
            (function["name"].clone(), serde_json::from_str(arguments).unwrap_or_default())
        }
        ANTHROPIC => {
            let call = blocks.iter().find(|block| block["type"] == "tool_use").cloned().unwrap_or_default();
            assert!(call["id"].is_string(), "{message}");
            (call["name"].clone(), call["input"].clone())
        }
        _ => (function["name"].clone(), function["arguments"].clone()),
    }
}

async fn a_session_goes_on_on_any_surface_with_its_calls_of_tools(form: &dyn Form) -> Result<()> {
    let first =
        |_: &FakeOllama, path: &str, stream| Ok(with_tools(path, question(path, user("weather?"), stream)));
    on_every_pair(form, first, |_, to, _, messages| {
        assert_eq!(messages[1]["role"], "assistant", "{to}");
        assert_eq!(
            call(to, &messages[1]),
            ("weather".into(), json!({"city": "Paris"})),
            "{to}: {messages:?}"
        );
    })
    .await
}

/// The result of a call, in the words of the path.
fn result(path: &str, id: &str, text: &str) -> Value {
    match path {
        OPENAI => json!({"role": "tool", "tool_call_id": id, "content": text}),
        ANTHROPIC => {
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": text}]})
        }
        _ => json!({"role": "tool", "content": text, "tool_call_id": id}),
    }
}

fn with_tools(path: &str, mut body: Value) -> Value {
    body["tools"] = match path {
        ANTHROPIC => json!([{"name": "weather", "input_schema": {"type": "object"}}]),
        _ => json!([{"type": "function", "function": {"name": "weather", "parameters": {}}}]),
    };
    body
}

async fn a_result_of_a_tool_continues_the_session_that_has_the_call(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for from in ALL {
        for (to, _) in SURFACES {
            for stream in [false, true] {
                let session = [("x-paddock-session", &*format!("{from} {to} {stream}"))];
                let body = with_tools(from, question(from, user("weather?"), stream));
                let reply = gateway.post_to(from, body, &session).await?;
                assert_eq!(reply.status, 200, "{from}: {}", reply.text());
                let id = "toolu_1";
                let body = question(to, result(to, id, "sunny"), stream);
                let reply = gateway.post_to(to, body, &session).await?;
                let status = if stream { "" } else { "stored" };
                assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, status), "{from} {to}");
                let said = messages(&asked(&ollama));
                assert_eq!((said.len(), &said[0]), (3, &user("weather?")), "{from} {to}: {said:?}");
                assert_eq!(call(to, &said[1]), ("weather".into(), json!({"city": "Paris"})), "{said:?}");
                assert_eq!(said[2], result(to, id, "sunny"), "what was sent stays as it came");
                let reply = gateway.post_to(from, question(from, user("and now?"), false), &session).await?;
                assert_eq!(
                    (reply.status.as_u16(), reply.header("x-session")),
                    (200, "stored"),
                    "{from} {to}"
                );
                let said = messages(&asked(&ollama));
                assert_eq!(said.len(), 5, "{from} {to}: {said:?}");
                assert_eq!(call(from, &said[1]), ("weather".into(), json!({"city": "Paris"})), "{said:?}");
                assert_eq!(said[2], result(from, id, "sunny"), "{from} {to}");
                assert_eq!((&said[3]["role"], &said[4]), (&json!("assistant"), &user("and now?")));
            }
        }
    }
    Ok(())
}

async fn a_long_exchange_with_tools_stays_whole_whatever_the_limits(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("HISTORY_MAX_MESSAGES", "4")).await?;
    for (path, _) in SURFACES {
        let session = [("x-paddock-session", path)];
        gateway.post_to(path, question(path, user("before"), false), &session).await?;
        let mut body = with_tools(path, question(path, user("weather?"), false));
        for step in 0..6 {
            let reply = gateway.post_to(path, body, &session).await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, "stored"), "{path} {step}");
            body = with_tools(path, question(path, user(""), false));
            // The stand-in calls no tool where a result stands last.
            body["messages"] = json!([result(path, &format!("id {step}"), "rain"), user("and there?")]);
        }
        let said = messages(&asked(&ollama));
        // The question, five calls and what came of each; what was before them is not theirs.
        assert_eq!((said.len(), &said[0]), (16, &user("weather?")), "{path}: {said:?}");
        for (step, said) in said[1..].chunks(3).enumerate() {
            assert_eq!(call(path, &said[0]).0, "weather", "{path}: {said:?}");
            assert_eq!(said[1], result(path, &format!("id {step}"), "rain"), "{path}");
        }
    }
    Ok(())
}

/// The recorded answer of a model that thinks, which then also says something: thoughts alone are no answer.
fn thinking(path: &str, stream: bool) -> Result<Scripted> {
    let (recorded, silent, said) = match (path, stream) {
        // Its upstream streams always.
        ("/chat", _) | (CHAT, true) => ("40-think-chat-stream", r#""content":"""#, r#""content":"So.""#),
        (OPENAI, true) => ("43-think-v1-chat-stream", r#""content":"""#, r#""content":"So.""#),
        (OPENAI, false) => ("42-think-v1-chat", r#""content":"""#, r#""content":"So.""#),
        (ANTHROPIC, _) => ("44-think-v1-messages", "}],", r#"},{"type":"text","text":"So."}],"#),
        _ => ("39-think-chat", r#""content":"""#, r#""content":"So.""#),
    };
    let mut scripted = Scripted::recorded(recorded)?;
    for piece in scripted.pieces.iter_mut().rev() {
        let text = String::from_utf8(piece.bytes.to_vec())?;
        if text.contains(silent) {
            piece.bytes = text.replacen(silent, said, 1).into();
            break;
        }
    }
    let count = scripted.pieces.len();
    Ok(scripted.ending_after(count, End::Clean))
}

async fn a_session_goes_on_on_any_surface_with_its_thoughts(form: &dyn Form) -> Result<()> {
    let first = |ollama: &FakeOllama, path: &str, stream| {
        // No stream of Anthropic's was recorded.
        let stream = stream && path != ANTHROPIC;
        ollama.next(upstream(path), thinking(path, stream)?);
        Ok(question(path, user("think"), stream))
    };
    on_every_pair(form, first, |_, to, _, messages| {
        let said = &messages[1];
        assert!(said.to_string().contains("So."), "{to}: {said}");
        let thought = match to {
            OPENAI => &said["reasoning"],
            ANTHROPIC => &said["content"][0]["thinking"],
            _ => &said["thinking"],
        };
        assert!(thought.as_str().is_some_and(|thought| !thought.is_empty()), "{to}: {said}");
    })
    .await
}

/// The system message of what Ollama was asked; none where there are several.
fn system(path: &str, body: &Value) -> Value {
    let messages = messages(body);
    let mut said = messages.iter().filter(|message| message["role"] == "system");
    match (path, said.next(), said.next()) {
        (ANTHROPIC, None, None) => body["system"].clone(),
        (_, Some(message), None) => message["content"].clone(),
        _ => Value::Null,
    }
}

fn with_system(path: &str, mut body: Value, text: &str) -> Value {
    if ["/chat", ANTHROPIC].contains(&path) {
        body["system"] = text.into();
    } else if let Some(messages) = body["messages"].as_array_mut() {
        messages.insert(0, json!({"role": "system", "content": text}));
    }
    body
}

async fn a_system_message_holds_until_another_replaces_it(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for from in ALL {
        for to in ALL {
            let session = [("x-paddock-session", &*format!("{from} {to}"))];
            for (turn, path, fresh, holds) in [
                (0, from, Some("be brief"), "be brief"),
                (1, to, None, "be brief"),
                (2, to, Some("be long"), "be long"),
                (3, from, None, "be long"),
            ] {
                let body = question(path, user(&format!("{from} {to} {turn}")), false);
                let body = if let Some(text) = fresh { with_system(path, body, text) } else { body };
                let reply = gateway.post_to(path, body, &session).await?;
                assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, "stored"), "{path}");
                let sent = asked(&ollama);
                assert_eq!(system(path, &sent), holds, "{from} {to} {turn}: {sent}");
                let others = messages(&sent).iter().filter(|message| message["role"] != "system").count();
                assert_eq!(others, 2 * turn + 1, "{from} {to}: {sent}");
            }
        }
    }
    Ok(())
}

async fn whoever_brings_a_history_keeps_it_and_nothing_is_stored(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, _) in SURFACES {
        let session = [("x-paddock-session", path)];
        gateway.post_to(path, question(path, user("one"), false), &session).await?;
        let result = json!({"type": "tool_result", "tool_use_id": "t", "content": "sunny"});
        for own in [
            json!([user("a"), {"role": "assistant", "content": "b"}, user("c")]),
            json!([user("a"), {"role": "tool", "tool_call_id": "t", "content": "sunny"}]),
            json!([user("a"), {"role": "user", "content": [result]}]),
        ] {
            // Results of tools come from the user with Anthropic alone.
            let own = if path == ANTHROPIC || own[1]["content"].is_string() { own } else { continue };
            let mut body = question(path, user(""), false);
            body["messages"] = own;
            let reply = gateway.post_to(path, body.clone(), &session).await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, ""), "{path}");
            assert_eq!(asked(&ollama), body, "{path}");
        }
        gateway.post_to(path, question(path, user("two"), false), &session).await?;
        let said: Vec<_> = messages(&asked(&ollama)).iter().map(|said| said["content"].clone()).collect();
        assert_eq!(said, ["one", "echo of one #1", "two"], "{path}");
    }
    Ok(())
}

async fn a_session_is_its_callers_alone(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in ALL {
        for (key, count) in [("ann", 1), ("bob", 1), ("ann", 3), ("", 1)] {
            let headers = [("x-paddock-session", path), ("x-api-key", key)];
            let reply = gateway
                .post_to(path, question(path, user(&format!("{key} {count}")), false), &headers)
                .await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, "stored"), "{path}");
            assert_eq!(messages(&asked(&ollama)).len(), count, "{path} {key}");
        }
    }
    Ok(())
}

async fn elsewhere_a_session_is_refused_in_the_words_of_the_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, _) in surfaces::QUESTIONS {
        let has_sessions = ALL.contains(&path);
        let long = "x".repeat(129);
        let name = if has_sessions { &*long } else { "s" };
        let reply =
            gateway.post_to(path, surfaces::question("llama3.2"), &[("x-paddock-session", name)]).await?;
        let words = surfaces::told(path, &reply)?;
        assert_eq!(reply.status, 400, "{path}");
        let expected = if has_sessions { "at most 128 characters" } else { "X-Paddock-Session works on" };
        assert!(words.contains(expected), "{path}: {words}");
        let code =
            if path.starts_with("/v1/") && path != ANTHROPIC { reply.at("/error/code") } else { continue };
        let expected = if has_sessions { "invalid_session_id" } else { "session_unsupported" };
        assert_eq!(code, expected, "{path}");
    }
    assert!(surfaces::questions(&ollama).is_empty());
    Ok(())
}

async fn what_breaks_off_or_fails_is_not_remembered(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, recorded) in SURFACES {
        let session = [("x-paddock-session", path)];
        for end in [End::Cut, End::Clean] {
            ollama.next(path, Scripted::recorded(recorded)?.ending_after(3, end));
            let broken = gateway.post_to(path, question(path, user("one"), true), &session).await?;
            assert_eq!(broken.status, 200, "{path}");
        }
        ollama.next(path, refusal(500)?);
        let failed = gateway.post_to(path, question(path, user("one"), false), &session).await?;
        assert_eq!((failed.status.as_u16(), failed.header("x-session")), (500, ""), "{path}");
        gateway.post_to(path, question(path, user("two"), false), &session).await?;
        assert_eq!(messages(&asked(&ollama)), [user("two")], "{path}");
    }
    Ok(())
}

on_every_form! {
    the_turns_before_go_ahead_and_every_other_byte_stays,
    a_stream_says_in_its_last_event_that_its_turn_is_stored_and_keeps_every_other_byte,
    a_session_goes_on_on_any_surface_with_its_texts_and_pictures,
    a_session_goes_on_on_any_surface_with_its_calls_of_tools,
    a_result_of_a_tool_continues_the_session_that_has_the_call,
    a_long_exchange_with_tools_stays_whole_whatever_the_limits,
    a_session_goes_on_on_any_surface_with_its_thoughts,
    a_system_message_holds_until_another_replaces_it,
    whoever_brings_a_history_keeps_it_and_nothing_is_stored,
    a_session_is_its_callers_alone,
    elsewhere_a_session_is_refused_in_the_words_of_the_surface,
    what_breaks_off_or_fails_is_not_remembered,
}
