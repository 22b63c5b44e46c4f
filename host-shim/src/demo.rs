//! A small imitation of Ollama inside the process, for trying Paddock without Ollama.
//!
//! It chats in each of Ollama's protocols, and each answer says that it is a demo.

mod answers;

use std::{convert::Infallible, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use paddock::BackendHost;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// The pause before each word, so that an answer is streamed like a model's.
const WORD_PAUSE: Duration = Duration::from_millis(8);

type DemoBody = BoxBody<Bytes, Infallible>;

/// A running demo host; dropping it stops it.
pub(crate) struct Demo {
    url: String,
    _server: JoinSet<()>,
}

impl Demo {
    /// The demo host, named as the only host of a fleet.
    pub(crate) fn host(&self) -> anyhow::Result<BackendHost> {
        BackendHost::new(1, &self.url).map_err(anyhow::Error::msg)
    }
}

/// Starts a demo host with one model.
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
    let path = request.uri().path().to_owned();
    let listed = json!([{"name": model, "model": model, "modified_at": "2026-01-01T00:00:00Z", "digest": "", "size": 0}]);
    match path.as_str() {
        "/" => return text("Ollama is running"),
        "/api/version" => return whole(StatusCode::OK, &json!({"version": "0.33.0"})),
        "/api/tags" | "/api/ps" => return whole(StatusCode::OK, &json!({ "models": listed })),
        "/v1/models" => {
            let model =
                json!({"id": model, "object": "model", "created": 1_767_225_600, "owned_by": "library"});
            return whole(StatusCode::OK, &json!({"object": "list", "data": [model]}));
        }
        _ => {}
    }
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    let Ok(body) = serde_json::from_slice::<Value>(&body.unwrap_or_default()) else {
        return whole(StatusCode::BAD_REQUEST, &json!({"error": "unexpected EOF"}));
    };
    let Some(answer) = answers::answer(&path, &body) else {
        let error = "the demo has no such answer: it chats on /api/chat, /api/generate, /v1/chat/completions and /v1/messages";
        return whole(StatusCode::NOT_IMPLEMENTED, &json!({ "error": error }));
    };
    match answer {
        answers::Answer::Whole(value) => whole(StatusCode::OK, &value),
        answers::Answer::Events { content_type, events } => streamed(content_type, events),
    }
}

fn streamed(content_type: &'static str, events: Vec<String>) -> Response<DemoBody> {
    let frames = stream::unfold(events.into_iter(), |mut events| async {
        let event = events.next()?;
        tokio::time::sleep(WORD_PAUSE).await;
        Some((Ok(Frame::data(Bytes::from(event))), events))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn whole(status: StatusCode, value: &Value) -> Response<DemoBody> {
    let mut response = Response::new(http_body_util::Full::from(value.to_string()).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(words: &'static str) -> Response<DemoBody> {
    let mut response = Response::new(http_body_util::Full::from(words).boxed());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
