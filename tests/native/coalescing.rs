//! Single flight at a size that only processes have: hundreds who ask the same, and a Redis that is gone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use paddock_tests::{
    gateway::{Form as _, Gateway, PATIENCE, Streamed},
    ollama::{CHAT, FakeOllama, Gate, Scripted},
    redis_server::RedisServer,
    setup::Setup,
};
use serde_json::json;

/// How many ask the same at once.
const CROWD: usize = 500;

async fn open(gateway: &dyn Gateway, stream: bool) -> Result<Streamed> {
    gateway.open_post("/chat", json!({"message": "together", "stream": stream}), &[]).await
}

/// Replicas that have heard of the hosts, over one Redis; limits are such that a loaded machine changes nothing.
async fn replicas(ollama: &FakeOllama, count: usize) -> Result<Vec<Box<dyn Gateway>>> {
    let setup = Setup::new([ollama]).set("REDIS_TIMEOUT", "30").set("CLIENT_TIMEOUT", "300");
    let mut replicas = Vec::new();
    for number in 0..count {
        let replica = crate::REDIS.start(setup.clone()).await?;
        replica.say(&format!("warm up {number}")).await?;
        replicas.push(replica);
    }
    Ok(replicas)
}

#[tokio::test]
async fn five_hundred_who_ask_three_replicas_at_once_make_one_call() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let replicas = replicas(&ollama, 3).await?;
    let asked = ollama.count(CHAT);
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
    let crowd = (0..CROWD).zip(replicas.iter().cycle()).map(|(_, replica)| async move {
        let mut reply = open(replica.as_ref(), true).await?;
        let first = reply.next_event().await?.context("no event")?;
        ensure!(first.1.contains("one "), "{first:?}");
        Ok(reply)
    });
    // All have heard the first word while upstream holds the second.
    let crowd = join_all(crowd).await.into_iter().collect::<Result<Vec<_>>>()?;
    let misses = crowd.iter().filter(|reply| reply.header("x-cache") == "miss").count();
    let coalesced = crowd.iter().filter(|reply| reply.header("x-cache") == "coalesced").count();
    assert_eq!((misses, coalesced), (1, CROWD - 1));
    gate.open(100);
    for rest in join_all(crowd.into_iter().map(Streamed::rest)).await {
        let rest = rest?.text();
        ensure!(rest.contains("three") && rest.contains("event: done"), "{rest}");
    }
    assert_eq!(ollama.count(CHAT), asked + 1);
    Ok(())
}

#[tokio::test]
async fn five_hundred_who_want_one_whole_answer_of_three_replicas_make_one_call() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let replicas = replicas(&ollama, 3).await?;
    let asked = ollama.count(CHAT);
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("one two three")?.behind(&gate));
    let crowd = (0..CROWD).zip(replicas.iter().cycle());
    let crowd =
        join_all(crowd.map(|(_, replica)| async move { open(replica.as_ref(), false).await?.rest().await }));
    let answer = async {
        ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
        gate.open(1);
        anyhow::Ok(())
    };
    let (crowd, answered) = futures::join!(crowd, answer);
    answered?;
    let mut misses = 0;
    for reply in crowd {
        let reply = reply?;
        ensure!(reply.response() == "one two three", "{} {}", reply.status, reply.text());
        misses += usize::from(reply.cache() == "miss");
    }
    assert_eq!((misses, ollama.count(CHAT)), (1, asked + 1));
    Ok(())
}

