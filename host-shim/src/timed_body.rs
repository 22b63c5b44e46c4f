//! A request or response body with time limits: between two pieces, in total, and for a client at a least rate.
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

/// How long a client may be waited for before its rate counts.
const RATE_GRACE: Duration = Duration::from_secs(10);
/// The least bytes a second that a client must send, over all the time that it is waited for.
const LEAST_RATE: u64 = 1024;

/// A received body with time limits.
pub(crate) struct TimedBody {
    body: Incoming,
    between: Duration,
    deadline: Option<Instant>,
    rate: Option<Rate>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What a client has sent in the time that it was waited for. Time in which nobody reads is not the client's.
#[derive(Debug, Default)]
struct Rate {
    received: u64,
    waited: Duration,
    waits_since: Option<Instant>,
}

impl Rate {
    /// How much longer it may be waited for, from now on.
    fn left(&self) -> Duration {
        let earned = Duration::from_millis(self.received.saturating_mul(1000) / LEAST_RATE);
        RATE_GRACE.saturating_add(earned).saturating_sub(self.waited)
    }

    fn receive(&mut self, bytes: usize) {
        if let Some(since) = self.waits_since.take() {
            self.waited += since.elapsed();
        }
        self.received += bytes as u64;
    }
}

impl fmt::Debug for TimedBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("TimedBody").field("between", &self.between).finish_non_exhaustive()
    }
}

impl TimedBody {
    /// What a host sends.
    pub(crate) fn of_host(body: Incoming, between: Duration, deadline: Option<Instant>) -> Self {
        Self { body, between, deadline, rate: None, timer: None }
    }

    /// What a client sends.
    pub(crate) fn of_client(body: Incoming, between: Duration) -> Self {
        Self { body, between, deadline: None, rate: Some(Rate::default()), timer: None }
    }

    /// Resolves with the failure when a limit passes.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<UpstreamFailure> {
        let Self { between, deadline, rate, timer, .. } = self;
        let timer = timer.get_or_insert_with(|| {
            let now = Instant::now();
            let mut until = now + *between;
            if let Some(rate) = rate {
                rate.waits_since = Some(now);
                until = until.min(now + rate.left());
            }
            Box::pin(tokio::time::sleep_until(deadline.map_or(until, |deadline| deadline.min(until))))
        });
        std::task::ready!(timer.as_mut().poll(context));
        // Whatever still comes after a refusal is discarded, within a limit of its own.
        self.timer = None;
        self.rate = self.rate.as_ref().map(|_| Rate::default());
        let is_total = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        Poll::Ready(UpstreamFailure::TimedOut(if is_total { Phase::Total } else { Phase::BetweenBytes }))
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
                if let Some(rate) = &mut self.rate {
                    let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                    rate.receive(data.map_or(0, Bytes::len));
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_is_waited_for_as_long_as_what_it_sent_is_worth() {
        let mut rate = Rate::default();
        assert_eq!(rate.left(), RATE_GRACE);
        rate.receive(20 << 10);
        assert_eq!(rate.left(), Duration::from_secs(30));
        rate.waits_since = Some(Instant::now());
        tokio::time::advance(Duration::from_secs(29)).await;
        rate.receive(1);
        assert!(rate.left() <= Duration::from_secs(1) && !rate.left().is_zero());
        // What the service itself takes is not the client's time.
        tokio::time::advance(Duration::from_mins(1)).await;
        rate.receive(1024);
        assert!(rate.left() > Duration::from_secs(1));
        rate.waits_since = Some(Instant::now());
        tokio::time::advance(Duration::from_secs(3)).await;
        rate.receive(3);
        assert!(rate.left().is_zero());
    }
}
