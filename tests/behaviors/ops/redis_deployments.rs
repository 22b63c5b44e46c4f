//! Redis as users run it: with a user and a database of its own, with replicas that must have a turn, and by mistake a
//! node of a cluster.

use std::sync::Arc;

use paddock_tests::{redis_cluster::RedisCluster, redis_commands::Connection, redis_server::RedisServer};

use crate::behaviors::{
    cache::purging::{TOKEN, purge},
    prelude::*,
};

async fn a_user_with_rights_to_the_prefix_and_a_database_of_its_own_are_enough(
    form: &dyn Form,
) -> Result<()> {
    let redis = RedisServer::start()?;
    let ollama = FakeOllama::start().await?;
    let port = redis.url().port().context("no port")?;
    let own = Arc::new(RedisServer::at(&format!("redis://llama:pass@127.0.0.1:{port}/3"))?);
    let setup = Setup::new([&ollama]).redis(&own);
    let operator = Connection::open(&redis).await?;
    let keys = format!("~{}:*", setup.prefix());
    let user = ["ACL", "SETUSER", "llama", "on", ">pass", &keys, "+@all", "-@admin", "-@dangerous"];
    operator.run(&user).await?;
    let gateway = form.start(setup).await?;
    for (message, turns) in [("one", 1), ("two", 3)] {
        let reply = gateway.say_in("s", message).await?;
        assert_eq!((reply.cache(), reply.header("x-session")), ("miss", "stored"));
        assert_eq!(ollama.last_conversation().len(), turns);
    }
    assert_eq!(gateway.get("/health").await?.at("/status"), "healthy");
    assert_eq!(operator.run(&["DBSIZE"]).await?, ["0"], "nothing is in another database");
    Ok(())
}

async fn an_answer_is_not_told_while_nobody_can_say_whether_it_was_forgotten(form: &dyn Form) -> Result<()> {
    let redis = RedisServer::start()?;
    let ollama = FakeOllama::start().await?;
    let port = redis.url().port().context("no port")?;
    let own = Arc::new(RedisServer::at(&format!("redis://llama:pass@127.0.0.1:{port}/0"))?);
    let setup = Setup::new([&ollama]).redis(&own).set("ADMIN_TOKEN", "the-admin");
    let operator = Connection::open(&redis).await?;
    operator.run(&["ACL", "SETUSER", "llama", "on", ">pass", "~*", "+@all"]).await?;
    let one = form.start(setup.clone()).await?;
    assert_eq!(one.say("hello").await?.cache(), "miss");
    assert_eq!(purge(one.as_ref(), "", &TOKEN).await?.status, 204);
    // How often the cache was emptied is read by these commands.
    operator.run(&["ACL", "SETUSER", "llama", "-hmget", "-hgetall"]).await?;
    let two = form.start(setup).await?;
    for message in ["warm up", "hello"] {
        assert_eq!(two.say(message).await?.cache(), "bypass", "{message}");
    }
    Ok(())
}

async fn a_turn_counts_as_stored_when_enough_replicas_have_it(form: &dyn Form) -> Result<()> {
    let (main, replica) = (Arc::new(RedisServer::start()?), RedisServer::start()?);
    let ollama = FakeOllama::start().await?;
    let port = main.url().port().context("no port")?.to_string();
    let operator = Connection::open(&replica).await?;
    operator.run(&["REPLICAOF", "127.0.0.1", &port]).await?;
    let setup = Setup::new([&ollama]).redis(&main).set("SESSION_WAIT_REPLICAS", "1");
    let gateway = form.start(setup.set("REDIS_WRITE_TIMEOUT", "2")).await?;
    gateway.until("s", |reply| reply.header("x-session") == "stored").await?;
    // Turns at the same time do not wait for each other's replicas.
    let turns = (0..8).map(|number| {
        let gateway = &gateway;
        async move { gateway.say_in("t", &format!("turn {number}")).await }
    });
    for reply in join_all(turns).await {
        assert_eq!(reply?.header("x-session"), "stored");
    }
    replica.pause()?;
    let reply = gateway.say_in("s", "only the first server has this").await?;
    assert_eq!(reply.header("x-session"), "unavailable");
    // The server itself is there: whatever needs no replica goes on.
    assert_eq!(gateway.say("without a session").await?.cache(), "miss");
    replica.resume()?;
    gateway.until("s", |reply| reply.header("x-session") == "stored").await?;
    Ok(())
}

async fn a_node_of_a_cluster_that_was_not_meant_is_told_once_and_done_without(form: &dyn Form) -> Result<()> {
    let cluster = RedisCluster::shared().await?;
    let node = Arc::new(RedisServer::at(cluster.server(0)?.url().as_str())?);
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).redis(&node).in_one_instance()).await?;
    let told = |gateway: &dyn Gateway| {
        let logs = gateway.logs();
        logs.lines().filter(|line| line.contains("node of a Redis Cluster")).count()
    };
    let started = Instant::now();
    for number in 0.. {
        // Some keys do belong to this node.
        gateway.say_in(&format!("session {number}"), "hello").await?;
        if told(gateway.as_ref()) > 0 {
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "no word of it:\n{}", gateway.logs());
    }
    for number in 0..8 {
        let reply = gateway.say_in(&format!("later {number}"), "hello").await?;
        assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", "unavailable"), "{number}");
    }
    assert_eq!(told(gateway.as_ref()), 1, "{}", gateway.logs());
    Ok(())
}

over_redis! {
    a_user_with_rights_to_the_prefix_and_a_database_of_its_own_are_enough,
    an_answer_is_not_told_while_nobody_can_say_whether_it_was_forgotten,
    a_turn_counts_as_stored_when_enough_replicas_have_it,
    a_node_of_a_cluster_that_was_not_meant_is_told_once_and_done_without,
}
