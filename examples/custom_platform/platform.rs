//! A platform of one's own, whole: the ports of `paddock::platform` over tokio, with the embedded store and counters.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use paddock::{
    Config, Platform, Service,
    config::settings::Deployment,
    metrics::memory::MemoryMetrics,
    platform::{
        Background, Clock, Entropy, Journal, Task, Timeouts, Timer, Upstream, UpstreamFailure, journal::Event,
    },
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

/// The service over this platform.
pub(crate) type TokioService = Service<TokioPlatform>;

/// What this program brings to the service.
#[derive(Debug)]
pub(crate) struct TokioPlatform(WallClock);

/// A service whose settings come from wherever you keep them; here two are set, the others have their defaults.
#[expect(clippy::disallowed_methods, reason = "a platform is where time comes from")]
pub(crate) fn service() -> anyhow::Result<TokioService> {
    let settings = |name: &str| match name {
        "DEFAULT_MODEL" => Some("parrot".to_owned()),
        "CACHE_TTL" => Some("10m".to_owned()),
        _ => None,
    };
    let loaded = Config::load(&settings, Deployment::Native);
    let config = loaded.map_err(|problems| anyhow::anyhow!(problems.join("; ")))?.config;
    let clock = WallClock(Instant::now());
    let store = MemoryStore::new(clock, config.store.memory_limit);
    Ok(Service::new(config, TokioPlatform(clock), store, MemoryMetrics::default()))
}

/// Stands for a real client: an Ollama that knows one answer.
impl Upstream for TokioPlatform {
    type Body = BoxBody<Bytes, UpstreamFailure>;

    async fn send(
        &self,
        request: Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<Response<Self::Body>, UpstreamFailure> {
        println!("  upstream: {} {} within {:?}", request.method(), request.uri(), timeouts.first_byte);
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

impl Clock for TokioPlatform {
    fn now(&self) -> Duration {
        self.0.now()
    }
}

impl Timer for TokioPlatform {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        tokio::time::sleep(time)
    }
}

impl Entropy for TokioPlatform {
    fn random(&self) -> u64 {
        // Enough for an example; a service takes a generator for secrets.
        RandomState::new().hash_one(self.now())
    }
}

impl Background for TokioPlatform {
    fn spawn_boxed(&self, task: Task) {
        tokio::spawn(task);
    }
}

impl Journal for TokioPlatform {
    fn record(&self, event: &Event<'_>) {
        println!("  log: {:?} {}", event.level(), event.summary());
    }
}

impl Platform for TokioPlatform {
    type Store = MemoryStore<WallClock>;
    type Metrics = MemoryMetrics;
}
