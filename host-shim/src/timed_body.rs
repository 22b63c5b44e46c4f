//! A request or response body with time limits: between two pieces, and in total.
//!
//! The timer is set only when the body is not ready, because most pieces are.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use paddock::platform::{Phase, UpstreamFailure};
use tokio::time::{Instant, Sleep};

/// A received body with time limits.
pub(crate) struct TimedBody {
    body: Incoming,
    between: Duration,
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for TimedBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TimedBody").field("between", &self.between).finish_non_exhaustive()
    }
}

impl TimedBody {
    pub(crate) fn new(body: Incoming, between: Duration, deadline: Option<Instant>) -> Self {
        Self { body, between, deadline, timer: None }
    }

    /// Resolves with the failure when a limit passes.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<UpstreamFailure> {
        let pause = Instant::now() + self.between;
        let until = self.deadline.map_or(pause, |deadline| deadline.min(pause));
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        timer.as_mut().poll(context).map(|()| {
            let is_total = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            UpstreamFailure::TimedOut(if is_total { Phase::Total } else { Phase::BetweenBytes })
        })
    }
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = UpstreamFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamFailure>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.timer = None;
                let failure = |error: hyper::Error| UpstreamFailure::Protocol(error.to_string());
                Poll::Ready(frame.map(|frame| frame.map_err(failure)))
            }
            Poll::Pending => self.poll_timer(context).map(|failure| Some(Err(failure))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
