//! A Redis that answers anything to anything: it never breaks or hangs the service.
#![no_main]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{Method, Request};
use libfuzzer_sys::fuzz_target;
use paddock::{
    Service,
    host::memory::{ManualClock, MemoryPlatform},
    metrics::memory::MemoryMetrics,
    store::{
        StoreResult, StoreTimeouts, TimeLimit,
        redis::{RedisCommands, RedisStore, RedisValue},
    },
};
use paddock_fuzz::{Host, Pieces, config, reply};

/// Gives the same replies in turn.
#[derive(Debug, Clone)]
struct Replies(Arc<Vec<Vec<RedisValue>>>, Arc<AtomicUsize>);

impl Replies {
    /// A line a reply, a letter and a text for each of its elements, which tabs part.
    fn of(data: &[u8]) -> Self {
        let value = |element: &[u8]| match element.split_first() {
            Some((b'i', number)) => {
                RedisValue::Integer(String::from_utf8_lossy(number).parse().unwrap_or(i64::MAX))
            }
            Some((b's', text)) => RedisValue::Status(String::from_utf8_lossy(text).into_owned()),
            Some((b'b', text)) => RedisValue::Bytes(text.to_vec()),
            _ => RedisValue::Nil,
        };
        let reply = |line: &[u8]| line.split(|byte| *byte == b'\t').map(value).collect();
        Self(Arc::new(data.split(|byte| *byte == 0).map(reply).collect()), Arc::default())
    }

    fn next(&self) -> Vec<RedisValue> {
        let at = self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(at % self.0.len().max(1)).cloned().unwrap_or_default()
    }
}

impl RedisCommands for Replies {
    async fn execute(&self, _: &'static str, _: &[&[u8]], _: TimeLimit) -> StoreResult<Vec<RedisValue>> {
        Ok(self.next())
    }

    async fn execute_replicated(
        &self,
        _: &'static str,
        _: &[&[u8]],
        _: u32,
        _: TimeLimit,
    ) -> StoreResult<(Vec<RedisValue>, u32)> {
        Ok((self.next(), 1))
    }
}

fuzz_target!(|data: &[u8]| {
    let host = Host::answering(
        "application/x-ndjson",
        b"{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"b\"},\"done\":true}\n",
        0,
    );
    let config = config(("SESSION_TTL", "60"));
    let timeouts = StoreTimeouts { ask: Duration::from_secs(1), keep: Duration::from_secs(1) };
    let store = RedisStore::new(Replies::of(data), "p", timeouts);
    let platform = MemoryPlatform::new(host, ManualClock::default());
    let service = Service::new(config, platform, store, MemoryMetrics::default());
    for (method, path, body) in [
        (Method::POST, "/chat", r#"{"model":"m","message":"a","session_id":"s"}"#),
        (
            Method::POST,
            "/api/chat",
            r#"{"model":"m","messages":[{"role":"user","content":"a"}],"options":{"seed":1}}"#,
        ),
        (Method::GET, "/sessions/s", ""),
        (Method::GET, "/fleet", ""),
        (Method::GET, "/health", ""),
        (Method::DELETE, "/sessions/s", ""),
    ] {
        let request = Request::builder().method(method.clone()).uri(path);
        let answered = reply(&service, request.body(Pieces::of(body.as_bytes(), 0)).unwrap());
        assert_ne!(answered.status, 500, "{method} {path}: {}", String::from_utf8_lossy(&answered.body));
    }
});
