//! How the fleet stands, and why a request went where it went: for operators, and for callers that may know.

use paddock_tests::prometheus::Scrape;
use serde_json::Value;

use crate::behaviors::{prelude::*, surfaces};

const EXPLAIN: (&str, &str) = ("x-paddock-explain", "1");

fn count(fleet: &Value, pointer: &str) -> Option<u64> {
    fleet.pointer(pointer).and_then(Value::as_u64)
}

async fn the_fleet_is_shown_as_the_next_decision_sees_it(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    hosts[0].has_models(&["llama3.2:latest", "qwen3:4b"]);
    hosts[0].loads(&["llama3.2:latest"]);
    hosts[1].has_models(&["phi4:14b"]);
    hosts[1].chats(refusal(503)?.with_header(http::header::RETRY_AFTER, "50"));
    let setup = Setup::new(&hosts).weights(&[2, 1, 0]).set("HOST_PARALLEL", "3").set("QUEUE_LIMIT", "7");
    let gateway = form.start(setup).await?;
    gateway.look_at_all_hosts().await?;
    let busy = gateway.chat(json!({"message": "hello", "model": "phi4:14b"})).await?;
    assert_eq!(busy.outcome(), (503, "upstream_busy".to_owned()));
    let gate = Gate::default();
    hosts[0].next_chat(Scripted::saying("wait for it")?.behind(&gate));
    let look = async {
        let fleet = gateway.until_fleet(|fleet| count(fleet, "/hosts/0/in_flight") == Some(1)).await;
        gate.open(1);
        fleet
    };
    let (reply, fleet) = futures::join!(gateway.say("hello"), look);
    let (_, fleet) = (reply?, fleet?);
    assert_eq!((&fleet["policy"], &fleet["queue"]), (&json!("auto"), &json!({"waiting": 0, "limit": 7})));
    let [first, second, third] = [0, 1, 2].map(|place| &fleet["hosts"][place]);
    for (host, (name, state, weight)) in
        [first, second, third].into_iter().zip([("1", "up", 2), ("2", "up", 1), ("3", "drained", 0)])
    {
        assert_eq!(
            (&host["name"], &host["state"], &host["weight"]),
            (&json!(name), &json!(state), &json!(weight))
        );
        assert_eq!((&host["parallel"], &host["version"]), (&json!(3), &json!("0.33.0-rc2")));
        assert!(host["seen_ms_ago"].is_u64(), "{host}");
    }
    assert_eq!(first["url"], hosts[0].url());
    assert_eq!(first["models"], json!(["llama3.2:latest", "qwen3:4b"]));
    assert_eq!(first["loaded"][0]["name"], "llama3.2:latest");
    assert!(first["loaded"][0]["context_length"].is_u64() && first["loaded"][0]["expires_at"].is_string());
    assert_eq!(first["breaker"], json!({"state": "closed", "cause": null, "retry_in_ms": 0}));
    assert_eq!(second["breaker"], first["breaker"]);
    assert_eq!(second["lanes"][0]["name"], "phi4:14b");
    let breaker = &second["lanes"][0]["breaker"];
    assert_eq!((&breaker["state"], &breaker["cause"]), (&json!("open"), &json!("busy")));
    let wait = breaker["retry_in_ms"].as_u64().unwrap_or_default();
    assert!((20_000..=50_000).contains(&wait), "{wait}");
    let decisions = fleet["decisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(decisions.len(), 2, "{decisions:?}");
    let last = decisions[1].as_str().unwrap_or_default();
    let begin =
        format!("llama3.2:latest at {}: auto; host 1: loaded, 0 of 3 in flight, wait ", hosts[0].url());
    assert!(last.starts_with(&begin), "{last}");
    assert!(last.ends_with("; drained: 1"), "{last}");
    // What was learnt of the model is shown once it answered.
    let fleet = gateway.until_fleet(|fleet| count(fleet, "/hosts/0/in_flight") == Some(0)).await?;
    let lane = &fleet["hosts"][0]["lanes"][0];
    assert_eq!((&lane["name"], &lane["limit"]), (&json!("llama3.2:latest"), &json!(3)));
    assert!(lane["service_ms"].as_u64() > Some(0), "{lane}");
    Ok(())
}

async fn where_there_is_a_token_it_alone_shows_the_fleet(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let token = ("authorization", "Bearer secret");
    let gateway = form.start(setup.clone().set("ADMIN_TOKEN", "secret").set("API_KEYS", "alpha")).await?;
    for (headers, status) in [(&[][..], 401), (&[("x-api-key", "alpha")], 401), (&[token], 200)] {
        let reply = gateway.request(Method::GET, "/fleet", "", headers).await?;
        assert_eq!(reply.status, status, "{headers:?}");
        assert_eq!(reply.text().contains(&ollama.url()), status == 200);
    }
    let gateway = form.start(setup.set("API_KEYS", "alpha")).await?;
    for (headers, status) in [(&[][..], 401), (&[("x-api-key", "alpha")], 200)] {
        let reply = gateway.request(Method::GET, "/fleet", "", headers).await?;
        assert_eq!(reply.status, status, "{headers:?}");
    }
    Ok(())
}

async fn a_route_is_explained_by_places_and_never_by_addresses(form: &dyn Form) -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let gateway = form.start(Setup::new([&ill, &well]).set("LB_POLICY", "round_robin")).await?;
    let paths = ["/chat", CHAT, "/v1/chat/completions", "/v1/messages", "/api/embed"];
    for (path, stream) in paths.into_iter().flat_map(|path| [(path, false), (path, true)]) {
        let mut body = surfaces::question("llama3.2");
        body["stream"] = stream.into();
        body["message"] = format!("{path} {stream}").into();
        let reply = gateway.post_to(path, body.clone(), &[EXPLAIN]).await?;
        let route = reply.header("x-paddock-route");
        assert_eq!(reply.status, 200, "{path}");
        assert!(route.starts_with("round_robin; host "), "{path}: {route}");
        assert!(route.contains("host 1: ") && route.contains("; host 2: "), "{path}: {route}");
        assert!(!route.contains("http") && !route.contains("127.0.0.1"), "{path}: {route}");
        for headers in [&[][..], &[("x-paddock-explain", "0")], &[("x-paddock-explain", "true")]] {
            let reply = gateway.post_to(path, body.clone(), headers).await?;
            assert_eq!(reply.header("x-paddock-route"), "", "{path}");
        }
    }
    // Each attempt has its own reason.
    ill.chats(refusal(502)?);
    well.chats(refusal(502)?);
    let reply = gateway.chat_with(json!({"message": "nobody"}), &[EXPLAIN]).await?;
    assert_eq!(reply.header("x-paddock-route").split(" | ").count(), 2, "{:?}", reply.headers);
    Ok(())
}

