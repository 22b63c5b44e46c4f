//! The end of this process: tells every open answer that its time is over, so that its client hears why and its request has
//! a line in the log.
//!
//! Nothing here ends a request. Whoever waits for an answer waits for this as well, and ends it.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use crate::platform::Locked;

/// Whether the process gives up its open answers. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown(Arc<State>);

#[derive(Debug, Default)]
struct State {
    has_begun: AtomicBool,
    waiting: Locked<Waiting>,
}

/// Who waits, each in a place that it keeps until it is dropped.
#[derive(Debug, Default)]
struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Shutdown {
    /// Wakes everybody who waits, now and later.
    pub(crate) fn begin(&self) {
        let mut waiting = self.0.waiting.lock();
        // It is set under the lock, so that nobody begins to wait after everybody was woken.
        self.0.has_begun.store(true, Ordering::Release);
        let wakers: Vec<_> = waiting.places.iter_mut().filter_map(Option::take).collect();
        drop(waiting);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Resolves once it has begun.
    pub(crate) fn begun(&self) -> Begun {
        Begun { shutdown: self.clone(), place: None }
    }
}

/// Resolves once the process gives up its open answers.
#[derive(Debug)]
pub(crate) struct Begun {
    shutdown: Shutdown,
    /// Where it waits, and as whom.
    place: Option<(usize, Waker)>,
}

impl Future for Begun {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker();
        let Self { shutdown, place: own } = &mut *self;
        let has_begun = || shutdown.0.has_begun.load(Ordering::Acquire);
        if has_begun() {
            return Poll::Ready(());
        }
        // It is polled with every event of an answer; the lock is for the first time alone.
        if let Some((_, known)) = own
            && known.will_wake(waker)
        {
            return Poll::Pending;
        }
        let mut waiting = shutdown.0.waiting.lock();
        if has_begun() {
            return Poll::Ready(());
        }
        let place = match own.take() {
            Some((place, _)) => place,
            None => waiting.free.pop().unwrap_or(waiting.places.len()),
        };
        if place == waiting.places.len() {
            waiting.places.push(None);
        }
        if let Some(waiter) = waiting.places.get_mut(place) {
            *waiter = Some(waker.clone());
        }
        *own = Some((place, waker.clone()));
        Poll::Pending
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some((place, _)) = self.place.take() else { return };
        let mut waiting = self.shutdown.0.waiting.lock();
        if let Some(waiter) = waiting.places.get_mut(place) {
            *waiter = None;
        }
        waiting.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{FutureExt as _, task::ArcWake};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl ArcWake for Wakes {
        fn wake_by_ref(wakes: &Arc<Self>) {
            wakes.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn everybody_who_waits_is_woken_once_and_whoever_comes_later_does_not_wait() {
        let shutdown = Shutdown::default();
        let counted = Arc::<Wakes>::default();
        let waker = futures::task::waker(Arc::clone(&counted));
        let mut context = Context::from_waker(&waker);
        let mut waiting: Vec<_> = (0..3).map(|_| shutdown.begun()).collect();
        for _ in 0..2 {
            for begun in &mut waiting {
                assert!(begun.poll_unpin(&mut context).is_pending());
            }
        }
        // A place is given to the next who waits.
        waiting.truncate(2);
        let mut next = shutdown.begun();
        assert!(next.poll_unpin(&mut context).is_pending());
        assert_eq!(shutdown.0.waiting.lock().places.len(), 3);
        drop(next);
        shutdown.begin();
        assert_eq!(counted.0.load(Ordering::Relaxed), 2);
        assert!(
            waiting.iter_mut().chain([&mut shutdown.begun()]).all(|begun| begun.now_or_never().is_some())
        );
    }
}
