//! The Spin host: the core's ports over the Spin SDK.

use std::{
    future::Future,
    io::Write,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use paddock::{
    Config, Host,
    config::{Loaded, settings::Deployment},
    fleet::local::LocalFleet,
    metrics::redis::RedisMetrics,
    platform::{
        Background, Clock, Entropy, Journal, Timeouts, Timer, Upstream, UpstreamFailure,
        journal::{Event, Level},
    },
    process::{FlightTable, Orphans},
    store::redis::{Guard, RedisLimits, RedisStore},
};
use serde::Serialize;
use spin_sdk::wasip3;

use crate::{background, body::SpinBody, redis::SpinRedis, settings::SpinSettings, upstream};

/// Redis, and whether it is worth asking.
type Redis = Guard<SpinRedis, SpinClock>;

/// Time since the instance started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpinClock(Instant);

impl Clock for SpinClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The host of one instance. Clones share everything.
#[derive(Clone)]
pub(crate) struct SpinHost(Rc<Parts>);

struct Parts {
    config: Config,
    started: SpinClock,
    store: RedisStore<Redis>,
    metrics: RedisMetrics<Redis>,
    fleet: LocalFleet,
    orphans: Orphans,
    flights: FlightTable,
}

impl SpinHost {
    /// Reads and checks the settings.
    ///
    /// # Errors
    /// One sentence per mistake; they are in the log, too.
    pub(crate) async fn load() -> Result<Self, Vec<String>> {
        let settings = SpinSettings::read().await;
        let Loaded { config, warnings } = Config::load(&settings, Deployment::Spin)
            .inspect_err(|problems| record(&Event::Misconfigured { problems }))?;
        for warning in warnings {
            write(Level::Warn, &warning, None);
        }
        let started = SpinClock(Instant::now());
        let fleet = LocalFleet::default();
        fleet.set_hosts(config.fleet.hosts());
        let address = config.redis.as_ref().and_then(|redis| redis.urls.first().cloned());
        let redis = Guard::new(SpinRedis::new(address), started);
        let none = RedisLimits { ask: Duration::ZERO, keep: Duration::ZERO };
        let limits = config.redis.as_ref().map_or(none, |redis| redis.limits);
        let replicas = config.redis.as_ref().map_or(0, |redis| redis.wait_replicas);
        Ok(Self(Rc::new(Parts {
            store: RedisStore::new(redis.clone(), &config.redis_prefix, limits).with_replicas(replicas),
            metrics: RedisMetrics::new(redis, &config.redis_prefix, limits.keep),
            started,
            fleet,
            orphans: Orphans::default(),
            flights: FlightTable::default(),
            config,
        })))
    }
}

/// One line of the log: when, how urgent, a sentence, and the fields of the event.
#[derive(Serialize)]
struct Line<'a> {
    /// Milliseconds since 1970.
    time_ms: u128,
    level: Level,
    message: &'a str,
    #[serde(flatten)]
    event: Option<&'a Event<'a>>,
}

/// Writes a line of JSON to standard error, which Spin keeps as the component's log.
fn write(level: Level, message: &str, event: Option<&Event<'_>>) {
    let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    if let Ok(mut line) = serde_json::to_vec(&Line { time_ms, level, message, event }) {
        line.push(b'\n');
        // A log that cannot be written must not stop the service.
        let _ = std::io::stderr().write_all(&line);
    }
}

fn record(event: &Event<'_>) {
    write(event.level(), event.summary(), Some(event));
}

impl Upstream for SpinHost {
    type Body = SpinBody<wasip3::http::types::Response>;

    async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Timeouts,
    ) -> Result<http::Response<Self::Body>, UpstreamFailure> {
        upstream::send(request, limits).await
    }
}

impl Clock for SpinHost {
    fn now(&self) -> Duration {
        self.0.started.now()
    }
}

impl Timer for SpinHost {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + 'static {
        spin_sdk::time::sleep(time)
    }
}

impl Entropy for SpinHost {
    fn random(&self) -> u64 {
        wasip3::random::random::get_random_u64()
    }
}

impl Background for SpinHost {
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        background::spawn(task);
    }
}

impl Journal for SpinHost {
    fn record(&self, event: &Event<'_>) {
        record(event);
    }
}

impl Host for SpinHost {
    type Store = RedisStore<Redis>;
    type Metrics = RedisMetrics<Redis>;

    fn form(&self) -> Deployment {
        Deployment::Spin
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
        &self.0.fleet
    }

    fn orphans(&self) -> &Orphans {
        &self.0.orphans
    }

    fn flights(&self) -> &FlightTable {
        &self.0.flights
    }
}
