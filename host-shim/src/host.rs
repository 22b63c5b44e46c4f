//! The native host: the core's ports over tokio, hyper and redis-rs.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use paddock::{
    Config, Host,
    config::settings::Deployment,
    fleet::local::LocalFleet,
    metrics::memory::MemoryMetrics,
    platform::{
        Background, Clock, Entropy, Journal, Timeouts, Timer, Upstream, UpstreamFailure, journal::Event,
    },
    process::{FlightTable, Orphans},
};
use tokio_util::task::TaskTracker;

use crate::{log, store::NativeStore, timed_body::TimedBody, upstream::Client};

/// Time since 1970, as the machine had it when the process started, and steady since then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SystemClock {
    started: Instant,
    since_1970: Duration,
}

impl SystemClock {
    fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), since_1970 }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.since_1970 + self.started.elapsed()
    }
}

/// The native host. Clones share everything.
#[derive(Clone)]
pub(crate) struct NativeHost(Arc<Parts>);

struct Parts {
    config: Config,
    clock: SystemClock,
    client: Client,
    store: NativeStore,
    metrics: MemoryMetrics,
    tasks: TaskTracker,
    fleet: Arc<LocalFleet>,
    orphans: Orphans,
    flights: FlightTable,
}

impl NativeHost {
    pub(crate) fn new(config: Config) -> anyhow::Result<Self> {
        let clock = SystemClock::start();
        let store = NativeStore::new(&config, clock)?;
        let fleet = store.fleet();
        fleet.set_hosts(config.fleet.hosts());
        Ok(Self(Arc::new(Parts {
            client: Client::new(&config),
            store,
            fleet,
            metrics: MemoryMetrics::default(),
            tasks: TaskTracker::new(),
            orphans: Orphans::default(),
            flights: FlightTable::default(),
            clock,
            config,
        })))
    }

    /// Everything that runs in the background.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }
}

impl Upstream for NativeHost {
    type Body = TimedBody;

    async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Timeouts,
    ) -> Result<http::Response<TimedBody>, UpstreamFailure> {
        self.0.client.send(request, limits).await
    }
}

impl Clock for NativeHost {
    fn now(&self) -> Duration {
        self.0.clock.now()
    }
}

impl Timer for NativeHost {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        tokio::time::sleep(time)
    }
}

impl Entropy for NativeHost {
    fn random(&self) -> u64 {
        rand::random()
    }
}

impl Background for NativeHost {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(task);
    }
}

impl Journal for NativeHost {
    fn record(&self, event: &Event<'_>) {
        log::write(event);
    }
}

impl Host for NativeHost {
    type Store = NativeStore;
    type Metrics = MemoryMetrics;

    fn form(&self) -> Deployment {
        Deployment::Native
    }

    fn config(&self) -> &Config {
        &self.0.config
    }

    fn store(&self) -> &NativeStore {
        &self.0.store
    }

    fn metrics(&self) -> &MemoryMetrics {
        &self.0.metrics
    }

    fn fleet(&self) -> &LocalFleet {
        &self.0.fleet
    }

    fn orphans(&self) -> &Orphans {
        &self.0.orphans
    }

    fn flights(&self) -> &FlightTable {
        &self.0.flights
    }
}
