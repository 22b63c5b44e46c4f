//! `POST /chat` in pieces: what comes, when it comes, and how it ends.

use paddock_tests::{gateway::Streamed, ollama::Gate};
use serde_json::Value;

use crate::behaviors::prelude::*;

/// What a client accepts, and the type of what it gets.
const FRAMINGS: [&str; 2] = ["text/event-stream", "application/x-ndjson"];

async fn open(gateway: &dyn Gateway, accept: &str, body: Value) -> Result<Streamed> {
    let reply = gateway.open_post("/chat", body, &[("accept", accept)]).await?;
    if reply.status == 200 {
        assert_eq!(reply.header("content-type"), accept);
        assert_eq!((reply.header("cache-control"), reply.header("x-accel-buffering")), ("no-cache", "no"));
    }
    Ok(reply)
}

/// The next event, in either framing: its name and its data.
async fn next(reply: &mut Streamed) -> Result<Option<(String, Value)>> {
    if reply.header("content-type") == FRAMINGS[0] {
        let event = reply.next_event().await?;
        return Ok(event
            .map(|(name, data)| Ok::<_, serde_json::Error>((name, serde_json::from_str(&data)?)))
            .transpose()?);
    }
    let Some(line) = reply.next_line().await? else { return Ok(None) };
    let mut data: Value = serde_json::from_str(&line)?;
    let event = data.as_object_mut().and_then(|object| object.remove("event"));
    Ok(Some((event.and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default(), data)))
}

/// Every event there is.
async fn all(reply: &mut Streamed) -> Result<Vec<(String, Value)>> {
    let mut events = Vec::new();
    while let Some(event) = next(reply).await? {
        events.push(event);
    }
    Ok(events)
}

/// The deltas of all events of this name, joined.
fn joined(events: &[(String, Value)], name: &str) -> String {
    events.iter().filter(|event| event.0 == name).filter_map(|event| event.1["delta"].as_str()).collect()
}

/// The code of the last event, which must be an error.
fn error_code(events: &[(String, Value)]) -> String {
    let Some((name, data)) = events.last() else { return String::new() };
    assert_eq!(name, "error", "{events:?}");
    assert!(data["error"]["message"].as_str().is_some_and(|words| !words.is_empty()), "{data}");
    data["error"]["code"].as_str().unwrap_or_default().to_owned()
}

async fn each_token_comes_when_it_is_said(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (index, accept) in FRAMINGS.into_iter().enumerate() {
        let gate = Gate::default();
        ollama.next_chat(Scripted::stream("llama3.2", "one two three", 7)?.gated(&gate));
        let body = json!({"message": format!("hello {index}"), "session_id": "s"});
        let mut reply = open(gateway.as_ref(), accept, body).await?;
        assert_eq!((reply.header("x-cache"), reply.header("x-paddock-host")), ("miss", "1"));
        for word in ["one ", "two ", "three"] {
            // The next word is said only after this one was read: whatever waits for more waits for ever.
            assert_eq!(next(&mut reply).await?, Some(("token".to_owned(), json!({"delta": word}))));
            gate.open(1);
        }
        let events = all(&mut reply).await?;
        assert_eq!(events.len(), 1, "{events:?}");
        let (name, done) = &events[0];
        assert_eq!(name, "done");
        for (field, expected) in [
            ("session_id", json!("s")),
            ("session", json!("stored")),
            ("cache", json!("miss")),
            ("finish_reason", json!("stop")),
        ] {
            assert_eq!(done[field], expected, "{field}");
        }
        let usage = &done["usage"];
        assert_eq!(usage["prompt_tokens"], 7);
        assert_eq!(
            (usage["completion_tokens"].as_u64(), usage["total_tokens"].as_u64()),
            (Some(3), Some(10))
        );
        for duration in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
            assert!(usage[duration].as_u64() > Some(0), "{duration}: {usage}");
        }
    }
    Ok(())
}

async fn the_body_or_the_header_asks_for_pieces(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (stream, accept, expected) in [
        (Value::Null, "*/*", "application/json"),
        (json!(true), "*/*", "text/event-stream"),
        (Value::Null, "text/event-stream", "text/event-stream"),
        (json!(true), "application/x-ndjson", "application/x-ndjson"),
        (json!(false), "text/event-stream", "application/json"),
    ] {
        let body = json!({"message": "hello", "stream": stream});
        let reply = gateway.open_post("/chat", body, &[("accept", accept)]).await?;
        assert_eq!(reply.header("content-type"), expected, "{stream} {accept}");
        assert!(reply.rest().await?.text().contains("echo"));
    }
    Ok(())
}

