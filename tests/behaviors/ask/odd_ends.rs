//! Answers that end oddly, or are called something else than they are: what Ollama ended on purpose ends as Ollama ended
//! it, and what broke off is never taken for an answer.

use http::{HeaderMap, StatusCode, header};
use paddock_tests::{
    ollama::{Pause, Piece},
    prometheus::Scrape,
};
use serde_json::Value;

use crate::behaviors::prelude::*;

/// The surfaces whose answers stream.
const SURFACES: [&str; 6] =
    [CHAT, "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"];

/// A recorded whole answer of each of them.
const WHOLE: [&str; 6] =
    ["07-chat", "12-generate", "23-v1-chat", "26-v1-completions", "30-v1-responses", "32-v1-messages"];

/// What is asked on any of them, such that it may be kept.
fn question(message: &str, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": message}]);
    json!({"model": "llama3.2", "messages": messages, "prompt": message, "input": message, "max_tokens": 9,
        "temperature": 0, "options": {"temperature": 0}, "stream": stream})
}

/// The content type of a surface's streams.
fn stream_type(path: &str) -> &'static str {
    if path.starts_with("/api/") { "application/x-ndjson" } else { "text/event-stream" }
}

/// One piece of text, as the surface writes it.
fn piece(path: &str, text: &str) -> String {
    match path {
        CHAT => {
            json!({"model": "m", "message": {"role": "assistant", "content": text}, "done": false})
                .to_string()
                + "\n"
        }
        "/api/generate" => json!({"model": "m", "response": text, "done": false}).to_string() + "\n",
        "/v1/chat/completions" => {
            let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": null});
            format!("data: {}\n\n", json!({"model": "m", "choices": [choice]}))
        }
        "/v1/completions" => {
            let choice = json!({"index": 0, "text": text, "finish_reason": null});
            format!("data: {}\n\n", json!({"model": "m", "choices": [choice]}))
        }
        "/v1/responses" => {
            let kind = "response.output_text.delta";
            format!("event: {kind}\ndata: {}\n\n", json!({"type": kind, "delta": text}))
        }
        _ => {
            let delta = json!({"type": "text_delta", "text": text});
            let event = json!({"type": "content_block_delta", "index": 0, "delta": delta});
            format!("event: content_block_delta\ndata: {event}\n\n")
        }
    }
}

/// An answer with these pieces, which ends as HTTP wants it.
fn answer(content_type: &str, pieces: impl IntoIterator<Item = String>) -> Result<Scripted> {
    let mut headers = HeaderMap::new();
    if !content_type.is_empty() {
        headers.insert(header::CONTENT_TYPE, content_type.parse()?);
    }
    let pieces = pieces.into_iter().map(|piece| Piece { after: Pause::NONE, bytes: piece.into() }).collect();
    Ok(Scripted { head_after: Pause::NONE, status: StatusCode::OK, headers, pieces, end: End::Clean })
}

/// The stream of a surface that says `text` so often, and ends without a terminator.
fn repeating(path: &str, text: &str, times: usize) -> Result<Scripted> {
    let pieces = (0..times).map(|time| piece(path, if time % 2 == 0 { text } else { text.trim() }));
    answer(stream_type(path), [piece(path, "Well,")].into_iter().chain(pieces))
}

/// Everything that a script says.
fn said(scripted: &Scripted) -> Vec<u8> {
    scripted.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect()
}

/// How every host stands: nobody is blamed.
async fn assert_nobody_is_blamed(gateway: &dyn Gateway, name: &str) -> Result<()> {
    let fleet = gateway.until_fleet(|_| true).await?;
    for host in fleet["hosts"].as_array().context("no hosts")? {
        assert_eq!(host["breaker"]["state"], "closed", "{name}: {host}");
        for lane in host["lanes"].as_array().context("no lanes")? {
            assert_eq!(lane["breaker"]["state"], "closed", "{name}: {host}");
        }
    }
    Ok(())
}

async fn an_answer_that_repeats_itself_ends_as_ollama_ended_it(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    for path in SURFACES {
        let scripted = repeating(path, " ha", 31)?;
        for host in &hosts {
            host.answers(path, scripted.clone());
        }
        // It is asked again each time, because nothing of it is kept.
        for turn in 1..=2 {
            let reply = gateway.post_to(path, question("laugh", true), &[]).await?;
            assert_eq!(reply.status, 200, "{path}");
            assert_eq!(reply.text(), String::from_utf8_lossy(&said(&scripted)), "{path}");
            let asked: usize = hosts.iter().map(|host| host.count(path)).sum();
            assert_eq!(asked, turn, "{path}");
        }
        assert_nobody_is_blamed(gateway.as_ref(), path).await?;
    }
    let scrape = Scrape::of(gateway.as_ref()).await?;
    for path in SURFACES {
        let labels = [("route", path), ("outcome", "ok")];
        assert_eq!(scrape.count("ollama_requests_total", &labels), 2, "{path}");
    }
    Ok(())
}

