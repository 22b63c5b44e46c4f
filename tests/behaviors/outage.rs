//! Redis is away, or is not as it should be: what users get meanwhile.

mod redis_gone;
mod redis_impaired;
mod sessions_without_redis;

use paddock_tests::prometheus::Scrape;

use crate::behaviors::prelude::*;

/// More than all limits together, less than any test's patience.
const SOON: Duration = Duration::from_secs(10);

/// A chat in a session, which must be answered without cache and history, and soon.
async fn does_without(gateway: &dyn Gateway, ollama: &FakeOllama, message: &str) -> Result<()> {
    let started = Instant::now();
    let reply = gateway.say_in("s", message).await?;
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", "unavailable"));
    assert_eq!(ollama.last_conversation(), [format!("user: {message}")]);
    // Without a session there is nothing to be unavailable.
    let reply = gateway.say(&format!("{message}, by the way")).await?;
    assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", ""));
    Ok(())
}

async fn is_degraded(gateway: &dyn Gateway) -> Result<()> {
    let health = gateway.get("/health").await?;
    assert_eq!((health.status.as_u16(), health.at("/status")), (200, "degraded".to_owned()));
    assert_eq!(health.json()["redis"], false);
    let scrape = Scrape::of(gateway).await?;
    assert_eq!(scrape.count("paddock_store_up", &[]), 0, "the store is shown as down");
    Ok(())
}

async fn is_back(gateway: &dyn Gateway) -> Result<()> {
    gateway.until("s", |reply| reply.cache() == "miss" && reply.header("x-session") == "stored").await?;
    let started = Instant::now();
    while gateway.get("/health").await?.at("/status") != "healthy" {
        ensure!(started.elapsed() < PATIENCE, "not healthy again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(Scrape::of(gateway).await?.count("paddock_store_up", &[]), 1, "the store is shown as up");
    Ok(())
}
