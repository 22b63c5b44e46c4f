//! The native platform: the core's ports over tokio and hyper, and the service over it.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use paddock::{
    Config, Platform, Service,
    metrics::memory::MemoryMetrics,
    platform::{
        Background, Clock, Entropy, Journal, Task, Timeouts, Timer, Upstream, UpstreamFailure, journal::Event,
    },
};
use tokio_util::task::TaskTracker;

use crate::{clock::SystemClock, log, store::NativeStore, timed_body::TimedBody, upstream::HttpClient};

/// The service of this binary.
pub(crate) type NativeService = Service<NativePlatform>;

/// The native platform.
pub(crate) struct NativePlatform {
    clock: SystemClock,
    client: HttpClient,
    tasks: TaskTracker,
    /// Held while a large body is read.
    computing: Mutex<()>,
}

impl NativePlatform {
    /// The service with these settings.
    pub(crate) fn service(mut config: Config) -> anyhow::Result<NativeService> {
        config.fleet.hop_seed = rand::random();
        let clock = SystemClock::start();
        let platform = Self {
            clock,
            client: HttpClient::new(&config),
            tasks: TaskTracker::new(),
            computing: Mutex::default(),
        };
        let store = NativeStore::new(&config, clock)?;
        Ok(Service::new(config, platform, store, MemoryMetrics::default()))
    }

    /// The tasks that run in the background.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

impl Upstream for NativePlatform {
    type Body = TimedBody;

    async fn send(
        &self,
        request: http::Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<http::Response<TimedBody>, UpstreamFailure> {
        self.client.send(request, timeouts).await
    }
}

impl Clock for NativePlatform {
    fn now(&self) -> Duration {
        self.clock.now()
    }
}

impl Timer for NativePlatform {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        tokio::time::sleep(time)
    }
}

impl Entropy for NativePlatform {
    fn random(&self) -> u64 {
        rand::random()
    }
}

impl Background for NativePlatform {
    const COMPUTES_APART: bool = true;

    fn spawn_boxed(&self, task: Task) {
        self.tasks.spawn(task);
    }

    fn compute<T>(&self, work: impl FnOnce() -> T) -> T {
        // The runtime gives this thread's tasks to another one first, so waiting for the turn holds nobody else.
        tokio::task::block_in_place(|| {
            // A work that panicked has left nothing half done here.
            let _turn = self.computing.lock().unwrap_or_else(PoisonError::into_inner);
            work()
        })
    }
}

impl Journal for NativePlatform {
    fn record(&self, event: &Event<'_>) {
        log::write(event);
    }
}

impl Platform for NativePlatform {
    type Store = NativeStore;
    type Metrics = MemoryMetrics;
}
