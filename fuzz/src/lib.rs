//! What the targets share: a service in memory that is run to its end, over a host and a store that answer as they are told.

use std::{
    collections::VecDeque,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use paddock::{
    Config, Platform, Service,
    config::settings::Deployment,
    host::memory::MemoryPlatform,
    platform::{Timeouts, Upstream, UpstreamFailure},
};

/// How often a service is asked whether it is done before that counts as a hang.
const TURNS: usize = 100_000;

/// A body that arrives in these pieces.
#[derive(Debug, Default)]
pub struct Pieces(VecDeque<Bytes>);

impl Pieces {
    /// The bytes in pieces of this length, or in one.
    pub fn of(bytes: &[u8], length: usize) -> Self {
        let length = if length == 0 { bytes.len().max(1) } else { length };
        Self(bytes.chunks(length).map(Bytes::copy_from_slice).collect())
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = UpstreamFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamFailure>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

/// A host that has the model `m`, gives every other question the same answer, and remembers the bodies that it was sent.
#[derive(Debug, Clone)]
pub struct Host {
    answer: Arc<(&'static str, Vec<u8>, usize)>,
    asked: Arc<Mutex<Vec<Bytes>>>,
}

impl Host {
    /// Answers with this content type and body, in pieces of this length.
    pub fn answering(content_type: &'static str, body: &[u8], piece: usize) -> Self {
        Self { answer: Arc::new((content_type, body.to_vec(), piece)), asked: Arc::default() }
    }

    /// The bodies of the questions so far.
    pub fn asked(&self) -> Vec<Bytes> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Upstream for Host {
    type Body = Pieces;

    async fn send(&self, request: Request<Bytes>, _: Timeouts) -> Result<Response<Pieces>, UpstreamFailure> {
        let (content_type, body, piece) = match request.uri().path() {
            "/api/tags" => ("application/json", &br#"{"models":[{"name":"m:latest","digest":"1"}]}"#[..], 0),
            "/api/ps" => ("application/json", &br#"{"models":[]}"#[..], 0),
            "/api/version" => ("application/json", &br#"{"version":"0.33.0"}"#[..], 0),
            _ => {
                self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.into_body());
                (self.answer.0, &*self.answer.1, self.answer.2)
            }
        };
        let response = Response::builder().header(header::CONTENT_TYPE, content_type);
        response.body(Pieces::of(body, piece)).map_err(|error| UpstreamFailure::Protocol(error.to_string()))
    }
}

/// The settings of a service with one host and small limits, of which this one is changed.
pub fn config(changed: (&str, &str)) -> Config {
    let setting = |name: &str| match name {
        _ if name == changed.0 => Some(changed.1.to_owned()),
        "OLLAMA_HOSTS" => Some("http://host:1".to_owned()),
        "CACHE_MODE" => Some("all".to_owned()),
        _ if name.ends_with("BODY_LIMIT") => Some("64KiB".to_owned()),
        _ => None,
    };
    Config::load(&setting, Deployment::Native).expect("the settings hold").config
}

/// A complete reply.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The reply to a request, once it is complete.
///
/// # Panics
/// If there is none after a while: a service that hangs is a finding.
pub fn reply<U, S>(service: &Service<MemoryPlatform<U, S>>, request: Request<Pieces>) -> Reply
where
    U: Upstream + 'static,
    S: 'static,
    MemoryPlatform<U, S>: Platform,
{
    let answered = async {
        let (head, body) = service.handle(request).await.into_parts();
        let body = body.collect().await.expect("a reply's body does not fail").to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    };
    let platform = service.platform();
    let mut answered = pin!(platform.run(answered));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..TURNS {
        if let Poll::Ready(reply) = answered.as_mut().poll(&mut context) {
            return reply;
        }
        platform.clock().advance(Duration::from_millis(100));
    }
    panic!("the service hangs");
}
