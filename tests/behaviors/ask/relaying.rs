//! The surfaces that Ollama speaks itself: what comes is what Ollama said, when it said it, and a failure is told as
//! each protocol tells it.

use paddock_tests::{gateway::Streamed, ollama::Gate, prometheus::Scrape};

use crate::behaviors::prelude::*;

/// A surface whose answers stream: its path, and the recorded stream of its protocol.
const SURFACES: [(&str, &str); 6] = [
    (CHAT, "08-chat-stream"),
    ("/api/generate", "13-generate-stream"),
    ("/v1/chat/completions", "25-v1-chat-stream-usage"),
    ("/v1/completions", "27-v1-completions-stream"),
    ("/v1/responses", "31-v1-responses-stream"),
    ("/v1/messages", "33-v1-messages-stream"),
];

/// A request on any of them.
fn question(stream: bool) -> serde_json::Value {
    let messages = json!([{"role": "user", "content": "hello"}]);
    json!({"model": "llama3.2", "messages": messages, "prompt": "hello", "input": "hello", "max_tokens": 9, "stream": stream})
}

async fn open(gateway: &dyn Gateway, path: &str) -> Result<Streamed> {
    gateway.open_post(path, question(true), &[]).await
}

/// Everything that a script says.
fn said(scripted: &Scripted) -> Vec<u8> {
    scripted.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect()
}

/// The code of the error that a protocol's last event tells, or its type where it has no codes; Ollama's own has words
/// alone.
fn told(path: &str, event: &str) -> String {
    let data = event.rsplit("data: ").next().unwrap_or_default();
    let data: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
    let place = match path {
        CHAT | "/api/generate" => "/error",
        "/v1/responses" => "/code",
        "/v1/messages" => "/error/type",
        _ => "/error/code",
    };
    data.pointer(place).and_then(|code| code.as_str()).unwrap_or_default().to_owned()
}

async fn bytes_come_unchanged_and_as_they_are_said(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, recorded) in SURFACES {
        let (gate, scripted) = (Gate::default(), Scripted::recorded(recorded)?);
        let content_type = scripted.headers["content-type"].clone();
        ollama.next(path, scripted.clone().gated(&gate));
        let mut reply = open(gateway.as_ref(), path).await?;
        assert_eq!((reply.status.as_u16(), &reply.headers["content-type"]), (200, &content_type), "{path}");
        assert_eq!((reply.header("x-cache"), reply.header("x-paddock-host")), ("bypass", "1"), "{path}");
        let (mut read, mut expected) = (Vec::new(), Vec::new());
        for piece in scripted.pieces {
            expected.extend_from_slice(&piece.bytes);
            // The next piece is said only after this one was read: whatever waits for more waits for ever.
            while read.len() < expected.len() {
                let Some(more) = reply.next().await? else {
                    bail!("{path} ended after {} bytes", read.len())
                };
                read.extend_from_slice(&more);
            }
            assert_eq!(read, expected, "{path}");
            gate.open(1);
        }
        assert_eq!(reply.next().await?, None, "{path}");
    }
    let scrape = Scrape::of(gateway.as_ref()).await?;
    for (path, _) in SURFACES {
        let labels = [("route", path), ("outcome", "ok")];
        assert_eq!(scrape.count("ollama_requests_total", &labels), 1, "{path}");
    }
    Ok(())
}

