//! Instances: one serves many requests, at the same time and one after the other, and none lasts.

use anyhow::{Result, ensure};
use futures::future::join_all;
use paddock_tests::{
    gateway::{Gateway, PATIENCE, SpinGateway},
    ollama::{CHAT, FakeOllama, Gate, Scripted},
    redis_commands::Connection,
    redis_server::RedisServer,
    setup::Setup,
};
use std::time::{Duration, Instant};

#[tokio::test]
async fn one_instance_answers_sixteen_chats_at_once() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let spin = SpinGateway::start(Setup::new([&ollama]).in_one_instance()).await?;
    let gateway: &dyn Gateway = &spin;
    for round in 0..3 {
        let messages: Vec<_> = (0..16).map(|number| format!("question {round} {number}")).collect();
        let sessions = (0..16).map(|number| format!("s{}", number % 4)).collect::<Vec<_>>();
        let chats = messages.iter().zip(&sessions).map(|(message, session)| gateway.say_in(session, message));
        for (message, reply) in messages.iter().zip(join_all(chats).await) {
            let reply = reply?;
            assert!(reply.response().starts_with(&format!("echo of {message} #")), "{}", reply.text());
            assert_eq!(reply.header("x-session"), "stored");
        }
    }
    assert_eq!((spin.app().instances("chat"), spin.app().traps("chat")), (1, 0));
    Ok(())
}

#[tokio::test]
async fn a_slow_chat_does_not_hold_up_its_neighbours_in_the_instance() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let spin = SpinGateway::start(Setup::new([&ollama]).in_one_instance()).await?;
    let gateway: &dyn Gateway = &spin;
    gateway.say("warm up").await?;
    ollama.next_chat(Scripted::saying("late")?.after(Duration::from_secs(3)));
    let slow = gateway.say("slow");
    let quick = async {
        ollama.wait_for_requests(paddock_tests::ollama::CHAT, 2, paddock_tests::gateway::PATIENCE).await?;
        let started = std::time::Instant::now();
        for number in 0..5 {
            gateway.say(&format!("quick {number}")).await?;
        }
        anyhow::Ok(started.elapsed())
    };
    let (slow, quick) = futures::join!(slow, quick);
    assert_eq!(slow?.response(), "late");
    assert!(quick? < Duration::from_secs(2));
    assert_eq!(spin.app().instances("chat"), 1);
    Ok(())
}

#[tokio::test]
async fn what_one_instance_learns_of_a_models_window_another_need_not_ask() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.reads(Some(8192), 16_384);
    let setup = Setup::new([&ollama]).in_one_instance();
    let long = |letter: &str| letter.repeat(6000);
    let first = SpinGateway::start(setup.clone()).await?;
    let (first, redis): (&dyn Gateway, _) = (&first, Connection::open(&*RedisServer::shared()?).await?);
    for letter in ["a", "b"] {
        first.say_in("s", &long(letter)).await?;
    }
    assert_eq!(ollama.count("/api/show"), 1);
    let (started, pattern) = (Instant::now(), format!("{}:*inventory*", setup.prefix()));
    loop {
        let keys = redis.run(&["KEYS", &pattern]).await?;
        let key = keys.first().map(String::as_str).unwrap_or_default();
        if redis.run(&["HVALS", key]).await?.concat().contains("contexts") {
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "it is not shared: {keys:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = SpinGateway::start(setup).await?;
    let second: &dyn Gateway = &second;
    let reply = second.say_in("s", "and now?").await?;
    assert_eq!((reply.header("x-session-left-out"), ollama.last_conversation().len()), ("", 5));
    assert_eq!(ollama.count("/api/show"), 1);
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_does_not_disturb_its_neighbours() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let spin = SpinGateway::start(Setup::new([&ollama]).in_one_instance()).await?;
    let gateway: &dyn Gateway = &spin;
    ollama.next_chat(Scripted::saying("nobody reads this")?.after(Duration::from_millis(300)));
    let mut chat = Box::pin(gateway.say("leaving"));
    tokio::select! {
        _ = &mut chat => anyhow::bail!("answered too early"),
        asked = ollama.wait_for_requests(paddock_tests::ollama::CHAT, 1, paddock_tests::gateway::PATIENCE) => asked?,
    }
    drop(chat);
    for reply in join_all((0..8).map(|_| gateway.say("staying"))).await {
        assert_eq!(reply?.status, 200);
    }
    Ok(())
}

/// On a surface of events the early head and the comments that follow it are what Spin notices a departed client by.
#[tokio::test]
async fn a_client_that_leaves_while_a_model_loads_is_noticed_by_what_it_is_sent() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.loads(&["llama3.2:latest"]);
    let spin = SpinGateway::start(Setup::new([&ollama])).await?;
    let gateway: &dyn Gateway = &spin;
    let path = "/v1/chat/completions";
    ollama.answers(path, Scripted::hang());
    let messages = serde_json::json!([{"role": "user", "content": "hello"}]);
    let body = serde_json::json!({"model": "llama3.2", "messages": messages, "stream": true});
    let started = std::time::Instant::now();
    let mut reply = gateway.open_post(path, body, &[]).await?;
    assert!(started.elapsed() >= Duration::from_secs(10));
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "text/event-stream"));
    for _ in 0..2 {
        assert!(reply.next_line().await?.is_some_and(|line| line.starts_with(':')));
        assert_eq!(reply.next_line().await?.as_deref(), Some(""));
    }
    assert_eq!(ollama.open_requests(), 1);
    drop(reply);
    ollama.wait_for_given_up(1, Duration::from_secs(5)).await
}

