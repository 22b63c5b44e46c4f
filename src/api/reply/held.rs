//! A whole reply that counts in the memory budget until its client has read it.
//!
//! It is handed over in copies, because the connection's buffers would keep all of it alive for the sake of one piece.

use std::{
    sync::{Arc, Weak},
    task::Poll,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::BrokenOff;
use crate::{
    api::{
        error::Error,
        memory_budget::{HeldBytes, Reclaim},
    },
    platform::{Clock, Locked},
};

/// The length of a piece, in bytes.
const PIECE: usize = 64 << 10;

/// A whole reply that counts in the memory budget.
pub(super) struct HeldReply {
    rest: Arc<Rest>,
    held: HeldBytes,
    clock: Box<dyn Clock>,
}

/// What is not handed over yet; `None` once it made room for others.
#[derive(Debug)]
struct Rest(Locked<Option<Bytes>>);

impl Reclaim for Rest {
    fn reclaim(&self) {
        *self.0.lock() = None;
    }
}

impl HeldReply {
    /// Counts a reply.
    ///
    /// # Errors
    /// Those of [`HeldBytes::try_grow_to`].
    pub(super) fn new(body: Bytes, mut held: HeldBytes, clock: Box<dyn Clock>) -> Result<Self, Error> {
        let length = body.len();
        let rest = Arc::new(Rest(Locked::new(Some(body))));
        held.hold(length, length, clock.now(), &(Arc::downgrade(&rest) as Weak<dyn Reclaim>))?;
        Ok(Self { rest, held, clock })
    }

    /// The next piece. The rest of a reply that stalled is gone when others needed its room.
    pub(super) fn next(&mut self) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut rest = self.rest.0.lock();
        let Some(bytes) = rest.as_mut() else { return Poll::Ready(Some(Err(BrokenOff))) };
        if bytes.is_empty() {
            return Poll::Ready(None);
        }
        let piece = Bytes::copy_from_slice(&bytes.split_to(PIECE.min(bytes.len())));
        if bytes.is_empty() {
            *bytes = Bytes::new();
            self.held = HeldBytes::default();
        } else {
            self.held.note_progress(self.clock.now());
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    pub(super) fn is_over(&self) -> bool {
        self.rest.0.lock().as_ref().is_some_and(Bytes::is_empty)
    }

    /// Nothing where the rest is gone: a length of 0 would contradict the head.
    pub(super) fn size_hint(&self) -> SizeHint {
        let rest = self.rest.0.lock();
        rest.as_ref().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(rest.len() as u64))
    }
}

impl std::fmt::Debug for HeldReply {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("HeldReply").field("held", &self.held).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::memory_budget::MemoryBudget;

    struct At(u64);

    impl Clock for At {
        fn now(&self) -> Duration {
            Duration::from_secs(self.0)
        }
    }

    fn piece(reply: &mut HeldReply) -> Option<Result<usize, BrokenOff>> {
        let Poll::Ready(frame) = reply.next() else { panic!("a piece is always there") };
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap().len()))
    }

    #[test]
    fn a_reply_counts_until_its_last_piece_is_taken() {
        let budget = MemoryBudget::new(1 << 20, true);
        let whole = Bytes::from(vec![b'x'; PIECE + 1]);
        let mut reply = HeldReply::new(whole, budget.account(None), Box::new(At(0))).unwrap();
        assert_eq!(piece(&mut reply), Some(Ok(PIECE)));
        assert!(budget.held() > PIECE && !reply.is_over());
        assert_eq!((reply.size_hint().exact(), piece(&mut reply)), (Some(1), Some(Ok(1))));
        assert!(budget.held() == 0 && reply.is_over());
        assert_eq!(piece(&mut reply), None);
    }

    #[test]
    fn a_reply_that_nobody_reads_makes_room_and_breaks_off() {
        let budget = MemoryBudget::new(1 << 20, true);
        let whole = || Bytes::from(vec![b'x'; 600 << 10]);
        let reply = |second| HeldReply::new(whole(), budget.account(None), Box::new(At(second)));
        let mut unread = reply(0).unwrap();
        assert!(matches!(reply(1), Err(Error::Overloaded { .. })));
        assert_eq!(piece(&mut unread), Some(Ok(PIECE)));
        assert!(matches!(reply(2), Err(Error::Overloaded { .. })));
        assert_eq!(unread.size_hint().exact(), None);
        assert_eq!(piece(&mut unread), Some(Err(BrokenOff)));
        drop(unread);
        reply(3).unwrap();
    }
}
