//! A small stand-in for Ollama inside the process, so that a newcomer without Ollama sees everything work.
//!
//! It speaks as much of Ollama's API as the core uses, and each of its answers says that it is a demo.

use std::{convert::Infallible, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use paddock::{BackendHost, LoadBalancer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// The pause before each word, so that an answer comes as from a model.
const WORD_PAUSE: Duration = Duration::from_millis(8);

type DemoBody = BoxBody<Bytes, Infallible>;

/// A running stand-in; it ends with this value.
pub(crate) struct Demo {
    url: String,
    _server: JoinSet<()>,
}

impl Demo {
    /// The stand-in as the only host.
    pub(crate) fn fleet(&self) -> anyhow::Result<LoadBalancer> {
        let host = BackendHost::new(1, &self.url).map_err(anyhow::Error::msg)?;
        Ok(LoadBalancer::new(vec![host]))
    }
}

/// Starts a stand-in that has one model.
pub(crate) async fn start(model: &str) -> anyhow::Result<Demo> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot start the stand-in Ollama")?;
    let url = format!("http://{}", listener.local_addr()?);
    let model = model.to_owned();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let model = model.clone();
            let service = service_fn(move |request| {
                let model = model.clone();
                async move { Ok::<_, Infallible>(answer(&model, request).await) }
            });
            connections.spawn(async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Ok(Demo { url, _server: server })
}

async fn answer(model: &str, request: Request<Incoming>) -> Response<DemoBody> {
    match request.uri().path() {
        "/api/tags" => whole(StatusCode::OK, &json!({"models": [{"name": model, "model": model}]})),
        "/api/chat" => {
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            match serde_json::from_slice::<Value>(&body.unwrap_or_default()) {
                Ok(body) => chat(&body),
                Err(_) => whole(StatusCode::BAD_REQUEST, &json!({"error": "unexpected EOF"})),
            }
        }
        _ => {
            whole(StatusCode::NOT_FOUND, &json!({"error": "the demo answers /api/tags and /api/chat alone"}))
        }
    }
}

fn chat(body: &Value) -> Response<DemoBody> {
    let model = body.get("model").and_then(Value::as_str).unwrap_or_default();
    let messages = body.get("messages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let reply = reply(messages);
    let chunk = |content: &str| json!({"model": model, "message": {"role": "assistant", "content": content}, "done": false});
    let words: Vec<_> = reply.split_inclusive(' ').map(chunk).collect();
    let last = json!({
        "model": model,
        "message": {"role": "assistant", "content": ""},
        "done": true,
        "done_reason": "stop",
        "prompt_eval_count": messages.len() * 10,
        "eval_count": words.len(),
    });
    let lines = words.into_iter().chain([last]).map(|line| format!("{line}\n"));
    let frames = stream::unfold(lines, |mut lines| async {
        let line = lines.next()?;
        tokio::time::sleep(WORD_PAUSE).await;
        Some((Ok(Frame::data(Bytes::from(line))), lines))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-ndjson"));
    response
}

fn reply(messages: &[Value]) -> String {
    let asked = messages.last().and_then(|message| message.get("content")?.as_str()).unwrap_or_default();
    let earlier = match messages.len().saturating_sub(1) {
        0 => String::new(),
        earlier => format!(" I was also sent {earlier} earlier messages of this session."),
    };
    format!(
        "This is a demo answer from the stand-in inside Paddock, not from a language model. You said: \"{asked}\".{earlier}"
    )
}

fn whole(status: StatusCode, value: &Value) -> Response<DemoBody> {
    let mut response = Response::new(http_body_util::Full::from(value.to_string()).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
