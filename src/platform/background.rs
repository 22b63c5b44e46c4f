//! The port for work that outlives a request, and for work that occupies a thread. Nothing else in the core starts a task.

use std::{future::Future, pin::Pin};

use super::{MaybeSend, MaybeSync};

/// A task on the heap: passing it on moves a pointer, and never the task itself.
#[cfg(not(target_family = "wasm"))]
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task on the heap: passing it on moves a pointer, and never the task itself.
#[cfg(target_family = "wasm")]
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Runs work that outlives the request which started it.
pub trait Background: MaybeSend + MaybeSync {
    /// Starts `task`. A platform that shuts down waits for it, within a limit of its own.
    fn spawn_boxed(&self, task: Task);

    /// Starts `task`, which is moved to the heap once, here.
    fn spawn(&self, task: impl Future<Output = ()> + MaybeSend + 'static) {
        self.spawn_boxed(Box::pin(task));
    }

    /// Whether [`Background::compute`] holds up nothing else. Where it does, long work is done in steps instead.
    const COMPUTES_APART: bool = false;

    /// Runs work that occupies its thread for long. A platform with several threads lets another one take over this one's
    /// tasks meanwhile, and runs few such works at once, because each may need a multiple of its input in memory.
    fn compute<T>(&self, work: impl FnOnce() -> T) -> T {
        work()
    }
}
