//! Connections of the native server: kept, pipelined, slow, broken.

use std::time::Duration;

use anyhow::Result;
use paddock_tests::{
    gateway::{HostShim, PATIENCE},
    ollama::{CHAT, FakeOllama},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

async fn start(ollama: &FakeOllama, more: &[(&str, &str)]) -> Result<HostShim> {
    let own = [("OLLAMA_HOST".to_owned(), ollama.url())];
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let settings: std::collections::BTreeMap<_, _> = own.into_iter().chain(more).collect();
    HostShim::start(&settings).await
}

fn chat(message: &str) -> String {
    let body = json!({ "message": message }).to_string();
    format!("POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Reads until the text holds `wanted` so many times.
async fn read_until(connection: &mut TcpStream, wanted: &str, times: usize) -> Result<String> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while text.matches(wanted).count() < times {
        let read = tokio::time::timeout(PATIENCE, connection.read(&mut buffer)).await??;
        anyhow::ensure!(read > 0, "the connection ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    Ok(text)
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_upstream_too() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("CACHE_ENABLED", "false")]).await?;
    let mut connection = TcpStream::connect(shim.address()).await?;
    for number in 0..10 {
        connection.write_all(chat(&format!("question {number}")).as_bytes()).await?;
        read_until(&mut connection, &format!("echo of question {number}"), 1).await?;
    }
    assert_eq!(ollama.count(CHAT), 10);
    // Two may be looks at what it has, one at the start and one in the background; and a chat may come before the
    // connection of the last one is free.
    assert!(ollama.connections() <= 6, "{} connections to Ollama for 10 chats", ollama.connections());
    Ok(())
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[]).await?;
    let mut connection = TcpStream::connect(shim.address()).await?;
    let requests = ["one", "two", "three"].map(chat).concat();
    connection.write_all(requests.as_bytes()).await?;
    let text = read_until(&mut connection, "echo of ", 3).await?;
    let place = |word: &str| text.find(&format!("echo of {word}"));
    assert!(place("one") < place("two") && place("two") < place("three"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_let_go() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("CLIENT_TIMEOUT", "300ms")]).await?;
    for unfinished in
        ["POST /chat HTT", "POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"mess"]
    {
        let mut connection = TcpStream::connect(shim.address()).await?;
        connection.write_all(unfinished.as_bytes()).await?;
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await??;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.contains(" 408 "), "{unfinished:?}: {answer}");
    }
    assert_eq!(ollama.count(CHAT), 0);
    Ok(())
}

#[tokio::test]
async fn what_is_no_http_does_not_disturb_others() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[]).await?;
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET\r\n\r\n", b"\r\n\r\n\0\0", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut connection = TcpStream::connect(shim.address()).await?;
        connection.write_all(garbage).await?;
        drop(connection);
    }
    let mut connection = TcpStream::connect(shim.address()).await?;
    connection.write_all(chat("hello").as_bytes()).await?;
    read_until(&mut connection, "echo of hello", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_reply_does_not_wait_for_acknowledgements() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[]).await?;
    let mut connection = TcpStream::connect(shim.address()).await?;
    // Without TCP_NODELAY each costs 40 ms. The fastest of many is compared, for the machine may be loaded.
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let started = std::time::Instant::now();
        connection.write_all(chat("hello").as_bytes()).await?;
        read_until(&mut connection, "\"session_id\"", 1).await?;
        fastest = fastest.min(started.elapsed());
    }
    assert!(fastest < Duration::from_millis(35), "{fastest:?}");
    Ok(())
}
