//! How much time a Redis in trouble adds to a request that pays for it, against the same request without Redis.
//!
//! Both are asked in turn in the same run, and the median of the differences counts, so that a machine under load slows
//! both. It must hold in one of a few rounds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::future::BoxFuture;
use paddock_tests::{
    gateway::{Form, Gateway, Native, Spin},
    ollama::FakeOllama,
    redis_commands::Connection,
    redis_proxy::WaveProxy,
    redis_server::RedisServer,
    setup::Setup,
};
use serde_json::json;
use tokio::net::TcpListener;

/// What may be added.
const LIMIT: Duration = Duration::from_millis(50);
/// What a slow Redis takes for each wave: two would be too much.
const SLOW: Duration = Duration::from_millis(27);
/// Pairs of requests in a round, and rounds.
const PAIRS: u32 = 5;
const ROUNDS: u32 = 3;

/// What is wrong with the Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Its port refuses connections.
    Gone,
    /// The process was stopped: it accepts connections and answers nothing.
    Stopped,
    /// `CLIENT PAUSE`.
    Paused,
    /// Each wave is answered just within what there is for all.
    Slow,
}

/// How long a request took: until the first line of its answer, and until the last.
type Taken = [Duration; 2];

/// The settings that matter here as they are by default; nothing but requests asks Redis.
fn usual(ollama: &FakeOllama) -> Setup {
    let setup = Setup::new([ollama]).in_one_instance().rarely_probes();
    setup.set("REDIS_TIMEOUT", "30ms").set("REDIS_WRITE_TIMEOUT", "250ms")
}

/// A question in a session of its own, streamed; `cache` is what the head must say of the cache, if anything.
async fn ask(gateway: &dyn Gateway, number: u32, cache: Option<&str>) -> Result<Taken> {
    let body =
        json!({"message": format!("question {number}"), "session_id": format!("s{number}"), "stream": true});
    let started = Instant::now();
    let mut reply = gateway.open_post("/chat", body, &[]).await?;
    ensure!(reply.status == 200, "{}", reply.status);
    ensure!(cache.is_none_or(|cache| cache == reply.header("x-cache")), "{:?}", reply.headers);
    ensure!(reply.next_line().await?.is_some(), "an empty answer");
    let first = started.elapsed();
    reply.rest().await?;
    Ok([first, started.elapsed()])
}

/// The medians of what was added in a round.
fn added(pairs: &[(Taken, Taken)]) -> Taken {
    [0, 1].map(|part| {
        let mut added: Vec<_> =
            pairs.iter().map(|(without, with)| with[part].saturating_sub(without[part])).collect();
        added.sort();
        added[added.len() / 2]
    })
}

/// Takes rounds of pairs until one is within the limits.
async fn within<'a>(
    limits: Taken,
    what: &str,
    mut pair: impl FnMut(u32) -> BoxFuture<'a, Result<(Taken, Taken)>>,
) -> Result<()> {
    let mut tried = Vec::new();
    for round in 0..ROUNDS {
        let mut pairs = Vec::new();
        for number in 0..PAIRS {
            pairs.push(pair(round * PAIRS + number).await?);
        }
        let added = added(&pairs);
        println!("{what}: {added:?} added until the first line and the last");
        if added.iter().zip(&limits).all(|(added, limit)| added <= limit) {
            return Ok(());
        }
        tried.push(added);
    }
    anyhow::bail!("{what}: {tried:?} added, and no more than {limits:?} may be")
}

/// A Redis that can be brought into trouble, behind a proxy, and a gateway that uses it; beside it one that has none.
struct Scene {
    without: Box<dyn Gateway>,
    with: Box<dyn Gateway>,
    redis: RedisServer,
    proxy: WaveProxy,
    _ollama: FakeOllama,
}

