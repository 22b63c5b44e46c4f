//! Whole requests over a Redis whose round trips take as long as a test says, by a clock that moves by hand.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, combinators::MapErr};

use super::*;
use crate::{
    config::{Config, settings::Deployment},
    host::{
        Service,
        memory::{ManualClock, MemoryPlatform},
    },
    metrics::memory::MemoryMetrics,
    platform::{Clock, Timeouts, Timer, Upstream, UpstreamFailure},
    store::{
        StoreResult, StoreTimeouts,
        redis::{Guard, RedisCommands, RedisStore, RedisValue},
    },
};

const BUDGET: Duration = Duration::from_millis(30);
const KEEP: Duration = Duration::from_millis(250);

/// A command, when it was sent and how long it may take.
#[derive(Debug, Clone)]
struct Sent {
    name: String,
    began: Duration,
    limit: TimeLimit,
}

/// A Redis of which every round trip takes as long as it is told, and which knows as much as a new one.
#[derive(Debug, Clone)]
struct Slow {
    clock: ManualClock,
    round_trip: Arc<Mutex<Duration>>,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Slow {
    fn reply(&self, command: &str, arguments: &[&[u8]]) -> Vec<RedisValue> {
        let text = |index: usize| {
            String::from_utf8_lossy(arguments.get(index).copied().unwrap_or_default()).into_owned()
        };
        let (keys, first) = (text(1), text(2));
        let number = RedisValue::Integer;
        let now = RedisValue::Bytes(self.clock.now().as_millis().to_string().into_bytes());
        match command {
            "HMGET" => vec![RedisValue::Bytes(b"7".to_vec()), RedisValue::Nil],
            "MGET" => vec![RedisValue::Nil, RedisValue::Nil],
            "HGETALL" if text(0).ends_with(":epochs:1") => {
                vec![RedisValue::Bytes(Vec::new()), RedisValue::Bytes(b"7".to_vec())]
            }
            "PTTL" => vec![number(-2)],
            "EVAL" if first.ends_with(":epochs:1") => {
                vec![RedisValue::Bytes(Vec::new()), RedisValue::Bytes(b"7".to_vec())]
            }
            "EVAL" if first.contains(":flight:") && keys == "4" => vec![number(2)],
            // The snapshot, a claim, and an update of stats.
            "EVAL" if first.ends_with(":facts") && keys == "5" => [vec![now], vec![number(0); 5]].concat(),
            "EVAL" if first.ends_with(":leases") && keys == "5" => vec![number(1), now],
            "EVAL" if first.ends_with(":facts") => vec![number(1), RedisValue::Bytes(Vec::new()), now],
            "EVAL" if first.contains(":session:") => Vec::new(),
            "EVAL" => vec![number(0)],
            _ => Vec::new(),
        }
    }
}

impl RedisCommands for Slow {
    async fn execute(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        limit: TimeLimit,
    ) -> StoreResult<Vec<RedisValue>> {
        let key = arguments.get(if command == "EVAL" { 2 } else { 0 }).copied().unwrap_or_default();
        let name = format!("{command} {}", String::from_utf8_lossy(key));
        self.sent.lock().unwrap().push(Sent { name, began: self.clock.now(), limit });
        let round_trip = *self.round_trip.lock().unwrap();
        self.clock.sleep(round_trip.min(limit.time)).await;
        if round_trip > limit.time { Err(limit.passed()) } else { Ok(self.reply(command, arguments)) }
    }

    async fn execute_replicated(
        &self,
        command: &'static str,
        arguments: &[&[u8]],
        replicas: u32,
        limit: TimeLimit,
    ) -> StoreResult<(Vec<RedisValue>, u32)> {
        Ok((self.execute(command, arguments, limit).await?, replicas))
    }
}

/// Hosts that answer at once; some fail.
#[derive(Debug, Clone, Default)]
struct Herd {
    clock: Option<ManualClock>,
    failing: Arc<Mutex<BTreeSet<String>>>,
    /// When each chat was asked for.
    asked: Arc<Mutex<Vec<Duration>>>,
}

impl Upstream for Herd {
    type Body = MapErr<Full<Bytes>, fn(std::convert::Infallible) -> UpstreamFailure>;

    async fn send(
        &self,
        request: Request<Bytes>,
        _: Timeouts,
    ) -> Result<Response<Self::Body>, UpstreamFailure> {
        let answer = match request.uri().path() {
            "/api/tags" => r#"{"models":[{"name":"llama3.2:latest"}]}"#,
            "/api/chat" => {
                let name = request.uri().host().unwrap().to_owned();
                let now = self.clock.as_ref().map(Clock::now).unwrap_or_default();
                self.asked.lock().unwrap().push(now);
                if self.failing.lock().unwrap().contains(&name) {
                    return Err(UpstreamFailure::Unreachable("refused".to_owned()));
                }
                "{\"message\":{\"role\":\"assistant\",\"content\":\"hello\"},\"done\":false}\n{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true}\n"
            }
            _ => "{}",
        };
        let body: Full<Bytes> = Full::from(answer);
        let kind = ("content-type", "application/x-ndjson");
        let response = Response::builder().header(kind.0, kind.1);
        Ok(response.body(body.map_err((|never| match never {}) as fn(_) -> _)).unwrap())
    }
}

/// A platform in memory, whose state is in Redis.
type RedisPlatform = MemoryPlatform<Herd, RedisStore<Guard<Slow, ManualClock>>>;

struct Scene {
    service: Service<RedisPlatform>,
    redis: Slow,
    herd: Herd,
}

/// What became of one request.
#[derive(Debug)]
struct RequestOutcome {
    cache: String,
    session: String,
    /// After how long upstream was asked.
    asked: Vec<Duration>,
    /// What Redis was asked until upstream was asked last, in waves.
    before: Vec<Sent>,
    began: Duration,
}

impl Scene {
    fn new(hosts: &str, round_trip: u64) -> Self {
        let value = |name: &str| match name {
            "OLLAMA_HOSTS" => Some(hosts.to_owned()),
            _ => None,
        };
        let config = Config::load(&value, Deployment::Native).unwrap().config;
        let timeouts = StoreTimeouts { ask: BUDGET, keep: KEEP };
        // The herd tells the time by the clock of the host that asks it.
        let clock = ManualClock::default();
        let herd = Herd { clock: Some(clock.clone()), ..Herd::default() };
        let platform = MemoryPlatform::new(herd.clone(), clock.clone());
        let redis = Slow {
            clock: clock.clone(),
            round_trip: Arc::new(Mutex::new(Duration::from_millis(round_trip))),
            sent: Arc::default(),
        };
        let store = RedisStore::new(Guard::new(redis.clone(), clock), "p", timeouts);
        Self { service: Service::new(config, platform, store, MemoryMetrics::default()), redis, herd }
    }

