//! The service as every handler sees it, over the platform that an embedder brings.
//!
//! An embedder implements [`Platform`]; [`Service`] owns the rest. Nothing here decides anything.

#[cfg(all(feature = "memory", not(target_family = "wasm")))]
pub mod memory;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    api::{
        auth::CallerId,
        hops::HopMark,
        memory_budget::{HeldBytes, MemoryBudget},
    },
    config::{Config, MACHINE_BUDGET, settings::Deployment},
    fleet::local::LocalFleet,
    metrics::Metrics,
    platform::{
        Background, Clock, Entropy, Journal, MaybeSend, Task, Timeouts, Timer, Upstream, UpstreamFailure,
        journal::Event,
    },
    process::{FlightTable, Orphans, Shutdown},
    store::Store,
    wire::pace::{Pace, STEP, at_once},
};

/// A body beyond this length occupies a thread while it is read, for some milliseconds.
const LARGE_BODY: usize = 1 << 20;

/// What an embedder implements: the leaf ports, and the types of the store and the metrics.
pub trait Platform: Upstream + Clock + Timer + Entropy + Background + Journal + 'static {
    /// The store of the shared state.
    type Store: Store;
    /// The store of the counters.
    type Metrics: Metrics;

    /// The deployment, for `paddock_build_info` and for messages.
    const DEPLOYMENT: Deployment = Deployment::Native;
    /// Whether one request may wake a future of another. Where it may not, no request joins the flight of another.
    const WAKES_OTHER_REQUESTS: bool = true;
}

/// The service. Clones share its state.
pub struct Service<P: Platform>(Arc<ServiceState<P>>);

struct ServiceState<P: Platform> {
    config: Config,
    platform: P,
    store: P::Store,
    metrics: P::Metrics,
    fleet: Arc<LocalFleet>,
    memory_budget: MemoryBudget,
    orphans: Orphans,
    flights: FlightTable,
    hop_mark: HopMark,
    shutdown: Shutdown,
}

impl<P: Platform> Service<P> {
    /// A service with these settings, which knows the configured hosts from the start.
    pub fn new(config: Config, platform: P, store: P::Store, metrics: P::Metrics) -> Self {
        let fleet = store.local_fleet().unwrap_or_default();
        fleet.set_hosts(&config.fleet.hosts);
        let flights = FlightTable::new(P::WAKES_OTHER_REQUESTS);
        let (orphans, shutdown) = (Orphans::default(), Shutdown::default());
        let memory_budget =
            MemoryBudget::new(config.access.memory_budget.unwrap_or(MACHINE_BUDGET), P::WAKES_OTHER_REQUESTS);
        let hop_mark = HopMark::new(config.hop_id());
        Self(Arc::new(ServiceState {
            config,
            platform,
            store,
            metrics,
            fleet,
            memory_budget,
            orphans,
            flights,
            hop_mark,
            shutdown,
        }))
    }

    /// The checked settings.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The embedder's platform.
    pub fn platform(&self) -> &P {
        &self.0.platform
    }

    /// The store.
    pub fn store(&self) -> &P::Store {
        &self.0.store
    }

    /// The counters.
    pub fn metrics(&self) -> &P::Metrics {
        &self.0.metrics
    }

    /// The fleet state of this process: all of it without a shared store, and the fallback while that is down.
    pub fn fleet(&self) -> &LocalFleet {
        &self.0.fleet
    }

    /// The account of the bytes that a request of `caller` holds. Callers have the shares that they have of every pool; where
    /// nobody is verified there is but one, and nothing to share.
    pub(crate) fn account(&self, caller: &CallerId) -> HeldBytes {
        let has_shares = self.config().access.verifies_callers();
        self.0.memory_budget.account(has_shares.then(|| caller.owner()))
    }

    /// The account of bytes that are held for no caller in particular.
    pub(crate) fn shared_account(&self) -> HeldBytes {
        self.0.memory_budget.account(None)
    }

    /// How many bytes of request bodies the process may hold, and how many it holds.
    pub(crate) fn memory_budget(&self) -> &MemoryBudget {
        &self.0.memory_budget
    }

    /// Does work on `bytes` of a request: at once where they are few, on a thread that it may occupy where there are such
    /// threads and the bytes are many, else in steps.
    pub(crate) async fn compute<F: Future>(&self, bytes: usize, work: impl FnOnce(Pace) -> F) -> F::Output {
        if bytes <= STEP {
            at_once(work(Pace::unbroken()))
        } else if P::COMPUTES_APART && bytes > LARGE_BODY {
            self.0.platform.compute(|| at_once(work(Pace::unbroken())))
        } else {
            // Only long work is on the heap, so that short work makes no future larger.
            Box::pin(work(Pace::in_steps())).await
        }
    }

    /// Gives up every answer that is still open, for good: its client gets the error `shutting_down`, as the last event of a
    /// stream or as the reply, and its request a line in the log. For an embedder whose time to end has come.
    pub fn give_up(&self) {
        self.0.shutdown.begin();
    }

    /// The mark of this service in what it asks hosts.
    pub(crate) fn hop_mark(&self) -> &HopMark {
        &self.0.hop_mark
    }

    /// Whether open answers are given up.
    pub(crate) fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }

    /// The model loads that continue although their clients left.
    pub(crate) fn orphans(&self) -> &Orphans {
        &self.0.orphans
    }

    /// The flights of this process.
    pub(crate) fn flights(&self) -> &FlightTable {
        &self.0.flights
    }
}

impl<P: Platform> Clone for Service<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Platform> fmt::Debug for Service<P> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Service").field("config", &self.0.config).finish_non_exhaustive()
    }
}

// The service implements each port, so that a function can require only the port that it needs.

impl<P: Platform> Upstream for Service<P> {
    type Body = P::Body;

    fn send(
        &self,
        request: http::Request<Bytes>,
        timeouts: Timeouts,
    ) -> impl Future<Output = Result<http::Response<P::Body>, UpstreamFailure>> + MaybeSend {
        self.0.platform.send(request, timeouts)
    }
}

impl<P: Platform> Clock for Service<P> {
    fn now(&self) -> Duration {
        self.0.platform.now()
    }
}

impl<P: Platform> Timer for Service<P> {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + MaybeSend + 'static {
        self.0.platform.sleep(time)
    }
}

impl<P: Platform> Entropy for Service<P> {
    fn random(&self) -> u64 {
        self.0.platform.random()
    }
}

impl<P: Platform> Background for Service<P> {
    const COMPUTES_APART: bool = P::COMPUTES_APART;

    fn spawn_boxed(&self, task: Task) {
        self.0.platform.spawn_boxed(task);
    }

    fn compute<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.platform.compute(work)
    }
}

impl<P: Platform> Journal for Service<P> {
    fn record(&self, event: &Event<'_>) {
        self.0.platform.record(&event.bounded());
    }
}