async fn thinking_and_calls_are_events_of_their_own(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (index, accept) in FRAMINGS.into_iter().enumerate() {
        // A model that thinks, and then speaks.
        let mut scripted = Scripted::recorded("40-think-chat-stream")?;
        scripted.pieces.pop();
        scripted.pieces.extend(Scripted::saying("well")?.pieces);
        ollama.next_chat(scripted);
        let message = format!("think {index}");
        let mut live = open(gateway.as_ref(), accept, json!({"message": message})).await?;
        let live = all(&mut live).await?;
        assert_eq!(joined(&live, "thinking"), "Paris, France, is");
        assert_eq!(joined(&live, "token"), "well");
        let last_thought = live.iter().rposition(|event| event.0 == "thinking");
        assert!(last_thought < live.iter().position(|event| event.0 == "token"), "{live:?}");
        // What was thought is kept with the answer.
        let mut kept = open(gateway.as_ref(), accept, json!({"message": message})).await?;
        assert_eq!(kept.header("x-cache"), "hit");
        assert_eq!(joined(&all(&mut kept).await?, "thinking"), "Paris, France, is");

        let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {}}}]);
        let body = json!({"message": format!("call {index}"), "tools": tools});
        for cache in ["miss", "hit"] {
            let mut reply = open(gateway.as_ref(), accept, body.clone()).await?;
            assert_eq!(reply.header("x-cache"), cache);
            let events = all(&mut reply).await?;
            let calls: Vec<_> = events.iter().filter(|event| event.0 == "tool_calls").collect();
            assert_eq!(calls.len(), 1, "{events:?}");
            let function = &calls[0].1["tool_calls"][0]["function"];
            assert_eq!(
                (&function["name"], &function["arguments"]),
                (&json!("weather"), &json!({"city": "Paris"}))
            );
            assert_eq!(events.last().map(|event| event.0.as_str()), Some("done"));
        }
    }
    Ok(())
}

async fn streamed_and_whole_replies_share_what_is_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (index, accept) in FRAMINGS.into_iter().enumerate() {
        let first = gateway.say(&format!("whole {index}")).await?;
        assert_eq!(first.cache(), "miss");
        let mut streamed =
            open(gateway.as_ref(), accept, json!({"message": format!("whole {index}")})).await?;
        assert_eq!((streamed.header("x-cache"), streamed.header("x-paddock-host")), ("hit", ""));
        let events = all(&mut streamed).await?;
        assert_eq!(joined(&events, "token"), first.response());
        let done = &events.last().expect("no event").1;
        assert_eq!((&done["cache"], &done["usage"]["prompt_tokens"]), (&json!("hit"), &json!(10)));
        assert_eq!(done["finish_reason"], "stop");

        let mut first =
            open(gateway.as_ref(), accept, json!({"message": format!("streamed {index}")})).await?;
        assert_eq!(first.header("x-cache"), "miss");
        let said = joined(&all(&mut first).await?, "token");
        let whole = gateway.say(&format!("streamed {index}")).await?;
        assert_eq!((whole.cache(), whole.response()), ("hit", said));
    }
    assert_eq!(ollama.count(CHAT), 4);
    Ok(())
}

async fn a_session_goes_on_whichever_way_its_turns_came(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say_in("s", "first").await?;
    for accept in FRAMINGS {
        let body = json!({"message": format!("then {accept}"), "session_id": "s"});
        let events = all(&mut open(gateway.as_ref(), accept, body).await?).await?;
        assert_eq!(events.last().map(|event| event.1["session"].clone()), Some(json!("stored")));
    }
    gateway.say_in("s", "last").await?;
    let conversation = ollama.last_conversation();
    assert_eq!(conversation.len(), 7, "{conversation:?}");
    assert!(conversation[3].starts_with("assistant: echo of then text/event-stream"), "{conversation:?}");
    // A stored answer is a turn, too.
    let body = json!({"message": "first", "session_id": "t"});
    let mut reply = open(gateway.as_ref(), FRAMINGS[0], body).await?;
    assert_eq!((reply.header("x-cache"), reply.header("x-session")), ("hit", "stored"));
    assert_eq!(all(&mut reply).await?.last().map(|event| event.1["session"].clone()), Some(json!("stored")));
    Ok(())
}

