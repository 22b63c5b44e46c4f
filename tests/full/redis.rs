//! Redis fails in every way while clients talk.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use paddock_tests::{
    ollama::FakeOllama, redis_cluster::RedisCluster, redis_commands::Connection, redis_server::RedisServer,
    setup::Setup,
};

use crate::load::{Replicas, talk};

/// A while in which clients talk.
const WHILE: Duration = Duration::from_millis(1500);

fn durable() -> Result<RedisServer> {
    RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_turn_is_lost_when_a_durable_redis_is_paused_killed_and_started_again() -> Result<()>
{
    let (redis, ollama) = (Arc::new(durable()?), FakeOllama::start().await?);
    let replicas = Replicas::start(Setup::new([&ollama]).redis(&redis), 3).await?;
    let events = async {
        for _ in 0..3 {
            tokio::time::sleep(WHILE).await;
            Connection::open(&redis).await?.run(&["CLIENT", "PAUSE", "700", "ALL"]).await?;
            tokio::time::sleep(WHILE).await;
            redis.pause()?;
            tokio::time::sleep(WHILE).await;
            redis.resume()?;
            tokio::time::sleep(WHILE).await;
            redis.stop()?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            redis.restart()?;
            tokio::time::sleep(WHILE).await;
        }
        Ok(())
    };
    let stored = talk(&replicas, &ollama, events).await?;
    ensure!(stored > 100, "only {stored} turns were stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_turn_is_lost_in_planned_failovers_of_a_cluster() -> Result<()> {
    let (cluster, ollama) = (RedisCluster::start(true).await?, FakeOllama::start().await?);
    let setup = Setup::new([&ollama]).set("REDIS_URL", cluster.urls()).set("REDIS_CLUSTER", "true");
    let replicas = Replicas::start(setup, 2).await?;
    let events = async {
        for primary in 0..3 {
            tokio::time::sleep(WHILE).await;
            cluster.fail_over(primary).await?;
        }
        tokio::time::sleep(WHILE).await;
        Ok(())
    };
    let stored = talk(&replicas, &ollama, events).await?;
    ensure!(stored > 100, "only {stored} turns were stored");
    Ok(())
}
