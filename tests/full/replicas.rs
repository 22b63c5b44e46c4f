//! Replicas are killed while clients talk.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, ensure};
use paddock_tests::{ollama::FakeOllama, redis_server::RedisServer, setup::Setup};

use crate::load::{Replicas, talk};

#[tokio::test(flavor = "multi_thread")]
async fn every_session_is_linearizable_while_replicas_are_killed_at_random() -> Result<()> {
    let (redis, ollama) = (Arc::new(RedisServer::start()?), FakeOllama::start().await?);
    let replicas = Replicas::start(Setup::new([&ollama]).redis(&redis), 3).await?;
    let events = async {
        for kill in 0..9 {
            // Which one and when is the test's input.
            let random = RandomState::new().hash_one(kill);
            tokio::time::sleep(Duration::from_millis(200 + random % 700)).await;
            replicas.replace(usize::try_from(random / 700 % 3)?).await?;
        }
        Ok(())
    };
    let stored = talk(&replicas, &ollama, events).await?;
    ensure!(stored > 100, "only {stored} turns were stored");
    Ok(())
}