async fn a_stream_that_breaks_off_says_so_in_its_protocol(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let gateway = form.start(Setup::new([&first, &second]).set("BETWEEN_BYTES_TIMEOUT", "300ms")).await?;
    let ends = [
        (End::Cut, "upstream_protocol", "api_error", "broke off"),
        (End::Clean, "upstream_protocol", "api_error", "broke off"),
        (End::Hang, "upstream_timeout", "timeout_error", "in time"),
    ];
    for (path, recorded) in SURFACES {
        for (end, code, kind, words) in ends {
            let fault = Scripted::recorded(recorded)?.ending_after(2, end);
            let begun = said(&fault);
            first.answers(path, fault.clone());
            second.answers(path, fault);
            let asked = first.count(path) + second.count(path);
            let reply = open(gateway.as_ref(), path).await?.rest().await?;
            assert_eq!(reply.status, 200, "{path} {end:?}");
            let rest = reply.body.strip_prefix(&*begun).map(String::from_utf8_lossy);
            let Some(rest) = rest else { bail!("{path} {end:?}: {}", reply.text()) };
            let told = told(path, &rest);
            let expected = match path {
                CHAT | "/api/generate" => told.contains(words),
                "/v1/messages" => told == kind,
                _ => told == code,
            };
            assert!(expected, "{path} {end:?}: {rest}");
            assert!(rest.ends_with('\n') && !rest.contains("[DONE]"), "{path} {end:?}: {rest}");
            assert_eq!(
                first.count(path) + second.count(path) - asked,
                1,
                "{path} {end:?}: another host was asked"
            );
        }
    }
    let scrape = Scrape::of(gateway.as_ref()).await?;
    for (path, _) in SURFACES {
        for (outcome, count) in [("upstream_protocol", 2), ("upstream_timeout", 1)] {
            let labels = [("route", path), ("outcome", outcome)];
            assert_eq!(scrape.count("ollama_requests_total", &labels), count, "{labels:?}");
        }
    }
    Ok(())
}

async fn an_event_without_its_end_is_not_passed_on(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, recorded) in SURFACES {
        // Half an event, and a whole one that lacks nothing but its end.
        for missing in [12, 1] {
            let mut fault = Scripted::recorded(recorded)?.ending_after(2, End::Clean);
            let begun = said(&fault);
            let whole = Scripted::recorded(recorded)?.ending_after(3, End::Clean);
            let mut last = whole.pieces[2].clone();
            last.bytes.truncate(last.bytes.len() - missing);
            fault.pieces.push(last);
            ollama.answers(path, fault);
            let reply = open(gateway.as_ref(), path).await?.rest().await?;
            let rest = reply.body.strip_prefix(&*begun).map(String::from_utf8_lossy);
            let Some(rest) = rest else { bail!("{path} {missing}: {}", reply.text()) };
            assert!(told(path, &rest).len() > 5, "{path} {missing}: {rest}");
        }
    }
    Ok(())
}

async fn an_error_that_ollama_tells_in_the_stream_comes_as_it_is(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, recorded) in SURFACES {
        let mut scripted = Scripted::recorded(recorded)?;
        scripted.pieces.truncate(3);
        let error = match path {
            CHAT | "/api/generate" => "{\"error\":\"unexpected EOF\"}\n",
            "/v1/messages" => {
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"EOF\"}}\n\n"
            }
            _ => "data: {\"error\":{\"message\":\"unexpected EOF\",\"type\":\"api_error\"}}\n\n",
        };
        scripted.pieces[2].bytes = error.into();
        ollama.next(path, scripted.clone());
        let reply = open(gateway.as_ref(), path).await?.rest().await?;
        assert_eq!(reply.text(), String::from_utf8_lossy(&said(&scripted)), "{path}");
    }
    let scrape = Scrape::of(gateway.as_ref()).await?;
    assert_eq!(scrape.count("ollama_requests_total", &[("outcome", "upstream_failed")]), 6);
    Ok(())
}

