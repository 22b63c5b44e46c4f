//! What lies in Redis: it names nobody, expires unless it is used, and is passed over where nobody here wrote it.

use paddock_tests::{redis_commands::Connection, redis_server::RedisServer};

use crate::behaviors::prelude::*;

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

over_redis! {
    what_lies_in_redis_expires_and_names_nobody,
    a_session_is_kept_longer_by_every_use,
    what_another_version_or_nobody_wrote_is_passed_over,
}