async fn chat_gives_what_repeats_itself_and_says_why_it_ended(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    for host in &hosts {
        host.chats(repeating(CHAT, " ha", 31)?);
    }
    let text = String::from("Well,") + &" haha".repeat(15) + " ha";
    let body = json!({"message": "laugh", "session_id": "s"});
    let whole = gateway.chat(body.clone()).await?;
    assert_eq!((whole.status.as_u16(), whole.response()), (200, text.clone()));
    assert_eq!((&*whole.at("/finish_reason"), whole.header("x-session")), ("repeat", "unavailable"));
    for accept in ["text/event-stream", "application/x-ndjson"] {
        let reply = gateway.post_to("/chat", body.clone(), &[("accept", accept)]).await?;
        let reply = reply.text();
        let last =
            reply.trim_end().lines().last().unwrap_or_default().trim_start_matches("data: ").to_owned();
        let done: Value = serde_json::from_str(&last)?;
        assert_eq!((&done["finish_reason"], &done["session"]), (&json!("repeat"), &json!("unavailable")));
        assert!(!reply.contains("error"), "{reply}");
    }
    for host in &hosts {
        host.recover();
    }
    assert_nobody_is_blamed(gateway.as_ref(), "repetition").await?;
    let next = gateway.chat(body).await?;
    assert_eq!((next.cache(), next.header("x-session")), ("miss", "stored"));
    let asked: usize = hosts.iter().map(|host| host.count(CHAT)).sum();
    assert_eq!(asked, 4);
    for host in hosts.iter().flat_map(FakeOllama::chat_requests) {
        assert_eq!(host.messages(), ["user: laugh"]);
    }
    Ok(())
}

async fn every_other_clean_end_is_broken_off_and_no_hosts_fault(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    let mut cases = Vec::new();
    for path in SURFACES {
        cases.push((path, repeating(path, " ha", 30)?));
        let mut other = repeating(path, " ha", 40)?;
        other.pieces.push(Piece { after: Pause::NONE, bytes: piece(path, "!").into() });
        cases.push((path, other));
    }
    // The runner dies after as many repetitions, and Ollama says so with a piece of no model.
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let mut crash = repeating(path, " ha", 31)?;
        let bytes = piece(path, "").replace("\"model\":\"m\"", "\"model\":\"\"").into();
        crash.pieces.push(Piece { after: Pause::NONE, bytes });
        cases.push((path, crash));
    }
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/messages"] {
        cases.push((path, Scripted::crashed(path)?));
    }
    for (path, scripted) in cases {
        for host in &hosts {
            host.answers(path, scripted.clone());
        }
        let reply = gateway.post_to(path, question("laugh", true), &[]).await?;
        let rest = reply.body.strip_prefix(&*said(&scripted)).map(String::from_utf8_lossy);
        let Some(rest) = rest else { bail!("{path}: {}", reply.text()) };
        assert!(rest.contains("error"), "{path}: {rest}");
        assert_nobody_is_blamed(gateway.as_ref(), path).await?;
    }
    Ok(())
}

async fn a_stream_is_told_by_what_comes_whatever_it_is_called(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let recorded = [
        "08-chat-stream",
        "13-generate-stream",
        "25-v1-chat-stream-usage",
        "27-v1-completions-stream",
        "31-v1-responses-stream",
        "33-v1-messages-stream",
    ];
    let names = [
        "",
        "application/json",
        "APPLICATION/JSON; charset=utf-8",
        "Application/X-NDJSON",
        "Text/Event-Stream; Charset=UTF-8",
        "text/plain",
    ];
    for (path, recorded) in SURFACES.into_iter().zip(recorded) {
        for name in names {
            let mut scripted = Scripted::recorded(recorded)?;
            scripted.headers = answer(name, [])?.headers;
            let gate = Gate::default();
            ollama.next(path, scripted.clone().gated(&gate));
            let message = format!("{path} {name}");
            let mut reply = gateway.open_post(path, question(&message, true), &[]).await?;
            assert_eq!(
                (reply.status.as_u16(), reply.header("content-type")),
                (200, stream_type(path)),
                "{name}"
            );
            let mut read = Vec::new();
            let first = scripted.pieces[0].bytes.len();
            while read.len() < first {
                // The second piece is said only after the first was read: whatever waits for more waits for ever.
                read.extend_from_slice(&reply.next().await?.context("ended")?);
            }
            gate.open(scripted.pieces.len());
            read.extend_from_slice(&reply.rest().await?.body);
            assert_eq!(read, said(&scripted), "{message}");

            // Without its terminator it is broken off, whatever it is called.
            let cut = scripted.clone().ending_after(2, End::Clean);
            ollama.next(path, cut.clone());
            let reply = gateway.post_to(path, question(&format!("{message} cut"), true), &[]).await?;
            let rest = reply.body.strip_prefix(&*said(&cut)).map(String::from_utf8_lossy);
            assert!(rest.is_some_and(|rest| rest.contains("error")), "{message}: {}", reply.text());
        }
    }
    Ok(())
}

