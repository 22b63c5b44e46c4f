//! Redis goes away, comes late or was never there: chats go on, and every reply says what it did without.

use std::sync::Arc;

use paddock_tests::redis_server::RedisServer;

use super::{does_without, is_back, is_degraded};
use crate::behaviors::prelude::*;

async fn a_stopped_redis_costs_cache_and_memory_but_no_answer(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).redis(&redis)).await?;
    assert_eq!(gateway.say_in("s", "before").await?.header("x-session"), "stored");
    redis.stop()?;
    for message in ["during", "still during"] {
        does_without(gateway.as_ref(), &hosts[0], message).await?;
    }
    is_degraded(gateway.as_ref()).await?;
    redis.restart()?;
    is_back(gateway.as_ref()).await
}

async fn a_redis_that_was_never_there_is_done_without(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let setup = Setup::new(&hosts).redis_nowhere()?.set("LB_POLICY", "round_robin");
    let gateway = form.start(setup).await?;
    let reply = gateway.say_in("s", "hello").await?;
    assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", "unavailable"));
    // Chance spreads where no counter is shared.
    for turn in 0..32 {
        gateway.say(&format!("hello {turn}")).await?;
    }
    assert!(hosts.iter().all(|host| host.count(CHAT) > 0));
    is_degraded(gateway.as_ref()).await
}

async fn an_outage_is_logged_once_at_each_end(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).redis(&redis)).await?;
    gateway.say_in("s", "before").await?;
    redis.stop()?;
    for turn in 0..5 {
        gateway.say_in("s", &format!("during {turn}")).await?;
    }
    redis.restart()?;
    gateway.until("s", |reply| reply.header("x-session") == "stored").await?;
    let told = |words: &str| gateway.logs().lines().filter(|line| line.contains(words)).count();
    // A process writes its log a little later than it replies.
    let started = Instant::now();
    while told("store is back") == 0 && started.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((told("store is down"), told("store is back")), (1, 1), "{}", gateway.logs());
    Ok(())
}

async fn a_redis_that_comes_late_is_used(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::stopped()?);
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).redis(&redis)).await?;
    does_without(gateway.as_ref(), &hosts[0], "before").await?;
    redis.restart()?;
    is_back(gateway.as_ref()).await
}

over_redis! {
    a_stopped_redis_costs_cache_and_memory_but_no_answer,
    a_redis_that_was_never_there_is_done_without,
    an_outage_is_logged_once_at_each_end,
    a_redis_that_comes_late_is_used,
}
