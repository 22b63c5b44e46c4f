//! What a host streams, on every surface and in any pieces: it never breaks or hangs the service, and nothing is told to the
//! client that the host did not say, but an error.
#![no_main]

use http::Request;
use libfuzzer_sys::fuzz_target;
use paddock::host::memory::MemoryPlatform;
use paddock_fuzz::{Host, Pieces, config, reply};

const SURFACES: [(&str, &str); 8] = [
    ("/api/chat", "application/x-ndjson"),
    ("/api/generate", "application/x-ndjson"),
    ("/v1/chat/completions", "text/event-stream"),
    ("/v1/completions", "text/event-stream"),
    ("/v1/responses", "text/event-stream"),
    ("/v1/messages", "text/event-stream"),
    ("/chat", "application/x-ndjson"),
    ("/api/embed", "application/json"),
];

fuzz_target!(|data: &[u8]| {
    let [surface, piece, whole, said @ ..] = data else { return };
    let (path, content_type) = SURFACES[usize::from(*surface) % SURFACES.len()];
    let host = Host::answering(content_type, said, usize::from(*piece));
    let service = MemoryPlatform::service(config(("", "")), host);
    let streams = whole & 1 == 0;
    let question = format!(
        r#"{{"model":"m","stream":{streams},"message":"a","prompt":"a","input":"a","max_tokens":1,"messages":[{{"role":"user","content":"a"}}]}}"#
    );
    // The second answer may come from the cache, in the other form.
    for _ in 0..2 {
        let asked = Request::post(path).body(Pieces::of(question.as_bytes(), 0)).unwrap();
        let answered = reply(&service, asked);
        assert_ne!(answered.status, 500, "{}", String::from_utf8_lossy(&answered.body));
    }
});
