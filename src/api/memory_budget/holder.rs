//! Who can give bytes back before they are done with, and how they are told.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

/// One who can give bytes back before they are done with.
pub(crate) trait Reclaim: fmt::Debug + Send + Sync {
    /// Gives back what it can, at once or as soon as its task runs. It must wake no other request where the platform forbids
    /// that.
    fn reclaim(&self);
}

/// Tells the reader of an upload that it is given up.
#[derive(Debug)]
pub(super) struct UploadEnd {
    is_given_up: AtomicBool,
    /// `None` where one request must not wake another: there the reader notices with its next piece.
    reader: Option<AtomicWaker>,
}

impl UploadEnd {
    /// The end of an upload whose reader may be woken by other requests, or not.
    pub(super) fn new(wakes_other_requests: bool) -> Self {
        let reader = wakes_other_requests.then(AtomicWaker::default);
        Self { is_given_up: AtomicBool::new(false), reader }
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    /// Resolves when the upload is given up.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if let Some(reader) = &self.reader {
            reader.register(context.waker());
        }
        if self.is_given_up() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Reclaim for UploadEnd {
    fn reclaim(&self) {
        self.is_given_up.store(true, Ordering::Release);
        if let Some(reader) = &self.reader {
            reader.wake();
        }
    }
}
