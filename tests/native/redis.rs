//! What only the native form can do with Redis: speak to a cluster, wait for its replicas, trust an authority of its own
//! for TLS, and bound what it reads.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use paddock_tests::{
    gateway::{Form as _, PATIENCE},
    ollama::FakeOllama,
    prometheus::Scrape,
    redis_cluster::RedisCluster,
    redis_commands::Connection,
    redis_liar::{Lie, LyingRedis},
    redis_server::RedisServer,
    redis_tls::TlsFront,
    setup::Setup,
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

/// How many sessions each primary has.
async fn sessions(cluster: &RedisCluster, prefix: &str) -> Result<Vec<usize>> {
    let mut counts = Vec::new();
    for primary in 0..3 {
        let connection = Connection::open(cluster.server(primary)?).await?;
        counts.push(connection.run(&["KEYS", &format!("{prefix}:session:*")]).await?.len());
    }
    Ok(counts)
}

#[tokio::test]
async fn a_turn_counts_as_stored_when_the_replica_of_its_slot_has_it() -> Result<()> {
    let (cluster, ollama) = (RedisCluster::start(true).await?, FakeOllama::start().await?);
    let setup = Setup::new([&ollama])
        .set("REDIS_URL", cluster.urls())
        .set("REDIS_CLUSTER", "true")
        .set("SESSION_WAIT_REPLICAS", "1")
        .set("REDIS_WRITE_TIMEOUT", "2");
    let prefix = setup.prefix().to_owned();
    let gateway = REDIS.start(setup).await?;
    // A session on each primary, and which it is.
    let mut places = [const { None::<String> }; 3];
    for number in 0..100 {
        let (session, before) = (format!("s{number}"), sessions(&cluster, &prefix).await?);
        gateway.until(&session, |reply| reply.header("x-session") == "stored").await?;
        let after = sessions(&cluster, &prefix).await?;
        let place = (0..3).find(|primary| after[*primary] > before[*primary]);
        if let Some(place) = place {
            places[place] = Some(session);
        }
        if places.iter().all(Option::is_some) {
            break;
        }
    }
    let [Some(first), Some(second), Some(third)] = places else {
        anyhow::bail!("not all have one: {places:?}")
    };
    let replica = cluster.server(3)?;
    replica.stop()?;
    for (session, status) in [(&first, "unavailable"), (&second, "stored"), (&third, "stored")] {
        let reply = gateway.say_in(session, "is it safe?").await?;
        assert_eq!(reply.header("x-session"), status, "{session}");
    }
    replica.restart()?;
    gateway.until(&first, |reply| reply.header("x-session") == "stored").await?;
    // What was not acknowledged was written all the same, and once.
    let said = ollama.last_conversation();
    let asked = said.iter().filter(|message| *message == "user: is it safe?").count();
    ensure!(asked == 1, "{said:#?}");
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

/// Within limits of time that do not end it.
#[tokio::test]
async fn a_reply_without_end_is_a_failure_of_the_store_and_takes_no_memory() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    for lie in [Lie::Text, Lie::List, Lie::Nothings, Lie::Line] {
        for is_cluster in ["false", "true"] {
            let liar = LyingRedis::start(lie).await?;
            let setup = Setup::new([&ollama])
                .redis(&liar.server()?)
                .set("REDIS_CLUSTER", is_cluster)
                .set("REDIS_TIMEOUT", "60")
                .set("REDIS_WRITE_TIMEOUT", "60");
            let gateway = REDIS.start(setup).await?;
            let reply = gateway.say_in("s", "hello").await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, "unavailable"), "{lie:?}");
            assert_eq!(reply.cache(), "bypass", "{lie:?}");
            let errors = Scrape::of(gateway.as_ref()).await?.count("paddock_store_errors_total", &[]);
            assert!(errors > 0, "{lie:?}");
            // A process writes its log a little later than it replies.
            let started = Instant::now();
            while !gateway.logs().contains("store is down") {
                ensure!(started.elapsed() < PATIENCE, "{lie:?}: {}", gateway.logs());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(liar.most() < 64 << 20, "{lie:?}: {} bytes were read", liar.most());
        }
    }
    Ok(())
}
