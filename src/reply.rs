//! The reply: a body type that every host can send, and the constructors for complete JSON and text replies.
//!
//! A complete reply always carries its content-length: without one Spin sends it in two segments, and the second
//! waits 40 ms for the peer's acknowledgement.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use serde::Serialize;

/// The body of a reply.
#[derive(Debug, Default)]
pub struct ReplyBody(Full<Bytes>);

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A complete reply with the given content type.
pub(crate) fn complete(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<ReplyBody> {
    let body = body.into();
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(ReplyBody(Full::new(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, length);
    response
}

/// A complete JSON reply. `value` must be a type whose serialisation cannot fail.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<ReplyBody> {
    let body = serde_json::to_vec(value).unwrap_or_default();
    complete(status, "application/json", body)
}

/// The same reply without its body, for HEAD; the content-length stays.
pub(crate) fn without_body(response: Response<ReplyBody>) -> Response<ReplyBody> {
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, ReplyBody::default())
}
