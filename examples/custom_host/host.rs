//! A host of one's own, whole: the ports of `paddock::host` over tokio, with the embedded store and counters.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use paddock::{
    Config, Host,
    config::settings::Deployment,
    fleet::local::LocalFleet,
    metrics::memory::MemoryMetrics,
    platform::{
        Background, Clock, Entropy, Journal, Timeouts, Timer, Upstream, UpstreamFailure, journal::Event,
    },
    process::{FlightTable, Orphans},
    store::memory::MemoryStore,
};

/// Time since the program started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The host; clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct TokioHost(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    config: Config,
    clock: WallClock,
    store: MemoryStore<WallClock>,
    metrics: MemoryMetrics,
    orphans: Orphans,
    flights: FlightTable,
}

impl TokioHost {
    /// A host whose settings come from wherever you keep them; here two are set, the others have their defaults.
    #[expect(clippy::disallowed_methods, reason = "a host is where time comes from")]
    pub(crate) fn new() -> anyhow::Result<Self> {
        let settings = |name: &str| match name {
            "DEFAULT_MODEL" => Some("parrot".to_owned()),
            "CACHE_TTL" => Some("10m".to_owned()),
            _ => None,
        };
        let loaded = Config::load(&settings, Deployment::Native);
        let config = loaded.map_err(|problems| anyhow::anyhow!(problems.join("; ")))?.config;
        let clock = WallClock(Instant::now());
        let store = MemoryStore::new(clock, config.memory_limit);
        store.fleet().set_hosts(config.fleet.hosts());
        Ok(Self(Arc::new(Parts {
            config,
            clock,
            store,
            metrics: MemoryMetrics::default(),
            orphans: Orphans::default(),
            flights: FlightTable::default(),
        })))
    }
}

/// Stands for a real client: an Ollama that knows one answer.
impl Upstream for TokioHost {
    type Body = BoxBody<Bytes, UpstreamFailure>;

    async fn send(
        &self,
        request: Request<Bytes>,
        limits: Timeouts,
    ) -> Result<Response<Self::Body>, UpstreamFailure> {
        println!("  upstream: {} {} within {:?}", request.method(), request.uri(), limits.first_byte);
        let answer = match request.uri().path() {
            "/api/tags" => r#"{"models":[{"name":"parrot:latest"}]}"#,
            _ => concat!(
                r#"{"message":{"role":"assistant","content":"Hello "},"done":false}"#,
                "\n",
                r#"{"message":{"role":"assistant","content":"there."},"done":true,"eval_count":2}"#,
                "\n",
            ),
        };
        Ok(Response::new(Full::from(answer).map_err(|never| match never {}).boxed()))
    }
}

impl Clock for TokioHost {
    fn now(&self) -> Duration {
        self.0.clock.now()
    }
}

impl Timer for TokioHost {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        tokio::time::sleep(time)
    }
}

impl Entropy for TokioHost {
    fn random(&self) -> u64 {
        // Enough for an example; a service takes a generator for secrets.
        RandomState::new().hash_one(self.now())
    }
}

impl Background for TokioHost {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }
}

impl Journal for TokioHost {
    fn record(&self, event: &Event<'_>) {
        println!("  log: {:?} {}", event.level(), event.summary());
    }
}

impl Host for TokioHost {
    type Store = MemoryStore<WallClock>;
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