    /// Has a future come to its end, and with it what it started, while time goes by.
    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut running = pin!(self.service.platform().run(future));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..60_000 {
            if let Poll::Ready(output) = running.as_mut().poll(&mut context) {
                return output;
            }
            self.redis.clock.advance(Duration::from_millis(1));
        }
        panic!("it never ends");
    }

    fn say(&self, message: &str, session: &str) -> RequestOutcome {
        self.redis.sent.lock().unwrap().clear();
        self.herd.asked.lock().unwrap().clear();
        let began = self.service.now();
        let body = format!(r#"{{"message":"{message}","session_id":"{session}"}}"#);
        let request = Request::post("/chat").body(Full::<Bytes>::from(body)).unwrap();
        let response = self.run(async {
            let response = crate::handle(&self.service, request).await;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            assert_eq!(parts.status, 200, "{body:?}");
            parts
        });
        let header = |name: &str| {
            let value = response.headers.get(name).map(|value| value.to_str().unwrap());
            value.unwrap_or_default().to_owned()
        };
        let asked = self.herd.asked.lock().unwrap().clone();
        let last = *asked.last().unwrap();
        let sent = self.redis.sent.lock().unwrap();
        RequestOutcome {
            cache: header("x-cache"),
            session: header("x-session"),
            asked: asked.into_iter().map(|time| time.saturating_sub(began)).collect(),
            before: sent.iter().filter(|sent| sent.began <= last).cloned().collect(),
            began,
        }
    }
}

impl RequestOutcome {
    /// Whether nothing that the request waited for could have taken it past its budget.
    fn kept_its_budget(&self) {
        for sent in self.before.iter().filter(|sent| sent.limit.time <= BUDGET) {
            let end = sent.began.saturating_sub(self.began) + sent.limit.time;
            assert!(end <= BUDGET, "{sent:?} {self:?}");
        }
        assert!(self.asked.iter().all(|after| *after <= BUDGET), "{self:?}");
    }
}

#[test]
fn however_slow_redis_is_upstream_is_asked_within_the_budget_at_every_attempt() {
    for round_trip in [0, 1, 5, 9, 10, 14, 15, 16, 20, 29, 30, 31, 100, 10_000] {
        for session in ["", "s"] {
            let scene = Scene::new("a:1,b:1", round_trip);
            for failing in [&[][..], &["a", "b"]] {
                for name in ["a", "b"] {
                    // The first request finds out what the hosts have; later ones know.
                    let failing = failing.iter().filter(|failing| **failing == name);
                    *scene.herd.failing.lock().unwrap() = failing.map(|name| (*name).to_owned()).collect();
                    scene.say(&format!("first, while {name} fails"), session).kept_its_budget();
                    scene.say(&format!("then, while {name} fails"), session).kept_its_budget();
                    scene.redis.clock.advance(Duration::from_secs(20));
                }
            }
        }
    }
}

#[test]
fn what_a_slow_redis_can_do_in_the_budget_it_does() {
    for (round_trip, cache, session) in [
        (0, "miss", "stored"),
        (14, "miss", "stored"),
        // The session is known by the first wave; the second, which would look for the answer, comes too late.
        (16, "bypass", "stored"),
        (29, "bypass", "stored"),
        (31, "bypass", "unavailable"),
    ] {
        let scene = Scene::new("a:1", round_trip);
        // A second time: it was not taken for gone.
        for number in 0..3 {
            let outcome = scene.say(&format!("question {number}"), "s");
            let expected = (cache.to_owned(), session.to_owned());
            assert_eq!((outcome.cache, outcome.session), expected, "{round_trip} {number}");
        }
        assert_eq!(
            scene.service.store().outage().record(true).is_some(),
            session != "stored",
            "{round_trip}"
        );
    }
}

#[test]
fn an_answer_that_was_not_looked_for_in_time_is_kept_all_the_same_and_no_place_stays_taken() {
    let scene = Scene::new("a:1", 20);
    scene.say("hello", "");
    scene.say("hello", "");
    // What is done afterwards.
    scene.run(scene.service.sleep(Duration::from_secs(1)));
    let sent = scene.redis.sent.lock().unwrap();
    let count = |wanted: &str| sent.iter().filter(|sent| sent.name.contains(wanted)).count();
    let puts = sent.iter().filter(|sent| sent.name.starts_with("EVAL") && sent.name.contains(":answer:"));
    assert_eq!(puts.count(), 1, "{sent:?}");
    assert_eq!(count("EVAL p:{fleet}:1:tickets"), 1, "{sent:?}");
}
