//! How much memory it takes to read a request: at most three times its body, whatever is in it.
//!
//! No host is there, so that all that is measured is what happens before one is asked: a body is parsed, brought into a
//! canonical form and hashed, and a session's history is put before it.

#![cfg(test)]

use anyhow::Result;
use http::Method;
use paddock_tests::{
    gateway::{Form, Gateway, Memory},
    ollama::FakeOllama,
    setup::Setup,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// How long a body is, in bytes.
const LENGTH: usize = 2 << 20;
/// How much memory a request may take besides its body, in bodies.
const TIMES: usize = 3;
/// What a request takes that has nothing in it, in bytes.
const LEAST: usize = 512 << 10;

/// A body of one part that comes again and again between a beginning and an end.
fn body(beginning: &str, part: &[u8], end: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(LENGTH);
    body.extend_from_slice(beginning.as_bytes());
    while body.len() + part.len() + end.len() <= LENGTH {
        body.extend_from_slice(part);
    }
    body.extend_from_slice(end.as_bytes());
    body
}

/// How much more memory than before is in use at once while the request is answered.
async fn peak(gateway: &dyn Gateway, path: &str, body: Vec<u8>, session: bool) -> Result<usize> {
    let headers: &[_] = if session { &[("x-paddock-session", "s")] } else { &[] };
    let body = bytes::Bytes::from(body);
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    drop(gateway.request(Method::POST, path, body, headers).await?);
    Ok(ALLOCATOR.peak_usage().saturating_sub(before))
}

#[tokio::test]
async fn a_request_takes_at_most_three_times_its_body() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.refuse().await;
    let gateway = Memory.start(Setup::new([&ollama]).set("CACHE_MODE", "all")).await?;
    let asks = r#"{"model":"m","max_tokens":9,"stream":false,"#;
    let said = |text: &str| format!(r#"{asks}"messages":[{{"role":"user","content":{text}"#);
    for (what, path, sessions, body) in [
        ("members", "/api/chat", true, body("{\"a\":0", b",\"\":0", "}")),
        ("names in upper case", "/api/chat", true, body("{\"a\":0", b",\"AAAA\":0", "}")),
        ("one name", "/api/chat", true, body("{\"", b"A", "\":0}")),
        ("one name with escapes", "/api/chat", true, body("{\"", b"\\u0041", "\":0}")),
        ("one model", "/api/generate", false, body("{\"model\":\"", b"\\n", "\"}")),
        ("messages", "/api/chat", true, body(&format!("{asks}\"messages\":[{{}}"), b",{}", "]}")),
        ("parts", "/v1/messages", true, body(&said("[0"), b",0", "]}]}")),
        ("numbers", "/v1/embeddings", false, body("{\"model\":\"m\",\"input\":[1", b",1", "]}")),
        ("lists", "/api/embed", false, body("{\"model\":\"m\",\"input\":[[]", b",[]", "]}")),
        ("depth", "/api/embed", false, body("{\"model\":\"m\",\"input\":", b"[", "")),
        ("options", "/api/generate", false, body("{\"model\":\"m\",\"options\":{\"a\":0", b",\"\":0", "}}")),
        ("text", "/v1/chat/completions", false, body(&said("\""), b"text ", "\"}]}")),
        ("text with escapes", "/v1/chat/completions", false, body(&said("\""), b"\\u00e9", "\"}]}")),
        ("no UTF-8", "/api/chat", false, body(&said("\""), b"\xff", "\"}]}")),
        ("what follows", "/api/chat", false, body(&format!("{}\"}}]}}", said("\"hi")), b"{\"\":0}", "")),
        ("images", "/chat", false, body("{\"message\":\"hi\",\"images\":[\"\"", b",\"\"", "]}")),
        ("unknown", "/chat", false, body("{\"message\":\"hi\",\"x\":[0", b",0", "]}")),
    ] {
        let length = body.len();
        for session in [false, true].into_iter().filter(|session| sessions || !session) {
            let peak = peak(gateway.as_ref(), path, body.clone(), session).await?;
            assert!(peak <= TIMES * length + LEAST, "{what}, session {session}: {peak} of {length}");
        }
    }
    Ok(())
}
