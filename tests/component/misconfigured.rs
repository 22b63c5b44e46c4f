//! Settings that do not hold: Spin has no start-up to fail, so the first request tells them all.

use anyhow::Result;
use paddock_tests::{gateway::Form as _, gateway::Spin, ollama::FakeOllama, setup::Setup};
use serde_json::json;

#[tokio::test]
async fn all_mistakes_are_told_with_the_first_request() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let mistakes = [
        ("CACHE_TTL", "soon"),
        ("CACHE_ENABLED", "perhaps"),
        ("LB_POLICY", "best"),
        ("BODY_LIMIT", "0"),
        ("CALLER_HEADER", "not a header"),
    ];
    let setup = mistakes.iter().fold(Setup::new([&ollama]), |setup, (name, value)| setup.set(name, *value));
    let gateway = Spin.start(setup.set("API_KEYS", "hunter2")).await?;
    let reply = gateway.chat(json!({"message": "hello"})).await?;
    assert_eq!(reply.outcome(), (500, "misconfigured".to_owned()));
    let message = reply.at("/error/message");
    for (name, _) in mistakes {
        assert!(message.contains(name), "{name} is not named: {message}");
    }
    assert!(!message.contains("hunter2"), "{message}");
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    assert_eq!(ollama.requests().len(), 0);
    // The log says so as well.
    assert!(gateway.logs().contains("CACHE_TTL"), "{}", gateway.logs());
    Ok(())
}

#[tokio::test]
async fn a_host_that_spin_cannot_match_is_told() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let url = ollama.url();
    for host in [format!("{url}/"), url.replace("http://", ""), "http://127.0.0.1".to_owned()] {
        let setup = Setup::new([]).set("OLLAMA_HOST", host.clone());
        let gateway = Spin.start(setup).await?;
        let reply = gateway.chat(json!({"message": "hello"})).await?;
        assert_eq!(reply.outcome(), (500, "misconfigured".to_owned()), "{host}");
        assert!(reply.at("/error/message").contains("OLLAMA_HOST"), "{host}: {}", reply.text());
    }
    Ok(())
}
