//! The platform Spin: the core's ports over the Spin SDK.

use std::{
    future::Future,
    io::Write,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use paddock::{
    Config, Platform, Service,
    config::{Loaded, settings::Deployment},
    metrics::redis::RedisMetrics,
    platform::{
        Background, Clock, Entropy, Journal, Task, Timeouts, Timer, Upstream, UpstreamFailure,
        journal::{Event, Level},
    },
    store::{
        StoreTimeouts,
        redis::{Guard, RedisStore},
    },
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

/// The service of one instance.
pub(crate) type SpinService = Service<SpinPlatform>;

/// What Spin brings to the core.
pub(crate) struct SpinPlatform {
    started: SpinClock,
}

impl SpinPlatform {
    /// The service, once the settings are read and checked.
    ///
    /// # Errors
    /// One sentence per mistake; they are in the log, too.
    pub(crate) async fn service() -> Result<SpinService, Vec<String>> {
        let settings = SpinSettings::read().await;
        let Loaded { config, warnings } = Config::load(&settings, Deployment::Spin)
            .inspect_err(|problems| record(&Event::Misconfigured { problems }))?;
        for warning in warnings {
            write(Level::Warn, &warning, None);
        }
        let started = SpinClock(Instant::now());
        let redis = config.store.redis.as_ref();
        let address = redis.and_then(|redis| redis.urls.first().cloned());
        let timeouts = redis.map_or_else(StoreTimeouts::default, |redis| redis.limits);
        let replicas = redis.map_or(0, |redis| redis.wait_replicas);
        let reply_limit = redis.map_or(0, |redis| redis.reply_limit);
        let commands = Guard::new(SpinRedis::new(address, reply_limit), started);
        let store = RedisStore::new(commands.clone(), &config.store.redis_prefix, timeouts)
            .with_replicas(replicas)
            .with_cache_limit(redis.and_then(|redis| redis.cache_limit))
            .with_reply_limit(reply_limit);
        let metrics = RedisMetrics::new(commands, &config.store.redis_prefix, timeouts.keep);
        Ok(Service::new(config, Self { started }, store, metrics))
    }
}

/// One line of the log: when, how urgent, a sentence, and the fields of the event.
#[derive(Serialize)]
struct LogLine<'a> {
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
    if let Ok(mut line) = serde_json::to_vec(&LogLine { time_ms, level, message, event }) {
        line.push(b'\n');
        // A log that cannot be written must not stop the service.
        let _ = std::io::stderr().write_all(&line);
    }
}

fn record(event: &Event<'_>) {
    write(event.level(), event.summary(), Some(event));
}

impl Upstream for SpinPlatform {
    type Body = SpinBody<wasip3::http::types::Response>;

    async fn send(
        &self,
        request: http::Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<http::Response<Self::Body>, UpstreamFailure> {
        upstream::send(request, timeouts).await
    }
}

impl Clock for SpinPlatform {
    fn now(&self) -> Duration {
        self.started.now()
    }
}

impl Timer for SpinPlatform {
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + 'static {
        spin_sdk::time::sleep(time)
    }
}

impl Entropy for SpinPlatform {
    fn random(&self) -> u64 {
        wasip3::random::random::get_random_u64()
    }
}

impl Background for SpinPlatform {
    fn spawn_boxed(&self, task: Task) {
        background::spawn(task);
    }
}

impl Journal for SpinPlatform {
    fn record(&self, event: &Event<'_>) {
        record(event);
    }
}

impl Platform for SpinPlatform {
    type Store = RedisStore<Redis>;
    type Metrics = RedisMetrics<Redis>;

    const DEPLOYMENT: Deployment = Deployment::Spin;
    // Waking a future of another request's task traps the instance.
    const WAKES_OTHER_REQUESTS: bool = false;
}
