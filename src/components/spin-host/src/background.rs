//! The port for background tasks on Spin: wit-bindgen's `spawn`, and a way around one of its limits.
//!
//! A task that is spawned while its request waits would not run before the request's next event: wit-bindgen 0.57
//! queues it without waking the request. That event may never come: the SDK writes a request's body in a task of its
//! own, and upstream does not answer before it has the body. So a future that spawned is polled again at once.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use paddock::platform::Task;
use spin_sdk::wasip3;

thread_local! {
    /// Whether a task was spawned since this was last asked. It is set and read within one poll.
    static SPAWNED: Cell<bool> = const { Cell::new(false) };
}

/// Starts `task` as part of the request that is being served.
pub(crate) fn spawn(task: Task) {
    wasip3::spawn(Spawning(task));
    note_spawn();
}

/// Takes note that the SDK spawns a task in this poll.
pub(crate) fn note_spawn() {
    SPAWNED.set(true);
}

/// A future that may spawn: every future that runs handlers is wrapped in one.
pub(crate) struct Spawning<F: ?Sized>(pub(crate) Pin<Box<F>>);

impl<F: Future + ?Sized> Future for Spawning<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let output = self.0.as_mut().poll(context);
        if SPAWNED.take() {
            context.waker().wake_by_ref();
        }
        output
    }
}
