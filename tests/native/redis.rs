//! What only the native form can do with Redis: speak to a cluster, and trust an authority of its own for TLS.

use std::sync::Arc;

use anyhow::Result;
use paddock_tests::{
    gateway::Form as _, ollama::FakeOllama, redis_cluster::RedisCluster, redis_server::RedisServer,
    redis_tls::TlsFront, setup::Setup,
};

use crate::REDIS;

#[tokio::test]
async fn replicas_over_a_cluster_are_one_service() -> Result<()> {
    let cluster = RedisCluster::shared().await?;
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("REDIS_URL", cluster.urls()).set("REDIS_CLUSTER", "true");
    let (one, two) = (REDIS.start(setup.clone()).await?, REDIS.start(setup).await?);
    for session in 0..6 {
        let session = format!("s{session}");
        assert_eq!(one.say_in(&session, "first").await?.header("x-session"), "stored");
        assert_eq!(two.say_in(&session, "second").await?.header("x-session"), "stored");
        assert_eq!(ollama.last_conversation().len(), 3, "the second knows what the first was told");
    }
    assert_eq!(one.say("a question").await?.cache(), "miss");
    assert_eq!(two.say("a question").await?.cache(), "hit");
    assert_eq!(two.get("/health").await?.at("/status"), "healthy");
    Ok(())
}

#[tokio::test]
async fn tls_is_spoken_to_whom_the_given_authority_vouches_for_and_to_nobody_else() -> Result<()> {
    let redis = RedisServer::start()?;
    let front = TlsFront::start(&redis).await?;
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).redis(&Arc::new(RedisServer::at(&front.url())?));
    let trusting = setup.clone().set("REDIS_CA_FILE", front.authority().display().to_string());
    let trusting = REDIS.start(trusting).await?;
    trusting.until("s", |reply| reply.header("x-session") == "stored").await?;
    let wary = REDIS.start(setup).await?;
    assert_eq!(wary.say_in("s", "hello").await?.header("x-session"), "unavailable");
    Ok(())
}
