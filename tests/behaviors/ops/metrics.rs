//! `GET /metrics`, always read by Prometheus' own parser.

use paddock_tests::prometheus::Scrape;

use crate::behaviors::prelude::*;

async fn metrics_are_prometheus_text(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let reply = gateway.get("/metrics").await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let scrape = Scrape::of(gateway.as_ref()).await?;
    for (family, kind) in [
        ("ollama_requests", "counter"),
        ("ollama_request_latency_seconds", "histogram"),
        ("paddock_cache_hits", "counter"),
        ("paddock_cache_misses", "counter"),
        ("paddock_upstream_attempts", "counter"),
        ("paddock_failovers", "counter"),
        ("paddock_cold_starts", "counter"),
        ("paddock_time_to_first_token_seconds", "histogram"),
        ("paddock_tokens_per_second", "histogram"),
        ("paddock_prompt_tokens", "counter"),
        ("paddock_completion_tokens", "counter"),
        ("paddock_store_errors", "counter"),
        ("paddock_host_breaker", "gauge"),
        ("paddock_host_in_flight", "gauge"),
        ("paddock_host_loaded_models", "gauge"),
        ("paddock_host_waiting", "gauge"),
        ("paddock_store_up", "gauge"),
        ("paddock_build_info", "gauge"),
    ] {
        assert_eq!(scrape.0.get(family).map(|family| family.kind.as_str()), Some(kind), "{family}");
    }
    // What can be named before it happened begins at 0.
    assert_eq!(scrape.0["paddock_cache_hits"].samples.len(), 1);
    assert_eq!(scrape.count("paddock_store_up", &[]), 1);
    assert_eq!(scrape.label_values("paddock_build_info", "version"), [env!("CARGO_PKG_VERSION")]);
    Ok(())
}

async fn known_traffic_gives_known_counters(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let gateway = form.start(Setup::new([&ollama])).await?;
    for _ in 0..3 {
        gateway.say("one two three").await?;
    }
    gateway.chat(json!({"message": "hello", "model": "qwen3"})).await?;
    gateway.chat(json!({"message": "hello", "model": "absent"})).await?;
    gateway.chat(json!({"message": 7})).await?;
    gateway.request(Method::GET, "/chat", "", &[]).await?;
    ollama.next_chat(refusal(503)?);
    gateway.chat(json!({"message": "a busy moment"})).await?;
    // Neither probes nor unknown paths are requests for an answer.
    gateway.get("/health").await?;
    gateway.get("/unknown").await?;

    let scrape = Scrape::of(gateway.as_ref()).await?;
    let requests = |labels: &[(&str, &str)]| scrape.count("ollama_requests_total", labels);
    assert_eq!(requests(&[]), 8);
    assert_eq!(scrape.label_values("ollama_requests_total", "route"), ["/chat"]);
    for (model, outcome, expected) in [
        ("llama3.2:latest", "ok", 3),
        ("qwen3:latest", "ok", 1),
        ("other", "model_not_found", 1),
        ("other", "wrong_type", 1),
        ("other", "method_not_allowed", 1),
        ("llama3.2:latest", "upstream_busy", 1),
    ] {
        let labels = [("model", model), ("outcome", outcome)];
        assert_eq!(requests(&labels), expected, "{labels:?}");
        let latency = scrape.count("ollama_request_latency_seconds_count", &labels);
        assert_eq!(latency, expected, "{labels:?}");
        let all = [&labels[..], &[("le", "+Inf")]].concat();
        assert_eq!(scrape.count("ollama_request_latency_seconds_bucket", &all), expected, "{labels:?}");
    }
    let bounds = scrape.label_values("ollama_request_latency_seconds_bucket", "le");
    assert!(bounds.contains(&"0.005".to_owned()) && bounds.contains(&"600".to_owned()), "{bounds:?}");
    assert_eq!(scrape.count("paddock_cache_hits_total", &[]), 2);
    assert_eq!(scrape.count("paddock_cache_misses_total", &[]), 4);
    assert_eq!(scrape.count("paddock_cache_bypasses_total", &[]), 0);
    assert_eq!(scrape.count("paddock_store_errors_total", &[]), 0);
    let url = ollama.url();
    for (outcome, expected) in [("ok", 2), ("not_found", 0), ("busy", 1)] {
        let labels = [("host", url.as_str()), ("outcome", outcome)];
        assert_eq!(scrape.count("paddock_upstream_attempts_total", &labels), expected, "{outcome}");
    }
    // Ten a message in, one a word out ("echo of one two three #1"), and none for what the cache answered.
    assert_eq!(scrape.count("paddock_prompt_tokens_total", &[("model", "llama3.2:latest")]), 10);
    assert_eq!(scrape.count("paddock_completion_tokens_total", &[("model", "llama3.2:latest")]), 6);
    assert_eq!(scrape.count("paddock_completion_tokens_total", &[("model", "qwen3:latest")]), 4);
    Ok(())
}

