//! A whole host in memory: for tests, and for a first look from inside another program.
//!
//! Time moves only when it is told to, randomness comes from a seed, and background tasks run by hand, so that
//! the same inputs give the same replies.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};

use super::Host;
use crate::{
    config::{Config, settings::Deployment},
    fleet::local::LocalFleet,
    metrics::memory::MemoryMetrics,
    platform::{
        Background, Clock, Entropy, Journal, Timeouts, Timer, Upstream, UpstreamFailure, journal::Event,
    },
    process::{FlightTable, Orphans},
    store::memory::MemoryStore,
};

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A clock that moves only when it is told to. Clones share one hand.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<Hand>);

#[derive(Debug, Default)]
struct Hand {
    micros: AtomicU64,
    /// Whoever waits for the hand to move.
    waiting: Mutex<Vec<Waker>>,
}

impl ManualClock {
    /// Moves the hand.
    pub fn advance(&self, by: Duration) {
        self.0.micros.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
        let waiting = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Resolves once the hand has moved on by `time`.
    pub fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        let (clock, until) = (self.clone(), self.now() + time);
        poll_fn(move |context| {
            let mut waiting = clock.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
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

/// A host in memory over any upstream. Clones share everything.
pub struct MemoryHost<U>(Arc<Parts<U>>);

impl<U> Clone for MemoryHost<U> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Parts<U> {
    config: Config,
    upstream: U,
    clock: ManualClock,
    seed: AtomicU64,
    store: MemoryStore<ManualClock>,
    metrics: MemoryMetrics,
    tasks: Mutex<Vec<Task>>,
    events: Mutex<Vec<String>>,
    orphans: Orphans,
    flights: FlightTable,
}

impl<U> fmt::Debug for MemoryHost<U> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MemoryHost").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl<U: Upstream + 'static> MemoryHost<U> {
    /// A host with these settings that asks `upstream`.
    pub fn new(config: Config, upstream: U) -> Self {
        Self::with_clock(config, upstream, ManualClock::default())
    }

    /// The same, by a clock that others share.
    pub fn with_clock(config: Config, upstream: U, clock: ManualClock) -> Self {
        let store = MemoryStore::new(clock.clone(), config.memory_limit);
        store.fleet().set_hosts(config.fleet.hosts());
        Self(Arc::new(Parts {
            store,
            config,
            upstream,
            clock,
            seed: AtomicU64::new(0),
            metrics: MemoryMetrics::default(),
            tasks: Mutex::default(),
            events: Mutex::default(),
            orphans: Orphans::default(),
            flights: FlightTable::default(),
        }))
    }

    /// The clock, to move it.
    pub fn clock(&self) -> &ManualClock {
        &self.0.clock
    }

    /// The events so far, as the JSON of each.
    pub fn events(&self) -> Vec<String> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs `future` to its end together with every task that it starts. Tasks that are not done by then are
    /// dropped, as they are when a host stops.
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

    /// Runs every task that was started outside [`MemoryHost::run`] to its end.
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
        std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<U: Upstream + 'static> Upstream for MemoryHost<U> {
    type Body = U::Body;

    async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Timeouts,
    ) -> Result<http::Response<Self::Body>, UpstreamFailure> {
        self.0.upstream.send(request, limits).await
    }
}

impl<U: Upstream + 'static> Clock for MemoryHost<U> {
    fn now(&self) -> Duration {
        self.0.clock.now()
    }
}

impl<U: Upstream + 'static> Timer for MemoryHost<U> {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        self.0.clock.sleep(time)
    }
}

impl<U: Upstream + 'static> Entropy for MemoryHost<U> {
    fn random(&self) -> u64 {
        self.0.seed.fetch_add(1, Ordering::SeqCst)
    }
}

impl<U: Upstream + 'static> Background for MemoryHost<U> {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(task));
    }
}

impl<U: Upstream + 'static> Journal for MemoryHost<U> {
    fn record(&self, event: &Event<'_>) {
        let text = serde_json::to_string(event).unwrap_or_default();
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

impl<U: Upstream + 'static> Host for MemoryHost<U> {
    type Store = MemoryStore<ManualClock>;
    type Metrics = MemoryMetrics;

    fn form(&self) -> Deployment {
        Deployment::Native
    }

    fn config(&self) -> &Config {
        &self.0.config
    }

    fn store(&self) -> &Self::Store {
        &self.0.store
    }

    fn metrics(&self) -> &Self::Metrics {
        &self.0.metrics
    }

    fn fleet(&self) -> &LocalFleet {
        self.0.store.fleet()
    }

    fn orphans(&self) -> &Orphans {
        &self.0.orphans
    }

    fn flights(&self) -> &FlightTable {
        &self.0.flights
    }
}
