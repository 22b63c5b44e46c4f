//! A Redis that is there, but not as it should be: slow, silent, full, read-only, locked, emptied. Every request is
//! answered, every reply says what it did without, and when the trouble is over all is as before.

use std::sync::Arc;

use paddock_tests::{
    prometheus::Scrape, redis_commands::Connection, redis_proxy::WaveProxy, redis_server::RedisServer,
};

use super::{does_without, is_back, is_degraded};
use crate::behaviors::prelude::*;

/// What a gateway is started with over this server, and its limits as they are by default.
fn usual_limits(setup: Setup) -> Setup {
    setup.set("REDIS_TIMEOUT", "30ms").set("REDIS_WRITE_TIMEOUT", "250ms").in_one_instance()
}

async fn store_errors(gateway: &dyn Gateway) -> Result<i64> {
    Ok(Scrape::of(gateway).await?.count("paddock_store_errors_total", &[]))
}

/// Waits until the failures are counted: a component keeps its counters in the Redis that failed, and writes them later.
async fn until_errors_are_counted(gateway: &dyn Gateway) -> Result<()> {
    let started = Instant::now();
    while store_errors(gateway).await? == 0 {
        ensure!(started.elapsed() < PATIENCE, "the failures are not counted");
        gateway.pass(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn store_is_up(gateway: &dyn Gateway) -> Result<bool> {
    Ok(Scrape::of(gateway).await?.count("paddock_store_up", &[]) == 1)
}

async fn until_stored(gateway: &dyn Gateway) -> Result<()> {
    gateway.until("s", |reply| reply.header("x-session") == "stored").await.map(drop)
}

async fn a_silent_redis_costs_its_limit_and_no_answer(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let hosts = [FakeOllama::start().await?];
    let setup =
        Setup::new(&hosts).redis(&redis).set("REDIS_TIMEOUT", "500ms").set("REDIS_WRITE_TIMEOUT", "500ms");
    let gateway = form.start(setup).await?;
    gateway.until("s", |reply| reply.header("x-session") == "stored").await?;
    redis.pause()?;
    for message in ["during", "still during"] {
        does_without(gateway.as_ref(), &hosts[0], message).await?;
    }
    is_degraded(gateway.as_ref()).await?;
    redis.resume()?;
    is_back(gateway.as_ref()).await
}

async fn while_redis_is_silent_few_requests_pay_and_all_are_answered(form: &dyn Form) -> Result<()> {
    let (redis, ollama) = (RedisServer::start()?, FakeOllama::start().await?);
    let proxy = WaveProxy::start(&redis).await?;
    let gateway = form.start(usual_limits(Setup::new([&ollama]).redis(&proxy.server()?))).await?;
    until_stored(gateway.as_ref()).await?;
    redis.pause()?;
    let (started, before) = (Instant::now(), proxy.commands() + proxy.connections());
    for number in 0..40 {
        let reply = gateway.say_in("s", &format!("during {number}")).await?;
        assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", "unavailable"), "{number}");
    }
    let tried = proxy.commands() + proxy.connections() - before;
    // One trial a second and longer, each of which is a connection and the commands of one wave.
    let most = 5 * (2 + usize::try_from(started.elapsed().as_secs())?);
    assert!(tried <= most, "{tried} tries in {:?}", started.elapsed());
    redis.resume()?;
    until_stored(gateway.as_ref()).await?;
    until_errors_are_counted(gateway.as_ref()).await?;
    Ok(())
}

async fn a_redis_that_is_too_slow_is_done_without(form: &dyn Form) -> Result<()> {
    let (redis, ollama) = (RedisServer::start()?, FakeOllama::start().await?);
    let proxy = WaveProxy::start(&redis).await?;
    let gateway = form.start(usual_limits(Setup::new([&ollama]).redis(&proxy.server()?))).await?;
    until_stored(gateway.as_ref()).await?;
    proxy.delay(Duration::from_millis(100));
    for number in 0..5 {
        let reply = gateway.say_in("s", &format!("during {number}")).await?;
        assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", "unavailable"), "{number}");
    }
    proxy.delay(Duration::ZERO);
    until_stored(gateway.as_ref()).await
}

async fn a_slow_redis_within_the_limits_costs_time_and_nothing_else(form: &dyn Form) -> Result<()> {
    let (redis, ollama) = (RedisServer::start()?, FakeOllama::start().await?);
    let proxy = WaveProxy::start(&redis).await?;
    let gateway = form.start(Setup::new([&ollama]).redis(&proxy.server()?)).await?;
    proxy.delay(Duration::from_millis(20));
    let reply = gateway.say_in("s", "one").await?;
    assert_eq!((reply.cache(), reply.header("x-session")), ("miss", "stored"));
    gateway.say_in("s", "two").await?;
    assert!(ollama.last_conversation().len() > 1, "{:?}", ollama.last_conversation());
    Ok(())
}

/// A gateway whose Redis refuses writes answers, says that nothing is stored, and counts it; the store is up.
async fn goes_without_writes(gateway: &dyn Gateway) -> Result<()> {
    for number in 0..3 {
        let reply = gateway.say_in("s", &format!("during {number}")).await?;
        assert_eq!(reply.header("x-session"), "unavailable", "{number}: {:?}", reply.headers);
    }
    assert!(store_is_up(gateway).await?, "it answers");
    let told = gateway.logs().lines().filter(|line| line.contains("store is down")).count();
    assert_eq!(told, 0, "{}", gateway.logs());
    Ok(())
}

async fn a_full_redis_costs_what_cannot_be_kept(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start_with(&["--maxmemory-policy", "noeviction"])?);
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).redis(&redis)).await?;
    until_stored(gateway.as_ref()).await?;
    let operator = Connection::open(&redis).await?;
    // An empty Redis needs less than 1 MiB.
    operator.run(&["SET", "filler", &"x".repeat(4 << 20)]).await?;
    operator.run(&["CONFIG", "SET", "maxmemory", "1mb"]).await?;
    goes_without_writes(gateway.as_ref()).await?;
    operator.run(&["DEL", "filler"]).await?;
    operator.run(&["CONFIG", "SET", "maxmemory", "0"]).await?;
    until_stored(gateway.as_ref()).await?;
    until_errors_are_counted(gateway.as_ref()).await?;
    Ok(())
}