async fn before_the_first_event_another_host_answers(form: &dyn Form) -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    for (path, recorded) in SURFACES {
        // A fleet of its own, so that one surface does not use up what the budget of retries leaves for another.
        let setup = Setup::new([&ill, &well]).set("CONNECT_TIMEOUT", "500ms");
        let setup = setup.set("FIRST_BYTE_TIMEOUT", "300ms").set("BETWEEN_BYTES_TIMEOUT", "300ms");
        let gateway = form.start(setup).await?;
        let scripted = Scripted::recorded(recorded)?;
        let nothing = |end| scripted.clone().ending_after(0, end);
        for (fault, status, kind) in [
            (Scripted::hang(), 504, "timeout_error"),
            (nothing(End::Hang), 504, "timeout_error"),
            (nothing(End::Cut), 502, "api_error"),
            (nothing(End::Clean), 502, "api_error"),
            (refusal(503)?, 503, "overloaded_error"),
        ] {
            ill.answers(path, fault.clone());
            well.answers(path, scripted.clone());
            for _ in 0..2 {
                let reply = open(gateway.as_ref(), path).await?.rest().await?;
                assert_eq!((reply.status.as_u16(), reply.header("x-paddock-host")), (200, "2"), "{path}");
                assert_eq!(reply.body, said(&scripted), "{path}");
            }
            well.answers(path, fault);
            let reply = open(gateway.as_ref(), path).await?.rest().await?;
            assert_eq!(reply.status, status, "{path}: {}", reply.text());
            assert_eq!(reply.header("content-type"), "application/json", "{path}");
            match path {
                CHAT | "/api/generate" => assert!(!reply.at("/error").is_empty(), "{path}: {}", reply.text()),
                "/v1/messages" => {
                    assert_eq!((reply.at("/type"), reply.at("/error/type")), ("error".into(), kind.into()));
                }
                _ => assert!(!reply.at("/error/code").is_empty(), "{path}: {}", reply.text()),
            }
        }
    }
    Ok(())
}

async fn a_whole_answer_has_one_limit_alone(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("CONNECT_TIMEOUT", "1").set("FIRST_BYTE_TIMEOUT", "200ms");
    let gateway = form.start(setup.set("BETWEEN_BYTES_TIMEOUT", "200ms").set("TOTAL_TIMEOUT", "2")).await?;
    let surfaces = [
        (CHAT, "07-chat"),
        ("/api/generate", "12-generate"),
        ("/v1/chat/completions", "23-v1-chat"),
        ("/v1/completions", "26-v1-completions"),
        ("/v1/responses", "30-v1-responses"),
        ("/v1/messages", "32-v1-messages"),
    ];
    let (ollama, gateway) = (&ollama, gateway.as_ref());
    let checks = surfaces.map(async |(path, recorded)| {
        let scripted = Scripted::recorded(recorded)?;
        ollama.next(path, scripted.clone().after(Duration::from_secs(1)));
        let slow = gateway.post_to(path, question(false), &[]).await?;
        assert_eq!((slow.status.as_u16(), slow.body.to_vec()), (200, said(&scripted)), "{path}");
        // One without a head, one whose body never comes.
        ollama.next(path, Scripted::hang());
        ollama.next(path, scripted.slowly(Duration::from_hours(1)));
        let ask = || gateway.post_to(path, question(false), &[]);
        for reply in join_all([ask(), ask()]).await {
            let reply = reply?;
            assert_eq!(reply.status, 504, "{path}: {}", reply.text());
            assert!(reply.text().contains("TOTAL_TIMEOUT"), "{path}: {}", reply.text());
        }
        anyhow::Ok(())
    });
    join_all(checks).await.into_iter().collect::<Result<()>>()?;
    ollama.wait_for_rest(PATIENCE).await
}

async fn a_client_that_leaves_while_it_is_written_to_is_noticed(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (index, (path, recorded)) in SURFACES.into_iter().enumerate() {
        let mut scripted = Scripted::recorded(recorded)?;
        // A model that would speak for minutes: the events but the last, again and again.
        scripted.pieces.pop();
        scripted.pieces = scripted.pieces.iter().cycle().take(3000).cloned().collect();
        ollama.next(path, scripted.slowly(Duration::from_millis(50)));
        let mut reply = open(gateway.as_ref(), path).await?;
        ensure!(reply.next().await?.is_some(), "{path} says nothing");
        drop(reply);
        ollama.wait_for_given_up(index + 1, Duration::from_secs(5)).await?;
    }
    assert_eq!(ollama.open_requests(), 0);
    Ok(())
}

on_every_form! {
    a_client_that_leaves_while_it_is_written_to_is_noticed,
    bytes_come_unchanged_and_as_they_are_said,
    a_stream_that_breaks_off_says_so_in_its_protocol,
    an_event_without_its_end_is_not_passed_on,
    an_error_that_ollama_tells_in_the_stream_comes_as_it_is,
    before_the_first_event_another_host_answers,
    a_whole_answer_has_one_limit_alone,
}
