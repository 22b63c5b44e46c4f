//! SIGTERM: open requests are answered, new ones are not taken.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use paddock_tests::{
    gateway::{HostShim, PATIENCE},
    http_client::{self, Reply, Streamed},
    ollama::{CHAT, End, FakeOllama, Scripted},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

async fn start(ollama: &FakeOllama, drain_timeout: &str) -> Result<HostShim> {
    let settings = BTreeMap::from([
        ("OLLAMA_HOST".to_owned(), ollama.url()),
        ("DRAIN_TIMEOUT".to_owned(), drain_timeout.to_owned()),
    ]);
    HostShim::start(&settings).await
}

/// A chat in the background, which Ollama was asked for when this returns.
async fn open_chat(shim: &HostShim, ollama: &FakeOllama) -> Result<JoinHandle<Result<Reply>>> {
    let body = Bytes::from(json!({"message": "hello"}).to_string());
    let request = http::Request::post("/chat").body(body.into())?;
    let chat = tokio::spawn(http_client::send(shim.address(), request));
    ollama.wait_for_requests(CHAT, 1, PATIENCE).await?;
    Ok(chat)
}

#[tokio::test]
async fn an_open_request_is_answered_before_the_process_ends() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.chats(Scripted::saying("in the end")?.slowly(Duration::from_millis(500)));
    let mut shim = start(&ollama, "30").await?;
    let chat = open_chat(&shim, &ollama).await?;
    shim.terminate()?;
    shim.wait_for_log(|line| line["message"].as_str()?.contains("draining").then_some(())).await?;
    // The port is free at once, so that a successor can take it.
    assert!(TcpStream::connect(shim.address()).await.is_err());
    assert_eq!(chat.await??.response(), "in the end");
    assert!(shim.wait().await?.success());
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_the_process() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let mut shim = start(&ollama, "300").await?;
    let mut connection = TcpStream::connect(shim.address()).await?;
    connection.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut head = [0; 12];
    connection.read_exact(&mut head).await?;
    assert_eq!(&head, b"HTTP/1.1 200");
    shim.terminate()?;
    assert!(shim.wait().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up_at_the_limit() -> Result<()> {
    let ollama = Arc::new(FakeOllama::start().await?);
    ollama.chats(Scripted::unfinished(End::Hang)?);
    let mut shim = start(&ollama, "1").await?;
    let chat = open_chat(&shim, &ollama).await?;
    shim.terminate()?;
    assert_eq!(shim.wait().await?.code(), Some(1));
    assert!(shim.logs().contains("still open"), "{}", shim.logs());
    ollama.wait_for_given_up(1, PATIENCE).await?;
    assert_eq!(chat.await??.outcome(), (503, "shutting_down".to_owned()));
    let lines = shim.logs().lines().filter(|line| line.contains("\"outcome\":\"shutting_down\"")).count();
    assert_eq!(lines, 1, "{}", shim.logs());
    Ok(())
}

#[tokio::test]
async fn a_change_in_one_piece_that_never_ends_is_given_up_with_a_reply() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let settings = BTreeMap::from([
        ("OLLAMA_HOST".to_owned(), ollama.url()),
        ("DRAIN_TIMEOUT".to_owned(), "1".to_owned()),
        ("ALLOW_MODEL_MANAGEMENT".to_owned(), "true".to_owned()),
    ]);
    let mut shim = HostShim::start(&settings).await?;
    ollama.answers("/api/pull", Scripted::unfinished(End::Hang)?);
    let body = Bytes::from(json!({"model": "phi4:14b", "stream": false}).to_string());
    let request = http::Request::post("/api/pull").body(body.into())?;
    let pull = tokio::spawn(http_client::send(shim.address(), request));
    ollama.wait_for_requests("/api/pull", 1, PATIENCE).await?;
    shim.terminate()?;
    assert_eq!(shim.wait().await?.code(), Some(1));
    let reply = pull.await??;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("shutting down"), "{}", reply.text());
    assert_eq!(shim.logs().matches("\"outcome\":\"shutting_down\"").count(), 1, "{}", shim.logs());
    Ok(())
}

/// A stream of which one event has come, and no other will.
async fn open_stream(shim: &HostShim, path: &str) -> Result<Streamed> {
    let body = json!({
        "model": "llama3.2",
        "message": "hello",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": true,
    });
    let request = http::Request::post(path).body(Bytes::from(body.to_string()).into())?;
    let mut stream = http_client::open(shim.address(), request).await?;
    ensure!(stream.status == 200, "{path}: {}", stream.status);
    ensure!(stream.next().await?.is_some(), "{path} ended");
    Ok(stream)
}

/// The last event of each stream, which says that the service ends.
const LAST_EVENTS: [(&str, &str); 2] = [
    ("/chat", "event: error\ndata: {\"error\":{\"code\":\"shutting_down\""),
    ("/api/chat", "{\"error\":\"the service is shutting down; try again\"}"),
];

#[tokio::test]
async fn a_stream_that_is_cut_says_so_last_and_has_its_line_in_the_log() -> Result<()> {
    let ollama = Arc::new(FakeOllama::start().await?);
    ollama.chats(Scripted::unfinished(End::Hang)?);
    let mut shim = start(&ollama, "1").await?;
    let mut streams = Vec::new();
    for (path, _) in LAST_EVENTS {
        streams.push(open_stream(&shim, path).await?);
    }
    shim.terminate()?;
    for (stream, (path, last)) in streams.into_iter().zip(LAST_EVENTS) {
        let text = stream.rest().await?.text();
        let event = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let event = if path == "/chat" { event } else { event.lines().last().unwrap_or_default() };
        assert!(event.starts_with(last), "{path}: {text}");
    }
    assert_eq!(shim.wait().await?.code(), Some(1));
    let lines = shim.logs().lines().filter(|line| line.contains("\"outcome\":\"shutting_down\"")).count();
    assert_eq!(lines, 2, "{}", shim.logs());
    Ok(())
}

fn send(shim: &HostShim, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(shim.id().try_into()?).context("no process id")?;
    Ok(kill_process(pid, signal)?)
}

#[tokio::test]
async fn a_second_signal_ends_at_once() -> Result<()> {
    for second in [Signal::TERM, Signal::INT] {
        let ollama = Arc::new(FakeOllama::start().await?);
        ollama.chats(Scripted::unfinished(End::Hang)?);
        let mut shim = start(&ollama, "300").await?;
        let stream = open_stream(&shim, "/chat").await?;
        shim.terminate()?;
        shim.wait_for_log(|line| line["message"].as_str()?.contains("draining").then_some(())).await?;
        send(&shim, second)?;
        assert_eq!(shim.wait().await?.code(), Some(1), "{second:?}");
        assert!(stream.rest().await?.text().contains("shutting_down"), "{second:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_hangup_ends_nothing() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let mut shim = start(&ollama, "30").await?;
    send(&shim, Signal::HUP)?;
    shim.wait_for_log(|line| line["message"].as_str()?.contains("SIGHUP").then_some(())).await?;
    let request = http::Request::get("/livez").body("".into())?;
    assert_eq!(http_client::send(shim.address(), request).await?.status, 200);
    shim.terminate()?;
    assert!(shim.wait().await?.success());
    Ok(())
}
