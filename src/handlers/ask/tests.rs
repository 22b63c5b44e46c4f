//! How often a request gives its turn away while its body is read: nothing else is waited for here.

#![cfg(feature = "memory")]

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Full, combinators::MapErr};

use super::*;
use crate::{
    Config,
    config::settings::Deployment,
    host::memory::MemoryPlatform,
    platform::{Timeouts, Upstream, UpstreamFailure},
    wire::pace::STEP,
};

/// A host that has a model, and refuses to be asked.
struct Refusing;

impl Upstream for Refusing {
    type Body = MapErr<Full<Bytes>, fn(Infallible) -> UpstreamFailure>;

    async fn send(
        &self,
        request: Request<Bytes>,
        _: Timeouts,
    ) -> Result<Response<Self::Body>, UpstreamFailure> {
        use http_body_util::BodyExt as _;

        let (status, answer) = match request.uri().path() {
            "/api/tags" => (200, r#"{"models":[{"name":"m:latest","digest":"ab"}]}"#),
            "/api/chat" | "/v1/chat/completions" => (400, r#"{"error":"refused"}"#),
            _ => (200, "{}"),
        };
        let body: Full<Bytes> = Full::from(answer);
        let body = body.map_err((|never| match never {}) as fn(_) -> _);
        Ok(Response::builder().status(status).body(body).unwrap())
    }
}

/// How often a request is polled until it is refused.
fn polls(path: &str, headers: &[(&str, &str)], body: String) -> usize {
    let value = |name: &str| match name {
        "OLLAMA_HOSTS" => Some("http://one".to_owned()),
        "CACHE_MODE" => Some("all".to_owned()),
        _ => None,
    };
    let config = Config::load(&value, Deployment::Native).unwrap().config;
    let service = MemoryPlatform::service(config, Refusing);
    let mut count = 0;
    let mut run = |body: String| {
        let mut request = Request::post(path).body(Full::<Bytes>::from(body)).unwrap();
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let mut answered = pin!(service.platform().run(crate::handle(&service, request)));
        count = 1;
        loop {
            match answered.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(response) => {
                    assert_eq!(response.status(), 400, "{path}");
                    return;
                }
                Poll::Pending => count += 1,
            }
            assert!(count < 10_000, "it waits");
        }
    };
    // The second one knows the host.
    run(r#"{"model":"m","message":"hi","messages":[{"role":"user","content":"hi"}]}"#.to_owned());
    run(body);
    count
}

#[test]
fn a_long_body_gives_its_turn_away_after_each_step_and_a_short_one_never() {
    let message = |bytes| format!(r#"{{"role":"user","content":"{}"}}"#, "x".repeat(bytes));
    let text = |messages: usize, bytes: usize| {
        let list = vec![message(bytes); messages].join(",");
        let (first, key) = ("y".repeat(bytes), "message");
        format!(r#"{{"model":"m","{key}":"{first}","images":["{first}"],"messages":[{list}]}}"#)
    };
    let session = ("x-paddock-session", "s");
    let repeated = ("idempotency-key", "k");
    for (path, headers, readings) in [
        // It is checked, cut into members, and hashed.
        ("/api/chat", &[][..], 2),
        ("/v1/chat/completions", &[], 2),
        ("/v1/chat/completions", &[repeated], 2),
        // Its messages are read and weighed as well, and copied behind the history.
        ("/v1/chat/completions", &[session], 6),
        ("/api/chat", &[session], 6),
        // What it does not know is counted, and not looked at any more.
        ("/chat", &[], 1),
        ("/chat", &[session], 1),
    ] {
        let shortest = polls(path, headers, text(1, 2));
        let short = text(10, STEP / 16);
        assert!(short.len() < STEP && short.len() > STEP / 2);
        assert_eq!(polls(path, headers, short), shortest, "{path} {headers:?}");
        let long = text(40, STEP / 2);
        let (steps, length) = (polls(path, headers, long.clone()) - shortest, long.len());
        assert!(steps >= readings * length / STEP, "{path} {headers:?}: {steps}");
    }
}
