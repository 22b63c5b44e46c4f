//! Refusals that are known before the body is read, and clients that read nothing before they have sent it all.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use crate::behaviors::prelude::*;

/// More than the buffers between two sockets hold.
const LONG: usize = 15 << 20;
/// How often each is tried: whether a connection is reset before its reply is read is a matter of chance.
const TIMES: usize = 8;

/// Sends a head, then all of a body, and reads only then.
fn exchange(address: SocketAddr, head: &str, body: &[u8]) -> Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    connection.write_all(head.as_bytes())?;
    for piece in body.chunks(64 << 10) {
        connection.write_all(piece)?;
    }
    // Some forms keep the connection, so its end is not the end of the reply.
    let (mut reply, mut piece) = (String::new(), [0; 4096]);
    while !is_whole(&reply) {
        let read = connection.read(&mut piece)?;
        ensure!(read > 0, "the connection ended after {reply:?}");
        reply.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    Ok(reply)
}

/// Whether a reply has its head, and as much behind it as the head announces.
fn is_whole(reply: &str) -> bool {
    let Some((head, body)) = reply.split_once("\r\n\r\n") else { return false };
    let lengths = head.lines().filter_map(|line| line.split_once(": "));
    let length = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.filter_map(|(_, value)| value.parse::<usize>().ok()).any(|length| body.len() >= length)
}

fn address(gateway: &dyn Gateway) -> Result<SocketAddr> {
    let url = gateway.url().context("no address")?;
    Ok(url.trim_start_matches("http://").parse()?)
}

async fn a_refusal_reaches_a_client_that_sends_its_whole_body_first(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama])
        .set("API_KEYS", "alpha")
        .set("ALLOWED_HOSTS", "ai.example.com")
        .set("CHAT_BODY_LIMIT", "1KiB");
    let gateway = form.start(setup).await?;
    let address = address(gateway.as_ref())?;
    for (request, headers, status) in [
        ("POST /api/chat", "host: evil.example", 403),
        ("POST /api/chat", "origin: http://evil.example", 403),
        ("POST /api/chat", "x-api-key: beta", 401),
        ("POST /api/nosuch", "x-api-key: alpha", 404),
        ("PUT /api/chat", "x-api-key: alpha", 405),
        ("POST /api/generate", "x-api-key: alpha\r\nx-paddock-session: s", 400),
        ("POST /api/create", "x-api-key: alpha", 403),
        ("POST /api/blobs/sha256:0", "x-api-key: alpha", 403),
        ("POST /chat", "x-api-key: alpha", 413),
        ("POST /api/chat", "x-api-key: alpha\r\ncontent-encoding: gzip", 415),
    ] {
        let host = if headers.starts_with("host") { "" } else { "host: ai.example.com\r\n" };
        let head = format!("{request} HTTP/1.1\r\n{host}{headers}\r\ncontent-length: {LONG}\r\n\r\n");
        let sent = (0..TIMES).map(|_| {
            let head = head.clone();
            tokio::task::spawn_blocking(move || exchange(address, &head, &vec![b'x'; LONG]))
        });
        for reply in join_all(sent).await {
            let reply = reply?.with_context(|| head.clone())?;
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{head}{reply}");
            assert!(reply.ends_with('}'), "{head}{reply}");
        }
    }
    assert_eq!(ollama.count(CHAT), 0);
    Ok(())
}

async fn a_refusal_reaches_a_client_that_never_says_how_long_its_body_is(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    let address = address(gateway.as_ref())?;
    let head = "POST /chat HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut body = b"100000\r\n".to_vec();
    body.resize(body.len() + (1 << 20), b'x');
    body.extend(b"\r\n");
    let mut body = body.repeat(15);
    body.extend(b"0\r\n\r\n");
    let reply = tokio::task::spawn_blocking(move || exchange(address, head, &body)).await??;
    assert!(reply.starts_with("HTTP/1.1 401 ") && reply.contains("unauthorized"), "{reply}");
    Ok(())
}

over_http! {
    a_refusal_reaches_a_client_that_sends_its_whole_body_first,
    a_refusal_reaches_a_client_that_never_says_how_long_its_body_is,
}
