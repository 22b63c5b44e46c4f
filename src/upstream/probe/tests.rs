//! The watch over the hosts, held against a clock that moves by hand.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use http::Response;
use http_body_util::Full;

use super::*;
use crate::{
    config::{Config, settings::Deployment},
    host::{Service, memory::MemoryPlatform},
    platform::{Timeouts, Upstream},
};

type Body = http_body_util::combinators::MapErr<Full<Bytes>, fn(std::convert::Infallible) -> UpstreamFailure>;

/// Hosts that count how often they are asked for their models, and of which some hang or refuse.
#[derive(Debug, Clone, Default)]
struct Herd(Arc<Mutex<Stalls>>);

#[derive(Debug, Default)]
struct Stalls {
    asked: BTreeMap<String, usize>,
    hanging: BTreeSet<String>,
    refusing: BTreeSet<String>,
}

impl Upstream for Herd {
    type Body = Body;

    async fn send(&self, request: Request<Bytes>, _: Timeouts) -> Result<Response<Body>, UpstreamFailure> {
        let name = request.uri().host().unwrap().to_owned();
        if request.uri().path() == "/api/tags" {
            *self.0.lock().unwrap().asked.entry(name.clone()).or_default() += 1;
        }
        poll_fn(
            |_| {
                if self.0.lock().unwrap().hanging.contains(&name) { Poll::Pending } else { Poll::Ready(()) }
            },
        )
        .await;
        if self.0.lock().unwrap().refusing.contains(&name) {
            return Err(UpstreamFailure::Unreachable("refused".to_owned()));
        }
        let body: Full<Bytes> = Full::from(r#"{"models":[{"name":"llama3.2:latest"}]}"#);
        Ok(Response::new(body.map_err(|never| match never {})))
    }
}

impl Herd {
    fn asked(&self, name: &str) -> usize {
        self.0.lock().unwrap().asked.get(name).copied().unwrap_or_default()
    }
}

fn backend(slot: usize, name: &str) -> BackendHost {
    BackendHost::new(slot, &format!("http://{name}:1")).unwrap()
}

fn host(names: &str) -> (Service<MemoryPlatform<Herd>>, Herd) {
    let value = |name: &str| match name {
        "OLLAMA_HOSTS" => Some(names.to_owned()),
        "ALLOW_MODEL_MANAGEMENT" => Some("true".to_owned()),
        _ => None,
    };
    let herd = Herd::default();
    (MemoryPlatform::service(Config::load(&value, Deployment::Native).unwrap().config, herd.clone()), herd)
}

/// Plays the watch over `host`; each step moves the clock and lets happen what can.
fn play(host: &Service<MemoryPlatform<Herd>>, script: impl FnOnce(&mut dyn FnMut(u64))) {
    let mut watching = pin!(host.watch());
    let mut context = Context::from_waker(Waker::noop());
    script(&mut |millis| {
        host.platform().clock().advance(Duration::from_millis(millis));
        assert!(watching.as_mut().poll(&mut context).is_pending());
    });
}

#[test]
fn each_host_is_asked_every_two_seconds_a_fifth_more_or_less() {
    let (host, herd) = host("a:1,b:1");
    play(&host, |step| {
        step(0);
        assert_eq!((herd.asked("a"), herd.asked("b")), (1, 1));
        let mut last = host.now();
        let mut pauses = BTreeSet::new();
        while herd.asked("a") < 50 {
            let before = herd.asked("a");
            step(10);
            if herd.asked("a") > before {
                pauses.insert(host.now().saturating_sub(last).as_millis());
                last = host.now();
            }
        }
        assert_eq!(herd.asked("b"), 50);
        let (shortest, longest) = (*pauses.first().unwrap(), *pauses.last().unwrap());
        assert!((1600..1800).contains(&shortest) && (2200..2420).contains(&longest), "{pauses:?}");
    });
}

#[test]
fn a_host_that_hangs_delays_no_other_and_is_not_asked_twice_at_once() {
    let (host, herd) = host("a:1,b:1");
    herd.0.lock().unwrap().hanging.insert("a".to_owned());
    play(&host, |step| {
        step(0);
        for _ in 0..3 {
            step(2400);
        }
        assert_eq!((herd.asked("a"), herd.asked("b")), (1, 4));
    });
}

#[test]
fn hosts_that_come_are_asked_and_those_that_left_are_forgotten() {
    let (host, herd) = host("a:1,b:1");
    let known = || host.fleet().inventories().keys().cloned().collect::<Vec<_>>();
    play(&host, |step| {
        step(0);
        assert_eq!(known(), ["http://a:1", "http://b:1"]);
        host.fleet().set_hosts(&[backend(2, "b"), backend(3, "c")]);
        step(2400);
        assert_eq!(known(), ["http://b:1", "http://c:1"]);
        assert_eq!((herd.asked("a"), herd.asked("b"), herd.asked("c")), (1, 2, 1));
        host.fleet().set_hosts(&[]);
        step(2400);
        assert!(known().is_empty());
        host.fleet().set_hosts(&[backend(1, "a")]);
        step(2400);
        assert_eq!((herd.asked("a"), herd.asked("b")), (2, 2));
    });
}

#[test]
fn a_host_that_refuses_is_out_of_rotation_until_it_answers_again() {
    let (host, herd) = host("a:1");
    let state = || {
        let snapshot = host.fleet().snapshot(host.now());
        snapshot.stats.get("http://a:1").map(|stats| stats.breaker.state(snapshot.now))
    };
    herd.0.lock().unwrap().refusing.insert("a".to_owned());
    play(&host, |step| {
        step(0);
        assert_eq!(state(), Some(BreakerState::Open));
        herd.0.lock().unwrap().refusing.clear();
        step(2400);
        assert_eq!(state(), Some(BreakerState::Closed));
    });
}

#[test]
fn without_any_host_every_request_is_told_that_none_can_be_reached() {
    let (host, _) = host("a:1");
    host.fleet().set_hosts(&[]);
    for (method, path, body) in [
        ("POST", "/chat", r#"{"message":"hi"}"#),
        ("POST", "/api/chat", r#"{"model":"m","messages":[]}"#),
        ("POST", "/v1/embeddings", r#"{"model":"m","input":"hi"}"#),
        ("GET", "/api/version", ""),
        ("GET", "/api/tags", ""),
        ("GET", "/api/ps", ""),
        ("DELETE", "/api/delete", r#"{"model":"m"}"#),
    ] {
        let request =
            Request::builder().method(method).uri(path).body(Full::new(Bytes::from_static(body.as_bytes())));
        let mut answering = pin!(host.platform().run(crate::handle(&host, request.unwrap())));
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(response) = answering.as_mut().poll(&mut context) else {
            panic!("{path} waits");
        };
        assert_eq!(response.status(), 502, "{path}");
    }
    let events = host.platform().events();
    assert_eq!(events.len(), 7);
    assert!(events.iter().all(|event| event.contains("upstream_unreachable")), "{events:?}");
}