async fn a_failover_is_counted_at_each_host(form: &dyn Form) -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    ill.chats(refusal(503)?);
    let gateway = form.start(Setup::new([&ill, &well]).set("LB_POLICY", "round_robin")).await?;
    gateway.say("one").await?;
    gateway.say("two").await?;
    let scrape = Scrape::of(gateway.as_ref()).await?;
    for (host, outcome, expected) in [(&ill, "busy", 1), (&well, "ok", 2)] {
        let url = host.url();
        let labels = [("host", url.as_str()), ("outcome", outcome)];
        assert_eq!(scrape.count("paddock_upstream_attempts_total", &labels), expected, "{labels:?}");
    }
    assert_eq!(scrape.count("paddock_upstream_attempts_total", &[]), 3);
    assert_eq!(scrape.count("paddock_failovers_total", &[("host", ill.url().as_str())]), 1);
    assert_eq!(scrape.count("paddock_failovers_total", &[]), 1);
    Ok(())
}

async fn a_slow_answer_is_a_long_latency(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    // Latency ends with the last byte, so waits within the body count.
    ollama.chats(Scripted::saying("slow")?.slowly(Duration::from_millis(120)));
    let time = async {
        ollama.wait_for_requests(CHAT, 1, PATIENCE).await?;
        gateway.pass(Duration::from_millis(200)).await;
        anyhow::Ok(())
    };
    let (reply, passed) = futures::join!(gateway.say("hello"), time);
    passed.and(reply)?;
    let scrape = Scrape::of(gateway.as_ref()).await?;
    assert_eq!(scrape.count("ollama_request_latency_seconds_bucket", &[("le", "0.1")]), 0);
    assert!(scrape.sum("ollama_request_latency_seconds_sum", &[]) > 0.15);
    Ok(())
}

async fn labels_are_bounded_whatever_clients_send(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let ask = async |name: &str| gateway.chat(json!({"message": "hello", "model": name})).await;
    // A model that never answered is nobody's.
    for number in 0..20 {
        assert_eq!(ask(&format!("made-up-{number}")).await?.status, 404);
    }
    ollama.has_every_model();
    for number in 0..130 {
        assert_eq!(ask(&format!("model-{number}")).await?.status, 200);
    }
    let odd = ["quote\"d", "back\\slash", "new\nline", "unit\u{1f}separator", &"long".repeat(100), "ünï"];
    for name in odd {
        assert_eq!(ask(name).await?.status, 200);
    }
    let scrape = Scrape::of(gateway.as_ref()).await?;
    let models = scrape.label_values("ollama_requests_total", "model");
    assert_eq!(models.len(), 101, "{models:?}");
    assert!(
        models.contains(&"other".to_owned()) && models.contains(&"model-0:latest".to_owned()),
        "{models:?}"
    );
    assert!(!models.iter().any(|model| model.starts_with("made-up")), "{models:?}");
    assert_eq!(scrape.count("ollama_requests_total", &[]), 156);
    assert_eq!(scrape.count("ollama_requests_total", &[("outcome", "ok"), ("model", "other")]), 36);
    Ok(())
}

async fn odd_model_names_survive_the_text_format(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_every_model();
    let gateway = form.start(Setup::new([&ollama])).await?;
    for name in
        ["quote\"d", "back\\slash", "brace}s, and=more", "ünï/熊猫:7b", "new\nline", "unit\u{1f}separator"]
    {
        gateway.chat(json!({"message": "hello", "model": name})).await?;
    }
    let models = Scrape::of(gateway.as_ref()).await?.label_values("ollama_requests_total", "model");
    assert_eq!(models, ["back\\slash", "brace}s, and=more", "other", "quote\"d", "ünï/熊猫:7b"]);
    Ok(())
}

on_every_form! {
    metrics_are_prometheus_text,
    known_traffic_gives_known_counters,
    a_failover_is_counted_at_each_host,
    a_slow_answer_is_a_long_latency,
    labels_are_bounded_whatever_clients_send,
    odd_model_names_survive_the_text_format,
}
