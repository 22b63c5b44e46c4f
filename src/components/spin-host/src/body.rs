//! A received body, with a limit for the whole of it where one is set.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use paddock::platform::{Phase, UpstreamFailure};
use spin_sdk::wasip3::http_compat::{IncomingBody, IncomingMessage};

use crate::upstream::failure;

/// The end of the time for a whole body.
pub(crate) type Deadline = Pin<Box<dyn Future<Output = ()>>>;

/// A received body. The limit between two pieces is the platform's to enforce.
pub(crate) struct SpinBody<T> {
    body: Pin<Box<IncomingBody<T>>>,
    deadline: Option<Deadline>,
}

impl<T> fmt::Debug for SpinBody<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SpinBody")
    }
}

impl<T> SpinBody<T> {
    pub(crate) fn new(body: IncomingBody<T>, deadline: Option<Deadline>) -> Self {
        Self { body: Box::pin(body), deadline }
    }
}

impl<T: IncomingMessage> Body for SpinBody<T> {
    type Data = Bytes;
    type Error = UpstreamFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamFailure>>> {
        if let Poll::Ready(frame) = self.body.as_mut().poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(|code| failure(&code, Phase::BetweenBytes))));
        }
        match self.deadline.as_mut().map(|deadline| deadline.as_mut().poll(context)) {
            Some(Poll::Ready(())) => Poll::Ready(Some(Err(UpstreamFailure::TimedOut(Phase::Total)))),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
