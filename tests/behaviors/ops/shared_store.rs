//! Several replicas over one Redis are one service, and what lies in Redis gives nobody away.

use paddock_tests::{redis_commands::Connection, redis_server::RedisServer};

use crate::behaviors::{
    cache::purging::{TOKEN, purge},
    prelude::*,
};

async fn replicas_share_answers_and_conversations(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup).await?);
    assert_eq!(one.say("hello").await?.cache(), "miss");
    assert_eq!(two.say("hello").await?.cache(), "hit");
    one.say_in("s", "first").await?;
    two.say_in("s", "second").await?;
    one.say_in("s", "third").await?;
    assert_eq!(ollama.last_conversation().len(), 5);
    Ok(())
}

async fn replicas_take_turns_together(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let setup = Setup::new(&hosts).set("LB_POLICY", "round_robin");
    let replicas = [form.start(setup.clone()).await?, form.start(setup).await?];
    let mut seen = Vec::new();
    for turn in 0..6 {
        // Each replica twice in a row: by itself it would begin at the first host.
        let reply = replicas[turn / 2 % 2].say(&format!("hello {turn}")).await?;
        seen.push(reply.header("x-paddock-host").to_owned());
    }
    assert_eq!(seen, ["1", "2", "1", "2", "1", "2"]);
    Ok(())
}

async fn turns_of_two_replicas_in_one_session_all_survive(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let replicas = [form.start(setup.clone()).await?, form.start(setup).await?];
    let turns = (0..16).map(|turn| (turn % 2, format!("turn {turn}"))).collect::<Vec<_>>();
    for reply in
        join_all(turns.iter().map(|(replica, message)| replicas[*replica].say_in("s", message))).await
    {
        assert_eq!(reply?.header("x-session"), "stored");
    }
    replicas[0].say_in("s", "and now?").await?;
    assert_eq!(ollama.last_conversation().len(), 33);
    Ok(())
}

async fn what_lies_in_redis_expires_and_names_nobody(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("SESSION_TTL", "100").set("CACHE_TTL", "200");
    let gateway = form.start(setup.clone()).await?;
    let body = json!({"message": "hello", "session_id": "the-secret-session"});
    gateway.chat_with(body, &[("authorization", "Bearer the-secret-key")]).await?;
    let redis = Connection::open(&*RedisServer::shared()?).await?;
    let keys = redis.run(&["KEYS", &format!("{}*", setup.prefix())]).await?;
    assert!(keys.iter().all(|key| !key.contains("secret")), "{keys:?}");
    for (kind, limit) in [(":session:", 100_000), (":answer:", 200_000)] {
        let found: Vec<_> = keys.iter().filter(|key| key.contains(kind)).collect();
        assert_eq!(found.len(), 1, "{keys:?}");
        let left: i64 = redis.run(&["PTTL", found[0]]).await?.concat().parse()?;
        assert!((limit - 60_000..=limit).contains(&left), "{kind} {left}");
    }
    Ok(())
}

async fn a_session_is_kept_longer_by_every_use(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("SESSION_TTL", "1000");
    let gateway = form.start(setup.clone()).await?;
    gateway.say_in("s", "hello").await?;
    let redis = Connection::open(&*RedisServer::shared()?).await?;
    let keys = redis.run(&["KEYS", &format!("{}:session:*", setup.prefix())]).await?;
    assert_eq!(keys.len(), 1);
    redis.run(&["PEXPIRE", &keys[0], "60000"]).await?;
    // Even a turn that fails has used it: its history was read.
    ollama.next_chat(refusal(400)?);
    gateway.chat(json!({"message": "again", "session_id": "s"})).await?;
    let left: i64 = redis.run(&["PTTL", &keys[0]]).await?.concat().parse()?;
    assert!(left > 60_000, "{left}");
    Ok(())
}

async fn what_another_version_or_nobody_wrote_is_passed_over(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let gateway = form.start(setup.clone()).await?;
    gateway.say_in("s", "hello").await?;
    let redis = Connection::open(&*RedisServer::shared()?).await?;
    for key in redis.run(&["KEYS", &format!("{}:*:answer:*", setup.prefix())]).await? {
        redis.run(&["SET", &key, "{\"version\": 99}"]).await?;
    }
    for key in redis.run(&["KEYS", &format!("{}:session:*", setup.prefix())]).await? {
        redis.run(&["HSET", &key, "1", "no JSON", "next", "2"]).await?;
    }
    assert_eq!(gateway.say("hello").await?.cache(), "miss");
    gateway.say_in("s", "again").await?;
    assert_eq!(ollama.last_conversation().len(), 3);
    Ok(())
}

async fn one_replica_empties_the_cache_of_all(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("ADMIN_TOKEN", "the-admin");
    let (first, second) = (form.start(setup.clone()).await?, form.start(setup).await?);
    assert_eq!(first.say("hello").await?.cache(), "miss");
    assert_eq!(second.say("hello").await?.cache(), "hit");
    assert_eq!(purge(first.as_ref(), "", &TOKEN).await?.status, 204);
    assert_eq!(second.say("hello").await?.cache(), "miss");
    Ok(())
}

over_redis! {
    replicas_share_answers_and_conversations,
    one_replica_empties_the_cache_of_all,
    replicas_take_turns_together,
    turns_of_two_replicas_in_one_session_all_survive,
    what_lies_in_redis_expires_and_names_nobody,
    a_session_is_kept_longer_by_every_use,
    what_another_version_or_nobody_wrote_is_passed_over,
}