#[tokio::test]
async fn whoever_leaves_last_says_so_in_another_replica_too() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let replicas = replicas(&ollama, 2).await?;
    let mut shortest = Duration::MAX;
    // Of several tries one counts, for a machine may be busy with something else.
    for turn in 0..5 {
        ollama.next_chat(Scripted::saying("one two three")?.gated(&Gate::default()));
        let mut crowd = Vec::new();
        for replica in &replicas {
            let body = json!({"message": format!("leaving {turn}"), "stream": true});
            let mut reply = replica.open_post("/chat", body, &[]).await?;
            reply.next_event().await?.context("no event")?;
            crowd.push(reply);
        }
        let follower = crowd.pop();
        // The one that asked first leaves first.
        drop(crowd);
        let left = Instant::now();
        drop(follower);
        ollama.wait_for_given_up(turn + 1, PATIENCE).await?;
        shortest = shortest.min(left.elapsed());
    }
    // Without a word a follower counts as one that listens for 3 s.
    ensure!(shortest < Duration::from_secs(1), "{shortest:?}");
    Ok(())
}

#[tokio::test]
async fn without_its_redis_a_process_still_asks_once() -> Result<()> {
    for pauses in [false, true] {
        let redis = Arc::new(RedisServer::start()?);
        let ollama = FakeOllama::start().await?;
        let setup = Setup::new([&ollama]).redis(&redis).set("REDIS_TIMEOUT", "200ms");
        let gateway = crate::REDIS.start(setup).await?;
        gateway.until("s", |reply| reply.header("x-session") == "stored").await?;
        if pauses {
            redis.pause()?;
        } else {
            redis.stop()?;
        }
        let asked = ollama.count(CHAT);
        let gate = Gate::default();
        ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
        let crowd = join_all((0..8).map(|_| open(gateway.as_ref(), true))).await;
        let mut crowd = crowd.into_iter().collect::<Result<Vec<_>>>()?;
        for reply in &mut crowd {
            let first = reply.next_event().await?.context("no event")?;
            ensure!(first.1.contains("one "), "{first:?}");
        }
        let mut ways: Vec<_> = crowd.iter().map(|reply| reply.header("x-cache").to_owned()).collect();
        ways.sort_unstable();
        assert_eq!((&*ways[0], &*ways[6], &*ways[7]), ("bypass", "coalesced", "coalesced"));
        gate.open(100);
        for reply in crowd {
            ensure!(reply.rest().await?.text().contains("three"), "broken off");
        }
        assert_eq!(ollama.count(CHAT), asked + 1);
        if pauses {
            redis.resume()?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_flight_whose_redis_goes_away_goes_on_for_its_own_clients() -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).redis(&redis).set("REDIS_TIMEOUT", "200ms");
    let gateway = crate::REDIS.start(setup).await?;
    gateway.until("s", |reply| reply.header("x-session") == "stored").await?;
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
    let mut crowd = Vec::new();
    for _ in 0..2 {
        let mut reply = open(gateway.as_ref(), true).await?;
        reply.next_event().await?.context("no event")?;
        crowd.push(reply);
    }
    redis.stop()?;
    gate.open(1);
    for reply in &mut crowd {
        let second = reply.next_event().await?.context("no event")?;
        ensure!(second.1.contains("two "), "{second:?}");
    }
    gate.open(100);
    for reply in crowd {
        let rest = reply.rest().await?.text();
        ensure!(rest.contains("three") && rest.contains("event: done"), "{rest}");
    }
    ollama.wait_for_rest(Duration::from_secs(10)).await
}

#[tokio::test]
async fn when_all_left_and_redis_cannot_say_so_upstream_is_dropped_all_the_same() -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).redis(&redis).set("REDIS_TIMEOUT", "10");
    let (one, two) = (crate::REDIS.start(setup.clone()).await?, crate::REDIS.start(setup).await?);
    one.say("warm up").await?;
    ollama.next_chat(Scripted::saying("one two three")?.gated(&Gate::default()));
    let mut crowd = Vec::new();
    for replica in [&one, &two] {
        let mut reply = open(replica.as_ref(), true).await?;
        reply.next_event().await?.context("no event")?;
        crowd.push(reply);
    }
    redis.stop()?;
    drop(crowd);
    ollama.wait_for_given_up(1, PATIENCE).await
}
