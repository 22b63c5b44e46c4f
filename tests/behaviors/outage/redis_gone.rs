//! Redis goes away, falls silent, or was never there: chats go on, and every reply says what it did without.

use std::sync::Arc;

use paddock_tests::{prometheus::Scrape, redis_server::RedisServer};

use crate::behaviors::{prelude::*, sessions::routes, surfaces};

/// More than all limits together, less than any test's patience.
const SOON: Duration = Duration::from_secs(10);

/// A chat in a session, which must be answered without cache and history, and soon.
async fn does_without(gateway: &dyn Gateway, ollama: &FakeOllama, message: &str) -> Result<()> {
    let started = Instant::now();
    let reply = gateway.say_in("s", message).await?;
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", "unavailable"));
    assert_eq!(ollama.last_conversation(), [format!("user: {message}")]);
    // Without a session there is nothing to be unavailable.
    let reply = gateway.say(&format!("{message}, by the way")).await?;
    assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", ""));
    Ok(())
}

async fn is_degraded(gateway: &dyn Gateway) -> Result<()> {
    let health = gateway.get("/health").await?;
    assert_eq!((health.status.as_u16(), health.at("/status")), (200, "degraded".to_owned()));
    assert_eq!(health.json()["redis"], false);
    let scrape = Scrape::of(gateway).await?;
    assert_eq!(scrape.count("paddock_store_up", &[]), 0, "the store is shown as down");
    Ok(())
}

async fn is_back(gateway: &dyn Gateway) -> Result<()> {
    gateway.until("s", |reply| reply.cache() == "miss" && reply.header("x-session") == "stored").await?;
    let started = Instant::now();
    while gateway.get("/health").await?.at("/status") != "healthy" {
        ensure!(started.elapsed() < PATIENCE, "not healthy again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(Scrape::of(gateway).await?.count("paddock_store_up", &[]), 1, "the store is shown as up");
    Ok(())
}

async fn a_stopped_redis_costs_cache_and_memory_but_no_answer(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).redis(&redis)).await?;
    assert_eq!(gateway.say_in("s", "before").await?.header("x-session"), "stored");
    redis.stop()?;
    for message in ["during", "still during"] {
        does_without(gateway.as_ref(), &hosts[0], message).await?;
    }
    is_degraded(gateway.as_ref()).await?;
    redis.restart()?;
    is_back(gateway.as_ref()).await
}

async fn a_silent_redis_costs_its_limit_and_no_answer(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let hosts = [FakeOllama::start().await?];
    let setup =
        Setup::new(&hosts).redis(&redis).set("REDIS_TIMEOUT", "500ms").set("REDIS_WRITE_TIMEOUT", "500ms");
    let gateway = form.start(setup).await?;
    gateway.until("s", |reply| reply.header("x-session") == "stored").await?;
    redis.pause()?;
    for message in ["during", "still during"] {
        does_without(gateway.as_ref(), &hosts[0], message).await?;
    }
    is_degraded(gateway.as_ref()).await?;
    redis.resume()?;
    is_back(gateway.as_ref()).await
}

async fn a_redis_that_was_never_there_is_done_without(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let setup = Setup::new(&hosts).redis_nowhere()?.set("LB_POLICY", "round_robin");
    let gateway = form.start(setup).await?;
    let reply = gateway.say_in("s", "hello").await?;
    assert_eq!((reply.cache(), reply.header("x-session")), ("bypass", "unavailable"));
    // Chance spreads where no counter is shared.
    for turn in 0..32 {
        gateway.say(&format!("hello {turn}")).await?;
    }
    assert!(hosts.iter().all(|host| host.count(CHAT) > 0));
    is_degraded(gateway.as_ref()).await
}

async fn an_outage_is_logged_once_at_each_end(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).redis(&redis)).await?;
    gateway.say_in("s", "before").await?;
    redis.stop()?;
    for turn in 0..5 {
        gateway.say_in("s", &format!("during {turn}")).await?;
    }
    redis.restart()?;
    gateway.until("s", |reply| reply.header("x-session") == "stored").await?;
    let told = |words: &str| gateway.logs().lines().filter(|line| line.contains(words)).count();
    // A process writes its log a little later than it replies.
    let started = Instant::now();
    while told("store is back") == 0 && started.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((told("store is down"), told("store is back")), (1, 1), "{}", gateway.logs());
    Ok(())
}

async fn a_redis_that_comes_late_is_used(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::stopped()?);
    let hosts = [FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).redis(&redis)).await?;
    does_without(gateway.as_ref(), &hosts[0], "before").await?;
    redis.restart()?;
    is_back(gateway.as_ref()).await
}