#[tokio::test]
async fn what_must_outlive_an_instance_is_in_redis() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    // Two applications share nothing but Redis, as two instances do.
    let (first, second) = (SpinGateway::start(setup.clone()).await?, SpinGateway::start(setup).await?);
    let (one, two): (&dyn Gateway, &dyn Gateway) = (&first, &second);
    one.say_in("s", "hello").await?;
    assert_eq!(two.say("hello").await?.cache(), "hit");
    let scrape = paddock_tests::prometheus::Scrape::of(one).await?;
    assert_eq!(scrape.count("ollama_requests_total", &[]), 2, "both are counted together");
    assert_eq!(scrape.label_values("paddock_build_info", "form"), ["spin"]);
    Ok(())
}

#[tokio::test]
async fn sixteen_instances_that_are_asked_the_same_at_once_make_one_call() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("REDIS_TIMEOUT", "30").at_once_in_an_instance(1);
    let spin = SpinGateway::start(setup).await?;
    let gateway: &dyn Gateway = &spin;
    gateway.say("warm up").await?;
    for (turn, stream) in [true, false].into_iter().enumerate() {
        let (asked, gate) = (ollama.count(CHAT), Gate::default());
        // Nobody gets a head before all have asked.
        ollama.next_chat(Scripted::saying("one two three")?.behind(&gate));
        let body = serde_json::json!({"message": format!("together {stream}"), "stream": stream});
        let crowd = join_all((0..16).map(|_| gateway.post_to("/chat", body.clone(), &[])));
        let answer = async {
            ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
            let started = std::time::Instant::now();
            while spin.app().instances("chat") < 16 {
                anyhow::ensure!(started.elapsed() < PATIENCE, "{} instances", spin.app().instances("chat"));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            gate.open(1);
            anyhow::Ok(())
        };
        let (crowd, answered) = futures::join!(crowd, answer);
        answered?;
        let mut misses = 0;
        for reply in crowd {
            let reply = reply?;
            assert!(reply.status == 200 && reply.text().contains("three"), "{turn} {}", reply.text());
            misses += usize::from(reply.cache() == "miss");
        }
        assert_eq!((misses, ollama.count(CHAT)), (1, asked + 1), "{stream}");
    }
    Ok(())
}

#[tokio::test]
async fn an_instance_that_ended_is_not_missed() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let spin = SpinGateway::start(Setup::new([&ollama])).await?;
    let gateway: &dyn Gateway = &spin;
    gateway.say_in("s", "hello").await?;
    let before = spin.app().instances("chat");
    // Spin ends an instance after a second without work.
    gateway.pass(Duration::from_millis(1500)).await;
    let reply = gateway.say("hello").await?;
    assert_eq!((reply.cache(), spin.app().instances("chat")), ("hit", before + 1));
    gateway.say_in("s", "and again").await?;
    assert_eq!(ollama.last_conversation().len(), 3);
    Ok(())
}

#[tokio::test]
async fn an_instance_is_replaced_after_128_requests_and_nobody_notices() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let spin = SpinGateway::start(Setup::new([&ollama])).await?;
    let gateway: &dyn Gateway = &spin;
    for number in 0..140 {
        let reply = gateway.say("hello").await?;
        assert_eq!(reply.cache(), if number == 0 { "miss" } else { "hit" }, "{number}");
    }
    assert!(spin.app().instances("chat") >= 2);
    Ok(())
}
