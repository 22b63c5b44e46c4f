//! A model that takes long to load: what a client gets while it waits. The seconds pass in memory, by hand.

use futures::FutureExt as _;
use paddock_tests::{gateway::Streamed, ollama::Gate};

use crate::behaviors::prelude::*;

/// Surfaces of server-sent events.
const EVENTS: [&str; 5] =
    ["/chat", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"];

fn question() -> serde_json::Value {
    let messages = json!([{"role": "user", "content": "hello"}]);
    json!({"message": "hello", "model": "llama3.2", "messages": messages, "prompt": "hello", "input": "hello", "max_tokens": 9, "stream": true})
}

/// Where Ollama is asked.
fn upstream(path: &str) -> &str {
    if path == "/chat" { CHAT } else { path }
}

/// Opens a stream of a model that is silent until the client has its head.
async fn open_early(gateway: &dyn Gateway, ollama: &FakeOllama, path: &str) -> Result<Streamed> {
    let asked = ollama.count(upstream(path)) + 1;
    let mut opening = Box::pin(gateway.open_post(path, question(), &[]));
    tokio::select! {
        early = &mut opening => bail!("{path} has a head at once: {early:?}"),
        asked = ollama.wait_for_requests(upstream(path), asked, PATIENCE) => asked?,
    }
    gateway.pass(Duration::from_millis(9_999)).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
        ensure!((&mut opening).now_or_never().is_none(), "{path} has its head before ten seconds passed");
    }
    gateway.pass(Duration::from_millis(1)).await;
    let reply = opening.await?;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "text/event-stream"), "{path}");
    Ok(reply)
}

/// Reads one comment.
async fn comment(reply: &mut Streamed) -> Result<()> {
    let line = reply.next_line().await?.unwrap_or_default();
    assert!(line.starts_with(':'), "{line}");
    assert_eq!(reply.next_line().await?.as_deref(), Some(""));
    Ok(())
}

async fn a_client_of_events_gets_a_sign_each_second(form: &dyn Form) -> Result<()> {
    for path in EVENTS {
        let ollama = FakeOllama::start().await?;
        let gateway = form.start(Setup::new([&ollama])).await?;
        let gate = Gate::default();
        ollama.next(upstream(path), plain(path)?.behind(&gate));
        let mut reply = open_early(gateway.as_ref(), &ollama, path).await?;
        for _ in 0..3 {
            comment(&mut reply).await?;
            gateway.pass(Duration::from_secs(1)).await;
        }
        gate.open(1);
        let rest = reply.rest().await?.text();
        let rest = rest.trim_start_matches(": waiting for the model\n\n");
        if path == "/chat" {
            assert!(rest.starts_with("event: token\n") && rest.contains("event: done\n"), "{rest}");
        } else {
            let said: Vec<u8> = plain(path)?.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
            assert_eq!(rest.as_bytes(), said, "{path}");
        }
    }
    Ok(())
}

fn plain(path: &str) -> Result<Scripted> {
    Scripted::recorded(match path {
        "/chat" | CHAT => "08-chat-stream",
        "/api/generate" => "13-generate-stream",
        "/v1/chat/completions" => "25-v1-chat-stream-usage",
        "/v1/completions" => "27-v1-completions-stream",
        "/v1/responses" => "31-v1-responses-stream",
        _ => "33-v1-messages-stream",
    })
}

async fn an_error_after_an_early_head_is_an_event(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    for path in EVENTS {
        let gateway = form.start(Setup::new([&ollama])).await?;
        for (fault, words) in
            [(503, "busy"), (404, "not found"), (500, "unexpected EOF"), (400, "invalid model name")]
        {
            let gate = Gate::default();
            ollama.next(upstream(path), refusal(fault)?.behind(&gate));
            let mut reply = open_early(gateway.as_ref(), &ollama, path).await?;
            comment(&mut reply).await?;
            gate.open(1);
            let (name, data) = reply.next_event().await?.unwrap_or_default();
            let is_named = !path.ends_with("completions");
            assert_eq!(name, if is_named { "error" } else { "" }, "{path} {data}");
            assert!(data.contains(words), "{path}: {data}");
            assert_eq!(reply.next_event().await?, None, "{path}");
        }
    }
    Ok(())
}

async fn another_host_still_answers_after_an_early_head(form: &dyn Form) -> Result<()> {
    for path in EVENTS {
        let (slow, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
        let gateway = form.start(Setup::new([&slow, &well]).set("LB_POLICY", "round_robin")).await?;
        let gate = Gate::default();
        slow.next(upstream(path), refusal(503)?.behind(&gate));
        well.next(upstream(path), plain(path)?);
        let reply = open_early(gateway.as_ref(), &slow, path).await?;
        gate.open(1);
        let text = reply.rest().await?.text();
        assert!(
            text.starts_with(": ") && !text.contains("upstream_") && !text.contains("event: error"),
            "{path}: {text}"
        );
        assert_eq!(well.count(upstream(path)), 1, "{path}");
    }
    Ok(())
}

async fn a_client_that_leaves_after_an_early_head_is_noticed(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.loads(&["llama3.2:latest"]);
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (index, path) in EVENTS.into_iter().enumerate() {
        ollama.next(upstream(path), Scripted::hang());
        drop(open_early(gateway.as_ref(), &ollama, path).await?);
        ollama.wait_for_given_up(index + 1, Duration::from_secs(1)).await?;
    }
    Ok(())
}

async fn a_client_of_lines_waits_in_silence(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, accept) in [(CHAT, "*/*"), ("/api/generate", "*/*"), ("/chat", "application/x-ndjson")] {
        let gate = Gate::default();
        ollama.next(upstream(path), plain(path)?.behind(&gate));
        let asked = ollama.count(upstream(path)) + 1;
        let headers = [("accept", accept)];
        let mut opening = Box::pin(gateway.open_post(path, question(), &headers));
        tokio::select! {
            early = &mut opening => bail!("{path} has a head at once: {early:?}"),
            asked = ollama.wait_for_requests(upstream(path), asked, PATIENCE) => asked?,
        }
        for _ in 0..30 {
            gateway.pass(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
            ensure!((&mut opening).now_or_never().is_none(), "{path} has a head before upstream has");
        }
        gate.open(1);
        let text = opening.await?.rest().await?.text();
        assert!(text.lines().all(|line| line.starts_with('{')), "{path}: {text}");
    }
    Ok(())
}

in_memory! {
    a_client_of_events_gets_a_sign_each_second,
    an_error_after_an_early_head_is_an_event,
    another_host_still_answers_after_an_early_head,
    a_client_that_leaves_after_an_early_head_is_noticed,
    a_client_of_lines_waits_in_silence,
}
