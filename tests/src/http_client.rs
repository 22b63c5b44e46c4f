//! A client that makes one connection a request and closes it when the request is dropped, as a client that leaves
//! does. Gateways in memory take the same requests.

mod streamed;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use http::{HeaderMap, Request, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

pub use streamed::Streamed;

/// The longest that any request of a test may take. It ends a hang with a sentence; limits under test are shorter.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The body of a request.
#[derive(Debug, Clone)]
pub enum Payload {
    /// In one piece, its length told in the head.
    Whole(Bytes),
    /// In pieces, without a length.
    Chunked(Vec<Bytes>),
}

impl<T: Into<Bytes>> From<T> for Payload {
    fn from(bytes: T) -> Self {
        Self::Whole(bytes.into())
    }
}

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::convert::Infallible>>>;

/// The request as it goes out: with its body's length, if that is told.
pub(crate) fn outgoing(request: Request<Payload>) -> Request<Body> {
    let (mut parts, payload) = request.into_parts();
    let pieces = match payload {
        Payload::Whole(bytes) => {
            let may_be_absent = bytes.is_empty() && parts.method != http::Method::POST;
            if !may_be_absent && !parts.headers.contains_key(header::CONTENT_LENGTH) {
                parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
            }
            vec![bytes]
        }
        Payload::Chunked(pieces) => pieces,
    };
    let frames = pieces.into_iter().filter(|piece| !piece.is_empty()).map(|piece| Ok(Frame::data(piece)));
    Request::from_parts(parts, StreamBody::new(stream::iter(frames).boxed()))
}

/// Sends a request over a connection of its own and waits for the whole reply.
pub async fn send(address: SocketAddr, request: Request<Payload>) -> Result<Reply> {
    open(address, request).await?.rest().await
}

/// Sends a request over a connection of its own, which closes with the reply, and waits for the reply's head.
pub async fn open(address: SocketAddr, request: Request<Payload>) -> Result<Streamed> {
    let what = format!("{} {}", request.method(), request.uri());
    tokio::time::timeout(PATIENCE, exchange(address, outgoing(request)))
        .await
        .with_context(|| format!("no answer to {what} within {PATIENCE:?}"))?
        .with_context(|| what)
}

async fn exchange(address: SocketAddr, mut request: Request<Body>) -> Result<Streamed> {
    let stream = TcpStream::connect(address).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDrop(tokio::spawn(connection));
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, address.to_string().try_into()?);
    }
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let pieces = body.into_data_stream().map_err(move |error| {
        // As long as the body is read, the connection lives.
        let _connection = &connection;
        anyhow::Error::new(error).context("reading the reply's body")
    });
    Ok(Streamed::new(parts.status, parts.headers, pieces.boxed()))
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A complete reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The value of a header; empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        header_text(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The text at a place of the JSON body, such as `/error/code`; empty when there is none.
    pub fn at(&self, pointer: &str) -> String {
        self.json().pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// What the model said.
    pub fn response(&self) -> String {
        self.at("/response")
    }

    /// The status with the error's code, or with `ok`: what a table of outcomes compares.
    pub fn outcome(&self) -> (u16, String) {
        let code = self.at("/error/code");
        (self.status.as_u16(), if code.is_empty() { "ok".to_owned() } else { code })
    }

    /// What the cache did.
    pub fn cache(&self) -> &str {
        self.header("x-cache")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ollama::{CHAT, End, FakeOllama, Scripted};

    #[tokio::test]
    async fn a_reply_that_is_dropped_closes_its_connection() -> Result<()> {
        let ollama = FakeOllama::start().await?;
        ollama.chats(Scripted::saying("one two three")?.ending_after(2, End::Hang));
        let address = ollama.url().trim_start_matches("http://").parse()?;
        let mut reply = open(address, Request::post(CHAT).body("{}".into())?).await?;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::OK, "application/x-ndjson"));
        for _ in 0..2 {
            assert!(reply.next_line().await?.context("no line")?.contains("\"done\":false"));
        }
        assert_eq!(ollama.open_requests(), 1);
        drop(reply);
        ollama.wait_for_given_up(1, PATIENCE).await
    }

    #[tokio::test]
    async fn a_connection_that_breaks_breaks_the_reply() -> Result<()> {
        let ollama = FakeOllama::start().await?;
        ollama.chats(Scripted::cut()?);
        let address = ollama.url().trim_start_matches("http://").parse()?;
        let error = send(address, Request::post(CHAT).body("{}".into())?).await.unwrap_err();
        assert_eq!(error.to_string(), "reading the reply's body");
        Ok(())
    }
}