async fn where_there_is_a_token_a_route_is_explained_to_whoever_has_it(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("ADMIN_TOKEN", "secret")).await?;
    let reply = gateway.chat_with(json!({"message": "one"}), &[EXPLAIN]).await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-paddock-route")), (200, ""));
    let token = ("authorization", "Bearer secret");
    let reply = gateway.chat_with(json!({"message": "two"}), &[EXPLAIN, token]).await?;
    assert!(reply.header("x-paddock-route").starts_with("auto; host 1: "), "{:?}", reply.headers);
    Ok(())
}

async fn the_gauges_show_each_host_as_it_stands(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.loads(&["llama3.2:latest", "qwen3:4b"]);
    second.has_models(&["phi4:14b"]);
    second.chats(refusal(503)?.with_header(http::header::RETRY_AFTER, "60"));
    let gateway = form.start(Setup::new([&first, &second]).set("HOST_PARALLEL", "1")).await?;
    gateway.look_at_all_hosts().await?;
    gateway.chat(json!({"message": "hello", "model": "phi4:14b"})).await?;
    let gate = Gate::default();
    first.chats(Scripted::saying("wait for it")?.behind(&gate));
    let look = async {
        let scrape = async {
            gateway.until_fleet(|fleet| count(fleet, "/queue/waiting") == Some(1)).await?;
            Scrape::of(gateway.as_ref()).await
        };
        let scrape = scrape.await;
        gate.open(2);
        scrape
    };
    let (one, two, scrape) = futures::join!(gateway.say("one"), gateway.say("two"), look);
    let (_, _, scrape) = (one?, two?, scrape?);
    for (host, breaker, in_flight, waiting, loaded) in [(&first, "none", 1, 1, 2), (&second, "open", 0, 0, 0)]
    {
        let url = host.url();
        let of = |name: &str| scrape.count(name, &[("host", url.as_str())]);
        assert_eq!(of("paddock_host_in_flight"), in_flight);
        assert_eq!(of("paddock_host_waiting"), waiting);
        assert_eq!(of("paddock_host_loaded_models"), loaded);
        for state in ["closed", "half_open", "open"] {
            let labels = [("host", url.as_str()), ("state", state)];
            let is_closed = i64::from(state == "closed");
            assert_eq!(scrape.count("paddock_host_breaker", &labels), is_closed, "{state}");
            assert_eq!(scrape.count("paddock_lane_breaker", &labels), i64::from(state == breaker), "{state}");
        }
    }
    let lane = [("model", "phi4:14b"), ("state", "open")];
    assert_eq!(scrape.count("paddock_lane_breaker", &lane), 1);
    let scrape = Scrape::of(gateway.as_ref()).await?;
    for gauge in ["paddock_host_in_flight", "paddock_host_waiting"] {
        assert_eq!(scrape.count(gauge, &[]), 0, "{gauge}");
    }
    Ok(())
}

async fn cold_starts_first_tokens_and_speeds_are_counted(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("one two")?.behind(&gate));
    let load = async {
        let asked = ollama.wait_for_requests(CHAT, 1, PATIENCE).await;
        ollama.loads(&["llama3.2:latest"]);
        gate.open(1);
        asked
    };
    let (reply, loaded) = futures::join!(gateway.say("one"), load);
    loaded.and(reply)?;
    gateway.say("two").await?;
    gateway.post_to(CHAT, surfaces::question("llama3.2"), &[]).await?;
    let scrape = Scrape::of(gateway.as_ref()).await?;
    let url = ollama.url();
    let labels = [("host", url.as_str()), ("model", "llama3.2:latest")];
    assert_eq!(scrape.count("paddock_cold_starts_total", &labels), 1);
    // What comes in one piece has no first token.
    assert_eq!(scrape.count("paddock_time_to_first_token_seconds_count", &labels), 2);
    assert_eq!(scrape.count("paddock_tokens_per_second_count", &labels), 2);
    assert!(scrape.sum("paddock_tokens_per_second_sum", &labels) > 0.0);
    Ok(())
}

on_every_form! {
    the_fleet_is_shown_as_the_next_decision_sees_it,
    where_there_is_a_token_it_alone_shows_the_fleet,
    a_route_is_explained_by_places_and_never_by_addresses,
    where_there_is_a_token_a_route_is_explained_to_whoever_has_it,
    the_gauges_show_each_host_as_it_stands,
    cold_starts_first_tokens_and_speeds_are_counted,
}
