//! What is kept of a long answer for those who follow in other replicas.

use paddock_tests::{redis_commands::Connection, redis_server::RedisServer};

use super::{hears, open};
use crate::behaviors::prelude::*;

/// Waits until what was handed over first is not kept any more.
async fn wait_for_a_log_without_its_beginning(setup: &Setup) -> Result<()> {
    let redis = Connection::open(&*RedisServer::shared()?).await?;
    let started = Instant::now();
    loop {
        for log in redis.run(&["KEYS", &format!("{}:*:log:*", setup.prefix())]).await? {
            if !redis.run(&["LINDEX", &log, "0"]).await?.concat().starts_with("00000000") {
                return Ok(());
            }
        }
        ensure!(started.elapsed() < PATIENCE, "all is kept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn of_a_long_answer_redis_holds_a_part(form: &dyn Form) -> Result<()> {
    const KEPT: usize = 4 << 10;
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("CACHE_MAX_ENTRY", KEPT.to_string());
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup.clone()).await?);
    one.say("warm up").await?;
    let gate = Gate::default();
    let block = |number: usize| format!("{}block{number} ", "word ".repeat(19));
    let text: String = (0..15).map(block).collect();
    ollama.next_chat(Scripted::saying(&format!("first {text}end"))?.gated(&gate));
    let mut leader = open(&*one, CHAT, "long").await?;
    hears(&mut leader, "first ").await?;
    let mut follower = open(&*two, CHAT, "long").await?;
    let mut heard = hears(&mut follower, "first ").await?;
    let redis = Connection::open(&*RedisServer::shared()?).await?;
    for number in 0..15 {
        gate.open(20);
        heard.push_str(&hears(&mut follower, &format!("block{number} ")).await?);
        let logs = redis.run(&["KEYS", &format!("{}:*:log:*", setup.prefix())]).await?;
        let log = logs.first().context("no log")?;
        let held: usize = redis.run(&["LRANGE", log, "0", "-1"]).await?.iter().map(String::len).sum();
        // What is kept, and what was handed over last, each with a number.
        assert!(held <= 3 * KEPT, "{held}");
        let whole = hears(&mut leader, &format!("block{number} ")).await?;
        assert!(heard.ends_with(&whole));
    }
    assert!(heard.len() > 8 * KEPT);
    gate.open(100);
    let (rest, same) = (leader.rest().await?.text(), follower.rest().await?.text());
    assert!(rest.contains("\"done\":true") && rest == same, "{same}");
    Ok(())
}

async fn whoever_comes_too_late_for_a_long_answer_asks_together_with_others(form: &dyn Form) -> Result<()> {
    const KEPT: usize = 1 << 10;
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("CACHE_MAX_ENTRY", KEPT.to_string()).set("REDIS_TIMEOUT", "30");
    let mut replicas = Vec::new();
    for number in 0..4 {
        let replica = form.start(setup.clone()).await?;
        replica.say(&format!("warm up {number}")).await?;
        replicas.push(replica);
    }
    let (asked, gate, later) = (ollama.count(CHAT), Gate::default(), Gate::default());
    let block = |number: usize| format!("word word word word block{number} ");
    let text: String = (0..10).map(block).collect();
    ollama.next_chat(Scripted::saying(&format!("first {text}end"))?.gated(&gate));
    ollama.next_chat(Scripted::saying("again and again")?.gated(&later));
    let mut crowd = Vec::new();
    for replica in &replicas[..2] {
        let mut reply = open(&**replica, CHAT, "long").await?;
        hears(&mut reply, "first ").await?;
        crowd.push(reply);
    }
    // No more at once than is kept, so that nobody falls behind.
    for number in 0..10 {
        gate.open(5);
        for reply in &mut crowd {
            hears(reply, &format!("block{number} ")).await?;
        }
    }
    wait_for_a_log_without_its_beginning(&setup).await?;
    for replica in &replicas[2..] {
        let mut reply = open(&**replica, CHAT, "long").await?;
        hears(&mut reply, "again ").await?;
        crowd.push(reply);
    }
    let found: Vec<_> = crowd.iter().map(|reply| reply.header("x-cache")).collect();
    assert_eq!(found, ["miss", "coalesced", "miss", "coalesced"]);
    gate.open(100);
    later.open(100);
    for reply in crowd {
        let rest = reply.rest().await?.text();
        assert!(rest.contains("\"done\":true"), "{rest}");
    }
    assert_eq!(ollama.count(CHAT), asked + 2);
    Ok(())
}

over_redis! {
    of_a_long_answer_redis_holds_a_part,
    whoever_comes_too_late_for_a_long_answer_asks_together_with_others,
}