async fn without_its_store_a_session_is_unavailable_and_the_request_goes_as_it_came(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).redis_nowhere()?).await?;
    for path in [CHAT, "/v1/chat/completions", "/v1/messages"] {
        for stream in [false, true] {
            let mut body = surfaces::question("llama3.2");
            body["stream"] = stream.into();
            for _ in 0..2 {
                let reply = gateway.post_to(path, body.clone(), &[("x-paddock-session", "s")]).await?;
                assert_eq!(
                    (reply.status.as_u16(), reply.header("x-session")),
                    (200, "unavailable"),
                    "{path}"
                );
                let told = reply.text().contains("unavailable");
                assert_eq!(told, stream, "a stream says it again in its last event: {}", reply.text());
                let asked = surfaces::questions(&ollama);
                assert_eq!(asked.last().map(Recorded::json).as_ref(), Some(&body), "{path}");
            }
        }
    }
    Ok(())
}

async fn a_required_session_is_never_done_without(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).redis(&redis).set("SESSION_REQUIRED", "true");
    let gateway = form.start(setup).await?;
    let id = routes::made(gateway.as_ref(), "", &[]).await?;
    gateway.until(&id, |reply| reply.header("x-session") == "stored").await?;
    let asked = ollama.count(CHAT);
    redis.stop()?;
    let path = format!("/sessions/{id}");
    let body = json!({"message": "forget me not", "session_id": id});
    for reply in [
        gateway.chat(body.clone()).await?,
        gateway.request(Method::POST, "/sessions", "", &[]).await?,
        gateway.get(&path).await?,
        gateway.get(&format!("{path}/export")).await?,
        gateway.request(Method::DELETE, &path, "", &[]).await?,
    ] {
        assert_eq!(reply.outcome(), (503, "session_unavailable".to_owned()));
        assert_eq!(reply.header("retry-after"), "1");
    }
    assert_eq!(ollama.count(CHAT), asked, "Ollama is not asked for nothing");
    // What is no turn of a session is answered all the same.
    assert_eq!(gateway.say("hello").await?.cache(), "bypass");
    redis.restart()?;
    let started = Instant::now();
    while gateway.chat(body.clone()).await?.header("x-session") != "stored" {
        ensure!(started.elapsed() < PATIENCE, "not available again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Redis goes away while upstream answers streams of sessions: gives what each stream said.
async fn streams_that_lose_their_turns(form: &dyn Form, required: &str) -> Result<Vec<String>> {
    let redis = Arc::new(RedisServer::start()?);
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).redis(&redis).set("SESSION_REQUIRED", required);
    let gateway = form.start(setup).await?;
    gateway.until("s", |reply| reply.header("x-session") == "stored").await?;
    let gate = Gate::default();
    let paths = [CHAT, "/v1/chat/completions", "/v1/messages"];
    let before = paths.map(|path| ollama.count(path));
    for (path, recorded) in
        paths.into_iter().zip(["08-chat-stream", "24-v1-chat-stream", "33-v1-messages-stream"])
    {
        ollama.next(path, Scripted::recorded(recorded)?.behind(&gate));
    }
    let streams = paths.map(|path| {
        let mut body = surfaces::question("llama3.2");
        body["stream"] = true.into();
        let gateway = gateway.as_ref();
        async move { gateway.post_to(path, body, &[("x-paddock-session", path)]).await }
    });
    let outage = async {
        for (path, before) in paths.into_iter().zip(before) {
            ollama.wait_for_requests(path, before + 1, PATIENCE).await?;
        }
        redis.stop()?;
        gate.open(paths.len());
        Ok::<_, anyhow::Error>(())
    };
    let (streams, outage) = futures::join!(join_all(streams), outage);
    outage?;
    streams
        .into_iter()
        .map(|reply| {
            let reply = reply?;
            ensure!((reply.status.as_u16(), reply.header("x-session")) == (200, ""), "{:?}", reply.headers);
            Ok(reply.text())
        })
        .collect()
}

async fn a_stream_whose_turn_is_lost_says_so_in_its_last_event(form: &dyn Form) -> Result<()> {
    let streams = streams_that_lose_their_turns(form, "false").await?;
    for (stream, end) in streams.iter().zip([
        "\"session\":\"unavailable\"}\n",
        "\n\n: x-session unavailable\n\ndata: [DONE]\n\n",
        "\n\n: x-session unavailable\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ]) {
        assert!(stream.ends_with(end), "{stream}");
    }
    Ok(())
}

async fn a_stream_whose_required_turn_is_lost_ends_with_an_error(form: &dyn Form) -> Result<()> {
    let streams = streams_that_lose_their_turns(form, "true").await?;
    for (stream, end) in streams.iter().zip(["\"done\":true", "[DONE]", "message_stop"]) {
        let last = stream.trim_end().lines().last().unwrap_or_default();
        assert!(last.contains("error") && !stream.contains(end), "{stream}");
    }
    Ok(())
}

over_redis! {
    a_stream_whose_turn_is_lost_says_so_in_its_last_event,
    a_stream_whose_required_turn_is_lost_ends_with_an_error,
    a_required_session_is_never_done_without,
    a_stopped_redis_costs_cache_and_memory_but_no_answer,
    a_silent_redis_costs_its_limit_and_no_answer,
    a_redis_that_was_never_there_is_done_without,
    an_outage_is_logged_once_at_each_end,
    a_redis_that_comes_late_is_used,
    without_its_store_a_session_is_unavailable_and_the_request_goes_as_it_came,
}