async fn a_turn_is_stored_whatever_its_stream_is_called(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (turn, name) in ["", "application/json", "Application/X-NDJSON"].into_iter().enumerate() {
        let mut scripted = Scripted::saying("well said")?;
        scripted.headers = answer(name, [])?.headers;
        ollama.next_chat(scripted);
        let session = format!("s{turn}");
        let headers = [("x-paddock-session", &*session)];
        let reply = gateway.post_to(CHAT, question("hello", true), &headers).await?;
        assert!(reply.text().contains("\"session\":\"stored\""), "{name}: {}", reply.text());
        gateway.say_in(&session, "again").await?;
        assert_eq!(
            ollama.last_conversation(),
            ["user: hello", "assistant: well said", "user: again"],
            "{name}"
        );
    }
    Ok(())
}

async fn a_whole_answer_to_who_asked_for_a_stream_is_one(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, recorded) in SURFACES.into_iter().zip(WHOLE) {
        for name in ["application/json", ""] {
            let mut scripted = Scripted::recorded(recorded)?;
            scripted.headers = answer(name, [])?.headers;
            ollama.next(path, scripted.clone());
            let reply = gateway.post_to(path, question(&format!("{path} {name}"), true), &[]).await?;
            assert_eq!((reply.status.as_u16(), &*reply.body), (200, &*said(&scripted)), "{path} {name}");
            // In one line without a type it may as well be a stream of one event.
            let kind = if path.starts_with("/api/") && name.is_empty() {
                stream_type(path)
            } else {
                "application/json"
            };
            assert_eq!(reply.header("content-type"), kind, "{path} {name}");
        }
        // Written over several lines it is one as well.
        let object: Value = serde_json::from_slice(&said(&Scripted::recorded(recorded)?))?;
        let pretty = serde_json::to_string_pretty(&object)?;
        ollama.next(path, answer("application/json", [pretty.clone()])?);
        let reply = gateway.post_to(path, question(&format!("{path} pretty"), true), &[]).await?;
        assert_eq!((reply.status.as_u16(), reply.text()), (200, pretty), "{path}");
        assert_eq!(reply.header("content-type"), "application/json", "{path}");
    }
    Ok(())
}

/// What is no whole answer, although its status is 200, by what it is called here; and whether its words are Ollama's.
fn no_answers(whole: &str) -> [(&'static str, String, bool); 8] {
    [
        ("half", whole[..whole.len() / 2].to_owned(), false),
        ("all but the last byte", whole.trim_end()[..whole.trim_end().len() - 1].to_owned(), false),
        ("empty", String::new(), false),
        ("blank", " \n".to_owned(), false),
        ("null", "null".to_owned(), false),
        ("a list", "[]".to_owned(), false),
        ("an error", json!({"error": "the runner is gone"}).to_string(), true),
        ("an error in OpenAI's words", json!({"error": {"message": "the runner is gone"}}).to_string(), true),
    ]
}

async fn what_is_no_answer_is_asked_elsewhere_and_never_kept(form: &dyn Form) -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    for (path, recorded) in SURFACES.into_iter().zip(WHOLE) {
        let scripted = Scripted::recorded(recorded)?;
        for (name, body, is_told) in no_answers(&String::from_utf8(said(&scripted))?) {
            let name = format!("{path}: {name}");
            // A fleet of its own, so that one fault does not use up what the budget of retries leaves for another.
            let gateway = form.start(Setup::new([&ill, &well])).await?;
            let fault = answer("application/json", [body].into_iter().filter(|body| !body.is_empty()))?;
            ill.answers(path, fault.clone());
            well.answers(path, scripted.clone());
            let reply = gateway.post_to(path, question(&name, false), &[]).await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-paddock-host")), (200, "2"), "{name}");
            assert_eq!(reply.body, said(&scripted), "{name}");
            well.answers(path, fault);
            let message = format!("{name} everywhere");
            let reply = gateway.post_to(path, question(&message, false), &[]).await?;
            assert_eq!(
                (reply.status, reply.header("content-type")),
                (StatusCode::BAD_GATEWAY, "application/json"),
                "{name}"
            );
            let words = match path {
                CHAT | "/api/generate" => reply.at("/error"),
                _ => reply.at("/error/message"),
            };
            let expected = if is_told { "the runner is gone" } else { "broke off" };
            assert!(words.contains(expected), "{name}: {}", reply.text());
            ill.answers(path, scripted.clone());
            well.answers(path, scripted.clone());
            let again = gateway.post_to(path, question(&message, false), &[]).await?;
            assert_eq!((again.status.as_u16(), again.cache()), (200, "miss"), "{name}");
        }
    }
    Ok(())
}

