//! A request's body, packed or a form or neither, in pieces: it never breaks the service, and what goes on to a host is what
//! came.
#![no_main]

use http::Request;
use libfuzzer_sys::fuzz_target;
use paddock::host::memory::MemoryPlatform;
use paddock_fuzz::{Host, Pieces, config, reply};

const SURFACES: [(&str, &str); 12] = [
    ("/chat", "x-none"),
    ("/api/chat", "x-none"),
    ("/api/generate", "x-none"),
    ("/api/embed", "x-none"),
    ("/v1/chat/completions", "x-none"),
    ("/v1/responses", "x-none"),
    ("/v1/messages", "x-none"),
    ("/sessions", "x-none"),
    ("/v1/chat/completions", "content-encoding"),
    ("/v1/messages", "content-encoding"),
    ("/v1/audio/transcriptions", "x-none"),
    ("/api/show", "x-none"),
];

fuzz_target!(|data: &[u8]| {
    let [surface, piece, session, body @ ..] = data else { return };
    let (path, coding) = SURFACES[usize::from(*surface) % SURFACES.len()];
    let host = Host::answering("application/json", b"{\"error\":\"no\"}", 0);
    let service = MemoryPlatform::service(config(("", "")), host.clone());
    let mut request = Request::post(path)
        .header(
            "content-type",
            if path.ends_with("transcriptions") { "multipart/form-data; boundary=x" } else { "text/plain" },
        )
        .header(coding, "zstd");
    if *session == 1 {
        request = request.header("x-paddock-session", "s");
    }
    let answered = reply(&service, request.body(Pieces::of(body, usize::from(*piece))).unwrap());
    assert_ne!(answered.status, 500, "{}", String::from_utf8_lossy(&answered.body));
    if coding == "x-none" && path != "/chat" && *session != 1 {
        assert!(host.asked().iter().all(|asked| *asked == body), "another body went on");
    }
});