impl Scene {
    async fn start(form: &dyn Form, bare: &dyn Form) -> Result<Self> {
        let (redis, ollama) = (RedisServer::start()?, FakeOllama::start().await?);
        let proxy = WaveProxy::start(&redis).await?;
        let with = form.start(usual(&ollama).redis(&proxy.server()?)).await?;
        let without = bare.start(usual(&ollama).redis_nowhere()?).await?;
        let scene = Self { without, with, redis, proxy, _ollama: ollama };
        scene.recover().await?;
        Ok(scene)
    }

    async fn recover(&self) -> Result<()> {
        self.with.until("recovery", |reply| reply.header("x-session") == "stored").await.map(drop)
    }

    /// The same question to both, to the one with Redis while that is in trouble, and everything well again.
    async fn pair(&self, trouble: Trouble, number: u32) -> Result<(Taken, Taken)> {
        let without = ask(self.without.as_ref(), number, None).await?;
        match trouble {
            Trouble::Gone => self.redis.stop()?,
            Trouble::Stopped => self.redis.pause()?,
            Trouble::Paused => {
                let operator = Connection::open(&self.redis).await?;
                operator.run(&["CLIENT", "PAUSE", "800", "ALL"]).await?;
            }
            Trouble::Slow => self.proxy.delay(SLOW),
        }
        let cache = (trouble != Trouble::Slow).then_some("bypass");
        let with = ask(self.with.as_ref(), number, cache).await;
        match trouble {
            Trouble::Gone => self.redis.restart()?,
            Trouble::Stopped => self.redis.resume()?,
            Trouble::Paused => {}
            Trouble::Slow => self.proxy.delay(Duration::ZERO),
        }
        self.recover().await?;
        Ok((without, with?))
    }
}

/// Every request that is measured is the first after the trouble began: later ones are spared by the breaker. A Redis that
/// works, though slowly, stores the turn before the last line, which takes so many waves.
async fn redis_in_trouble_adds_little(form: &dyn Form, bare: &dyn Form, storing: u32) -> Result<()> {
    let scene = Scene::start(form, bare).await?;
    for trouble in [Trouble::Gone, Trouble::Stopped, Trouble::Paused, Trouble::Slow] {
        let storing = if trouble == Trouble::Slow { SLOW * storing } else { Duration::ZERO };
        let limits = [LIMIT, LIMIT + storing];
        within(limits, &format!("{trouble:?}"), |number| Box::pin(scene.pair(trouble, number))).await?;
    }
    Ok(())
}

/// A gateway that just began, over something that accepts connections and never says a word.
async fn a_redis_that_never_said_a_word_adds_little(form: &dyn Form, bare: &dyn Form) -> Result<()> {
    let (ollama, silent) = (FakeOllama::start().await?, TcpListener::bind("127.0.0.1:0").await?);
    let redis = Arc::new(RedisServer::at(&format!("redis://{}/0", silent.local_addr()?))?);
    within([LIMIT; 2], "silent", |number| {
        let (ollama, redis) = (ollama.clone(), Arc::clone(&redis));
        Box::pin(async move {
            let without = bare.start(usual(&ollama).redis_nowhere()?).await?;
            let with = form.start(usual(&ollama).redis(&redis)).await?;
            let without = ask(without.as_ref(), number, None).await?;
            Ok((without, ask(with.as_ref(), number, Some("bypass")).await?))
        })
    })
    .await
}

#[tokio::test]
async fn redis_in_trouble_adds_at_most_50_ms_natively() -> Result<()> {
    redis_in_trouble_adds_little(&Native { redis: true }, &Native { redis: false }, 1).await?;
    a_redis_that_never_said_a_word_adds_little(&Native { redis: true }, &Native { redis: false }).await
}

#[tokio::test]
async fn redis_in_trouble_adds_at_most_50_ms_on_spin() -> Result<()> {
    // Spin's connections send nothing while something before is not acknowledged, such as what was given up.
    redis_in_trouble_adds_little(&Spin, &Spin, 2).await?;
    a_redis_that_never_said_a_word_adds_little(&Spin, &Spin).await
}
