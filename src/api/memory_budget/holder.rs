//! Who can give bytes back before they are done with, and how they are told.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

use crate::platform::{MaybeSend, MaybeSync};

/// One who can give bytes back before they are done with.
pub(crate) trait Reclaim: fmt::Debug + MaybeSend + MaybeSync {
    /// Gives back what it can, at once or as soon as its task runs.
    fn reclaim(&self);
}

/// Tells the reader of an upload that it is given up.
#[derive(Debug, Default)]
pub(super) struct UploadEnd {
    is_given_up: AtomicBool,
    reader: AtomicWaker,
}

impl UploadEnd {
    /// Resolves when the upload is given up.
    pub(super) fn poll(&self, context: &Context<'_>) -> Poll<()> {
        self.reader.register(context.waker());
        if self.is_given_up.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Reclaim for UploadEnd {
    fn reclaim(&self) {
        self.is_given_up.store(true, Ordering::Release);
        self.reader.wake();
    }
}
