//! SIGTERM: open requests are answered, new ones are not taken.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use paddock_tests::{
    gateway::{HostShim, PATIENCE},
    http_client::{self, Reply},
    ollama::{CHAT, End, FakeOllama, Scripted},
};
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
    connection.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await?;
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
    assert!(shim.wait().await?.success());
    assert!(shim.logs().contains("still open"), "{}", shim.logs());
    ollama.wait_for_given_up(1, PATIENCE).await?;
    // Its client sees the end of the connection, or that the service shuts down; no invented answer.
    if let Ok(reply) = chat.await? {
        assert_ne!(reply.status, 200);
    }
    Ok(())
}
