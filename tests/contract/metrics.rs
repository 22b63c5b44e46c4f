//! Counters in memory and in Redis: the same requests give the same text, which Prometheus understands.

use std::time::Duration;

use anyhow::Result;
use paddock::{
    cache::CacheStatus,
    config::settings::Deployment,
    fleet::BreakerState,
    metrics::{
        Attempt, Gauges, HostGauge, LaneGauge, Metrics, Sample, encode, memory::MemoryMetrics,
        redis::RedisMetrics,
    },
    wire::tokens::Tokens,
};
use paddock_tests::prometheus::Scrape;

use crate::over_redis;

/// Adds a traffic of everything that can happen, with more models than may have a label.
async fn add_all(metrics: &impl Metrics) -> Result<()> {
    let outcomes = ["ok", "upstream_busy", "wrong_type"];
    let caches = [
        Some(CacheStatus::Hit),
        Some(CacheStatus::Miss),
        Some(CacheStatus::Coalesced),
        Some(CacheStatus::Bypass),
        None,
    ];
    for number in 0..400_u64 {
        let place = usize::try_from(number)?;
        let attempts = [
            Attempt { host: "http://a:1".to_owned(), outcome: "busy", cold: number.is_multiple_of(5) },
            Attempt {
                host: format!("http://b:{}", number % 3),
                outcome: "ok",
                cold: number.is_multiple_of(7),
            },
        ];
        let model = match number {
            7 => "quote\" back\\slash".to_owned(),
            8 => "unit\u{1f}separator".to_owned(),
            9 => "record\u{1e}separator".to_owned(),
            10 => String::new(),
            11 => "long".repeat(100),
            _ => format!("model-{}", number % 149),
        };
        let sample = Sample {
            route: "/chat",
            model: (number % 11 != 0).then_some(model.as_str()),
            outcome: outcomes[place % outcomes.len()],
            latency: Duration::from_micros(number * number * number * 20),
            cache: caches[place % caches.len()],
            attempts: &attempts[..place % 3],
            first_token: (number % 4 != 0).then(|| Duration::from_micros(number * number * 5_000)),
            speed: (number % 5 != 0).then_some(number * number * 5_000),
            tokens: number.is_multiple_of(2).then_some(Tokens { prompt: number, completion: 2 * number }),
            store_errors: &["cache_get", "session_load"][..place % 2],
        };
        metrics.add(&sample).await?;
    }
    Ok(())
}

async fn text(metrics: &impl Metrics) -> Result<String> {
    let hosts = [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open].map(|breaker| HostGauge {
        host: format!("http://{breaker:?}:1"),
        in_flight: 1,
        waiting: 2,
        breaker,
        lanes: vec![LaneGauge { lane: "m:1".to_owned(), breaker }],
        loaded: 3,
    });
    let (store_up, form) = (true, Deployment::Spin);
    let gauges = Gauges { store_up, held_bytes: 0, memory_budget: 0, form, hosts: hosts.to_vec() };
    Ok(encode(&metrics.snapshot().await?, &gauges))
}

#[tokio::test]
async fn both_sinks_give_the_same_text() -> Result<()> {
    let redis = over_redis().await?;
    let (in_memory, in_redis) = (
        MemoryMetrics::default(),
        RedisMetrics::new(redis.connection.clone(), &redis.prefix, Duration::from_secs(20)),
    );
    assert_eq!(text(&in_memory).await?, text(&in_redis).await?, "before the first request");
    add_all(&in_memory).await?;
    add_all(&in_redis).await?;
    let text = text(&in_memory).await?;
    assert_eq!(text, self::text(&in_redis).await?);
    let scrape = Scrape::parse(&text)?;
    assert_eq!(scrape.count("ollama_requests_total", &[]), 400);
    assert_eq!(scrape.label_values("ollama_requests_total", "model").len(), 101);
    // Two hosts were asked in a third of the requests, and the first of them was busy.
    assert_eq!(scrape.count("paddock_failovers_total", &[("host", "http://a:1")]), 133);
    assert_eq!(scrape.count("paddock_failovers_total", &[]), 133);
    for family in ["paddock_time_to_first_token_seconds_count", "paddock_tokens_per_second_count"] {
        // The model's label is in the middle of these series, so one that stayed behind would show here.
        assert_eq!(scrape.label_values(family, "host").len(), 1, "{family}");
        assert!(scrape.count(family, &[("model", "other")]) > 0, "{family}");
    }
    assert!(scrape.count("paddock_cold_starts_total", &[("host", "http://a:1")]) > 0);
    assert_eq!(scrape.count("paddock_host_breaker", &[]), 3);
    assert_eq!(scrape.count("paddock_host_breaker", &[("state", "open"), ("host", "http://Open:1")]), 1);
    Ok(())
}

#[tokio::test]
async fn what_another_version_counted_is_left_out() -> Result<()> {
    let redis = over_redis().await?;
    let metrics = RedisMetrics::new(redis.connection.clone(), &redis.prefix, Duration::from_secs(20));
    let name = format!("{}:{{metrics}}:1:counters", redis.prefix);
    for (field, value) in [
        ("later_family_total", "7"),
        ("ollama_requests_total", "no number"),
        ("ollama_request_latency_seconds\u{1f}/chat\u{1f}m\u{1f}ok\u{1f}99", "7"),
        // A bucket that one family of histograms has and another lacks.
        ("paddock_tokens_per_second\u{1f}m\u{1f}http://a:1\u{1f}17", "7"),
    ] {
        redis.connection.run(&["HSET", &name, field, value]).await?;
    }
    Scrape::parse(&text(&metrics).await?)?;
    Ok(())
}
