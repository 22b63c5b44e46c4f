//! What the process logs.

use anyhow::Result;
use http::Method;
use paddock_tests::{
    gateway::Form as _,
    ollama::{FakeOllama, refusal},
    setup::Setup,
};
use serde_json::{Value, json};

use crate::EMBEDDED;

/// The lines about requests, once there are so many.
async fn request_lines(gateway: &dyn paddock_tests::gateway::Gateway, count: usize) -> Vec<Value> {
    let deadline = std::time::Instant::now() + paddock_tests::gateway::PATIENCE;
    loop {
        let logs = gateway.logs();
        let lines = logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<_> = lines.filter(|line| line["route"].is_string()).collect();
        if lines.len() >= count || std::time::Instant::now() > deadline {
            return lines;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_request_is_one_line_with_the_id_that_the_reply_carries() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = EMBEDDED.start(Setup::new([&ollama])).await?;
    let mut replies = vec![gateway.say("hello").await?, gateway.say("hello").await?];
    ollama.next_chat(refusal(503)?);
    replies.push(gateway.chat(json!({"message": "busy"})).await?);
    replies.push(gateway.get("/health").await?);
    replies.push(gateway.request(Method::GET, "/secret/path?key=hunter2", "", &[]).await?);
    let lines = request_lines(gateway.as_ref(), replies.len()).await;
    assert_eq!(lines.len(), replies.len(), "{lines:#?}");
    for (reply, expected) in replies.iter().zip([
        json!({"level": "INFO", "method": "POST", "route": "/chat", "status": 200, "outcome": "ok", "cache": "miss"}),
        json!({"level": "INFO", "method": "POST", "route": "/chat", "status": 200, "outcome": "ok", "cache": "hit"}),
        json!({"level": "WARN", "method": "POST", "route": "/chat", "status": 503, "outcome": "upstream_busy"}),
        json!({"level": "INFO", "method": "GET", "route": "/health", "status": 200, "outcome": "ok"}),
        json!({"level": "INFO", "method": "GET", "route": "other", "status": 404, "outcome": "not_found"}),
    ]) {
        let id = reply.header("x-request-id");
        let found: Vec<_> = lines.iter().filter(|line| line["request_id"] == id).collect();
        assert_eq!(found.len(), 1, "{id} in {lines:#?}");
        for (field, value) in expected.as_object().into_iter().flatten() {
            assert_eq!(&found[0][field], value, "{field} of {}", found[0]);
        }
        assert!(found[0]["timestamp"].is_string(), "{}", found[0]);
    }
    Ok(())
}

#[tokio::test]
async fn a_failed_attempt_tells_the_operator_which_host_and_why() -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    ill.chats(refusal(503)?);
    let gateway = EMBEDDED.start(Setup::new([&ill, &well]).set("LB_POLICY", "round_robin")).await?;
    let reply = gateway.say("hello").await?;
    // The line of the request comes after it.
    request_lines(gateway.as_ref(), 1).await;
    let logs = gateway.logs();
    let mut lines = logs.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.find(|line| line["message"] == "attempt failed").unwrap_or_default();
    assert_eq!(line["host"], ill.url());
    assert_eq!((line["outcome"].as_str(), line["level"].as_str()), (Some("busy"), Some("WARN")));
    assert_eq!(line["request_id"], reply.header("x-request-id"));
    Ok(())
}

#[tokio::test]
async fn an_open_service_says_so_once_and_a_guarded_one_does_not() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    for (setup, told) in [(Setup::new([&ollama]), 1), (Setup::new([&ollama]).set("API_KEYS", "k"), 0)] {
        let gateway = EMBEDDED.start(setup).await?;
        gateway.get("/livez").await?;
        request_lines(gateway.as_ref(), 1).await;
        let logs = gateway.logs();
        assert_eq!(logs.lines().filter(|line| line.contains("set API_KEYS")).count(), told, "{logs}");
    }
    Ok(())
}