async fn a_read_only_replica_is_read_at_most(form: &dyn Form) -> Result<()> {
    let (main, replica) = (RedisServer::start()?, Arc::new(RedisServer::start()?));
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).redis(&replica)).await?;
    until_stored(gateway.as_ref()).await?;
    let operator = Connection::open(&replica).await?;
    let port = main.url().port().context("no port")?.to_string();
    operator.run(&["REPLICAOF", "127.0.0.1", &port]).await?;
    goes_without_writes(gateway.as_ref()).await?;
    operator.run(&["REPLICAOF", "NO", "ONE"]).await?;
    until_stored(gateway.as_ref()).await?;
    until_errors_are_counted(gateway.as_ref()).await?;
    Ok(())
}

async fn a_wrong_password_is_told_once_without_the_password_and_can_be_mended(form: &dyn Form) -> Result<()> {
    let redis = RedisServer::start_with(&["--requirepass", "right"])?;
    let ollama = FakeOllama::start().await?;
    let port = redis.url().port().context("no port")?;
    let wrong = Arc::new(RedisServer::at(&format!("redis://:hunter2@127.0.0.1:{port}/0"))?);
    let gateway = form.start(Setup::new([&ollama]).redis(&wrong).in_one_instance()).await?;
    for number in 0..3 {
        let reply = gateway.say_in("s", &format!("during {number}")).await?;
        assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", "unavailable"), "{number}");
    }
    assert!(!store_is_up(gateway.as_ref()).await?, "nobody is served");
    let told = gateway.logs().lines().filter(|line| line.contains("store is down")).count();
    // On Spin each component tells it.
    assert!((1..=2).contains(&told), "{}", gateway.logs());
    assert!(!gateway.logs().contains("hunter2"), "{}", gateway.logs());
    let right = RedisServer::at(&format!("redis://:right@127.0.0.1:{port}/0"))?;
    Connection::open(&right).await?.run(&["CONFIG", "SET", "requirepass", "hunter2"]).await?;
    until_stored(gateway.as_ref()).await
}

async fn a_session_that_was_flushed_begins_again(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).redis(&redis)).await?;
    gateway.say_in("s", "one").await?;
    Connection::open(&redis).await?.run(&["FLUSHALL"]).await?;
    let reply = gateway.say_in("s", "two").await?;
    assert_eq!((reply.cache(), reply.header("x-session")), ("miss", "stored"));
    assert_eq!(ollama.last_conversation(), ["user: two"]);
    gateway.say_in("s", "three").await?;
    assert!(ollama.last_conversation().len() > 1, "{:?}", ollama.last_conversation());
    Ok(())
}

over_redis! {
    a_silent_redis_costs_its_limit_and_no_answer,
    while_redis_is_silent_few_requests_pay_and_all_are_answered,
    a_redis_that_is_too_slow_is_done_without,
    a_slow_redis_within_the_limits_costs_time_and_nothing_else,
    a_full_redis_costs_what_cannot_be_kept,
    a_read_only_replica_is_read_at_most,
    a_wrong_password_is_told_once_without_the_password_and_can_be_mended,
    a_session_that_was_flushed_begins_again,
}
