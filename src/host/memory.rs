//! A platform in memory, for tests and for first experiments inside another program.
//!
//! The clock moves only when a test moves it, randomness comes from a counter, and background tasks run by hand, so
//! that the same inputs give the same replies.

use std::{
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};

use super::{Platform, Service};
use crate::{
    config::Config,
    metrics::memory::MemoryMetrics,
    platform::{
        Background, Clock, Entropy, Journal, Locked, Task, Timeouts, Timer, Upstream, UpstreamFailure,
        journal::Event,
    },
    store::{Store, memory::MemoryStore},
};

/// A clock that moves only by [`ManualClock::advance`]. Clones share the time.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<Hand>);

#[derive(Debug, Default)]
struct Hand {
    micros: AtomicU64,
    /// Futures that wait for the clock to move.
    waiting: Locked<Vec<Waker>>,
}

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.micros.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
        let waiting = std::mem::take(&mut *self.0.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Resolves once the clock has moved forward by `time`.
    pub fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        let (clock, until) = (self.clone(), self.now() + time);
        poll_fn(move |context| {
            let mut waiting = clock.0.waiting.lock();
            if clock.now() >= until {
                return Poll::Ready(());
            }
            waiting.push(context.waker().clone());
            Poll::Pending
        })
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_micros(self.0.micros.load(Ordering::SeqCst))
    }
}

/// A platform in memory over any upstream, with a store of type `S`. Clones share everything.
pub struct MemoryPlatform<U, S = MemoryStore<ManualClock>>(Arc<Machine<U>>, PhantomData<fn() -> S>);

impl<U, S> Clone for MemoryPlatform<U, S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

struct Machine<U> {
    upstream: U,
    clock: ManualClock,
    seed: AtomicU64,
    tasks: Locked<Vec<Task>>,
    events: Locked<Vec<String>>,
}

impl<U, S> fmt::Debug for MemoryPlatform<U, S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryPlatform").field("clock", &self.0.clock).finish_non_exhaustive()
    }
}

impl<U: Upstream + 'static> MemoryPlatform<U> {
    /// A service with these settings over `upstream`, with its state in memory.
    pub fn service(config: Config, upstream: U) -> Service<Self> {
        Self::service_with_clock(config, upstream, ManualClock::default())
    }

    /// The same with a clock that the caller shares.
    pub(crate) fn service_with_clock(config: Config, upstream: U, clock: ManualClock) -> Service<Self> {
        let store = MemoryStore::new(clock.clone(), config.store.memory_limit);
        Service::new(config, Self::new(upstream, clock), store, MemoryMetrics::default())
    }
}

impl<U, S> MemoryPlatform<U, S> {
    /// A platform over `upstream` with this clock.
    pub fn new(upstream: U, clock: ManualClock) -> Self {
        let (seed, tasks, events) = (AtomicU64::new(0), Locked::default(), Locked::default());
        Self(Arc::new(Machine { upstream, clock, seed, tasks, events }), PhantomData)
    }

    /// The clock.
    pub fn clock(&self) -> &ManualClock {
        &self.0.clock
    }

    /// The JSON of each event so far.
    pub fn events(&self) -> Vec<String> {
        self.0.events.lock().clone()
    }

    /// Runs `future` to its end together with every task that it starts. Unfinished tasks are then dropped, as when a
    /// program stops.
    pub async fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut running = FuturesUnordered::new();
        poll_fn(|context| {
            loop {
                if let Poll::Ready(output) = future.as_mut().poll(context) {
                    return Poll::Ready(output);
                }
                let mut progress = false;
                for task in self.take_tasks() {
                    running.push(task);
                    progress = true;
                }
                while let Poll::Ready(Some(())) = running.poll_next_unpin(context) {
                    progress = true;
                }
                if !progress {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Runs every task that was started outside [`MemoryPlatform::run`] to its end.
    pub async fn settle(&self) {
        loop {
            let tasks = self.take_tasks();
            if tasks.is_empty() {
                return;
            }
            futures::future::join_all(tasks).await;
        }
    }

    fn take_tasks(&self) -> Vec<Task> {
        std::mem::take(&mut *self.0.tasks.lock())
    }
}

impl<U: Upstream + 'static, S: 'static> Upstream for MemoryPlatform<U, S> {
    type Body = U::Body;

    async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Timeouts,
    ) -> Result<http::Response<Self::Body>, UpstreamFailure> {
        self.0.upstream.send(request, limits).await
    }
}

impl<U: Upstream + 'static, S: 'static> Clock for MemoryPlatform<U, S> {
    fn now(&self) -> Duration {
        self.0.clock.now()
    }
}

impl<U: Upstream + 'static, S: 'static> Timer for MemoryPlatform<U, S> {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        self.0.clock.sleep(time)
    }
}

impl<U: Upstream + 'static, S: 'static> Entropy for MemoryPlatform<U, S> {
    fn random(&self) -> u64 {
        self.0.seed.fetch_add(1, Ordering::SeqCst)
    }
}

impl<U: Upstream + 'static, S: 'static> Background for MemoryPlatform<U, S> {
    fn spawn_boxed(&self, task: Task) {
        self.0.tasks.lock().push(task);
    }
}

impl<U: Upstream + 'static, S: 'static> Journal for MemoryPlatform<U, S> {
    fn record(&self, event: &Event<'_>) {
        self.0.events.lock().push(event.to_json());
    }
}

impl<U: Upstream + 'static, S: Store + 'static> Platform for MemoryPlatform<U, S> {
    type Store = S;
    type Metrics = MemoryMetrics;
}
