//! What is left of a request's body when its reply is ready: many refusals are known before the body is read.
//!
//! If the connection were closed while the client still sends, TCP would reset it, and the client would lose the reply. So
//! the reply goes out at once, and what still comes is read and discarded, for a limited time. This must stay the only place
//! that does so, and must never delay a reply.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, header, request::Parts};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::platform::{Background, MaybeSend, Timer, race};

/// How long the rest of a body is discarded. A time and no size: a client that sends fast loses no refusal, however much it
/// sends, and one that never ends is let go.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// A request's body that knows whether it was read to its end.
#[derive(Debug)]
pub(crate) struct TrackedBody<B> {
    body: B,
    has_begun: bool,
    has_ended: bool,
}

impl<B: Body<Data = Bytes> + Unpin> TrackedBody<B> {
    /// The body of a request with this head. What asks for something brings none, unless its head announces one; some
    /// platforms know that only once they have read it.
    pub(crate) fn new(parts: &Parts, body: B) -> Self {
        let brings_none = parts.method == Method::GET || parts.method == Method::HEAD;
        let announces = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        let is_announced = announces.iter().any(|name| parts.headers.contains_key(name));
        Self { body, has_begun: false, has_ended: brings_none && !is_announced }
    }

    /// Whether there may be more of it.
    pub(crate) fn is_unread(&self) -> bool {
        !self.has_ended && !self.body.is_end_stream()
    }

    /// Reads what is left, in the background. A client that waits for `100 Continue` is never told to send: whoever
    /// reads nothing of its body tells it not to.
    pub(crate) fn discard(self, headers: &HeaderMap, platform: &(impl Background + Timer))
    where
        B: MaybeSend + 'static,
    {
        let waits = headers
            .get(header::EXPECT)
            .is_some_and(|expected| expected.as_bytes().trim_ascii().eq_ignore_ascii_case(b"100-continue"));
        if !self.is_unread() || waits && !self.has_begun {
            return;
        }
        let mut body = self.body;
        let end = platform.sleep(DISCARD_TIME);
        platform.spawn(async move {
            let rest = async { while let Some(Ok(_)) = body.frame().await {} };
            race! {
                () = rest => (),
                () = end => (),
            }
        });
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.has_begun = true;
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.has_ended |= matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