async fn what_is_no_answer_of_a_path_without_a_chat_is_none_either(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, recorded) in [
        ("/api/embed", "16-embed"),
        ("/api/embeddings", "19-embeddings-old"),
        ("/v1/embeddings", "28-v1-embeddings"),
        ("/api/show", "06-show"),
    ] {
        let whole = String::from_utf8(said(&Scripted::recorded(recorded)?))?;
        for (name, body, _) in no_answers(&whole) {
            ollama.answers(
                path,
                answer("application/json", [body].into_iter().filter(|body| !body.is_empty()))?,
            );
            let reply = gateway.post_to(path, question(&format!("{path} {name}"), false), &[]).await?;
            assert_eq!(reply.status, 502, "{path} {name}: {}", reply.text());
            assert!(reply.text().contains("error"), "{path} {name}");
        }
    }
    Ok(())
}

async fn a_whole_answer_that_is_cut_off_is_asked_elsewhere(form: &dyn Form) -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    for (path, recorded) in SURFACES.into_iter().zip(WHOLE).chain([("/api/embed", "16-embed")]) {
        let scripted = Scripted::recorded(recorded)?;
        let whole = said(&scripted);
        // Everything comes, but the head promises more, or the last chunk is missing.
        let mut longer = scripted.clone();
        longer.headers.insert(header::CONTENT_LENGTH, (whole.len() + 9).into());
        let mut unchunked = scripted.clone();
        unchunked.headers.remove(header::CONTENT_LENGTH);
        for fault in [longer, unchunked] {
            let gateway = form.start(Setup::new([&ill, &well])).await?;
            let fault = Scripted { end: End::Cut, ..fault };
            ill.answers(path, fault.clone());
            well.answers(path, scripted.clone());
            let reply = gateway.post_to(path, question("hello", false), &[]).await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-paddock-host")), (200, "2"), "{path}");
            assert_eq!(reply.body, whole, "{path}");
            well.answers(path, fault);
            let reply = gateway.post_to(path, question("once more", false), &[]).await?;
            assert_eq!(reply.status, 502, "{path}: {}", reply.text());
        }
    }
    Ok(())
}

async fn a_whole_answer_that_repeats_itself_is_given_and_never_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let text = " ha".repeat(31);
    let message = json!({"role": "assistant", "content": text});
    for (path, whole) in [
        (CHAT, json!({"model": "m", "message": message, "done": false})),
        ("/api/generate", json!({"model": "m", "response": text, "done": false})),
        (
            "/v1/chat/completions",
            json!({"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": null}]}),
        ),
        ("/v1/messages", json!({"type": "message", "content": [{"type": "text", "text": text}]})),
    ] {
        let is_session = path != "/api/generate";
        ollama.answers(path, answer("application/json", [whole.to_string()])?);
        let session = path.replace('/', "-");
        let headers = [("x-paddock-session", &*session)];
        let headers = if is_session { &headers[..] } else { &[] };
        for _ in 0..2 {
            let reply = gateway.post_to(path, question("laugh", false), headers).await?;
            assert_eq!((reply.status.as_u16(), reply.text()), (200, whole.to_string()), "{path}");
            assert_eq!((reply.cache(), reply.header("x-session") == "stored"), ("miss", false), "{path}");
        }
        // The same without a repetition is broken off.
        let half = whole.to_string().replace(&text, "The sky");
        ollama.answers(path, answer("application/json", [half])?);
        let reply = gateway.post_to(path, question("laugh", false), headers).await?;
        assert_eq!(reply.status, 502, "{path}: {}", reply.text());
        assert_nobody_is_blamed(gateway.as_ref(), path).await?;
    }
    Ok(())
}

on_every_form! {
    an_answer_that_repeats_itself_ends_as_ollama_ended_it,
    chat_gives_what_repeats_itself_and_says_why_it_ended,
    every_other_clean_end_is_broken_off_and_no_hosts_fault,
    a_stream_is_told_by_what_comes_whatever_it_is_called,
    a_turn_is_stored_whatever_its_stream_is_called,
    a_whole_answer_to_who_asked_for_a_stream_is_one,
    what_is_no_answer_is_asked_elsewhere_and_never_kept,
    what_is_no_answer_of_a_path_without_a_chat_is_none_either,
    a_whole_answer_that_is_cut_off_is_asked_elsewhere,
    a_whole_answer_that_repeats_itself_is_given_and_never_kept,
}