async fn a_stream_that_breaks_off_ends_with_an_error_and_leaves_nothing(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let gateway = form.start(Setup::new([&first, &second]).set("BETWEEN_BYTES_TIMEOUT", "500ms")).await?;
    let faults = [
        ("cut", Scripted::cut()?, "upstream_protocol"),
        ("reset", Scripted::unfinished(End::Reset)?, "upstream_protocol"),
        ("clean end", Scripted::unfinished(End::Clean)?, "upstream_protocol"),
        ("no JSON", Scripted::with_line("{\n")?, "upstream_protocol"),
        ("error in band", Scripted::crashed_in_stream()?, "upstream_failed"),
        ("silence", Scripted::unfinished(End::Hang)?, "upstream_timeout"),
    ];
    for accept in FRAMINGS {
        for (name, fault, code) in faults.clone() {
            let name = format!("{name} {accept}");
            first.chats(fault.clone());
            second.chats(fault);
            let asked = first.count(CHAT) + second.count(CHAT);
            let body = json!({"message": name, "session_id": name});
            let mut reply = open(gateway.as_ref(), accept, body.clone()).await?;
            assert_eq!(reply.status, 200, "{name}");
            let events = all(&mut reply).await?;
            assert_eq!(events[0].0, "token", "{name}");
            assert_eq!(error_code(&events), code, "{name}");
            assert_eq!(first.count(CHAT) + second.count(CHAT) - asked, 1, "{name}: another host was asked");
            first.recover();
            second.recover();
            let whole = gateway.post_to("/chat", body, &[]).await?;
            assert_eq!(whole.cache(), "miss", "{name}");
            let asked = [&first, &second].into_iter().flat_map(FakeOllama::chat_requests);
            let conversations: Vec<_> =
                asked.map(|asked| asked.messages()).filter(|said| said[0].contains(&name)).collect();
            assert_eq!(conversations, [[format!("user: {name}")], [format!("user: {name}")]]);
        }
    }
    Ok(())
}

async fn before_the_first_event_another_host_answers(form: &dyn Form) -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    for (name, fault, status, code) in silent()? {
        // A fleet of its own, so that one fault does not use up what the budget of retries leaves for another.
        let setup = Setup::new([&ill, &well]).set("CONNECT_TIMEOUT", "1");
        let setup = setup.set("FIRST_BYTE_TIMEOUT", "500ms").set("BETWEEN_BYTES_TIMEOUT", "500ms");
        let gateway = form.start(setup).await?;
        ill.chats(fault.clone());
        for (turn, accept) in FRAMINGS.into_iter().enumerate() {
            let body = json!({"message": format!("{name} {turn}")});
            let mut reply = open(gateway.as_ref(), accept, body).await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-paddock-host")), (200, "2"), "{name}");
            assert!(joined(&all(&mut reply).await?, "token").starts_with("echo of"), "{name}");
        }
        well.chats(fault);
        let reply = open(gateway.as_ref(), FRAMINGS[0], json!({"message": name})).await?.rest().await?;
        assert_eq!(reply.outcome(), (status, code.to_owned()), "{name}");
        well.recover();
    }
    Ok(())
}

/// What can go wrong before the first event.
fn silent() -> Result<Vec<(&'static str, Scripted, u16, &'static str)>> {
    let nothing = |end| anyhow::Ok(Scripted::saying("nothing")?.ending_after(0, end));
    let mut at_once = Scripted::crashed_in_stream()?;
    at_once.pieces.drain(..at_once.pieces.len() - 1);
    Ok(vec![
        ("no head", Scripted::hang(), 504, "upstream_timeout"),
        ("no event", nothing(End::Hang)?, 504, "upstream_timeout"),
        ("a cut", nothing(End::Cut)?, 502, "upstream_protocol"),
        ("an empty body", nothing(End::Clean)?, 502, "upstream_protocol"),
        ("an error at once", at_once, 502, "upstream_failed"),
        ("busy", refusal(503)?, 503, "upstream_busy"),
        ("a crash", refusal(500)?, 502, "upstream_failed"),
    ])
}

on_every_form! {
    each_token_comes_when_it_is_said,
    the_body_or_the_header_asks_for_pieces,
    thinking_and_calls_are_events_of_their_own,
    streamed_and_whole_replies_share_what_is_kept,
    a_session_goes_on_whichever_way_its_turns_came,
    a_stream_that_breaks_off_ends_with_an_error_and_leaves_nothing,
    before_the_first_event_another_host_answers,
}
