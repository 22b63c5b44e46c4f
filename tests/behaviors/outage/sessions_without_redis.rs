//! What becomes of sessions while Redis is away: every reply says that its turn is not stored, or there is none at all.

use std::sync::Arc;

use paddock_tests::redis_server::RedisServer;

use crate::behaviors::{prelude::*, sessions::routes, surfaces};

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
    without_its_store_a_session_is_unavailable_and_the_request_goes_as_it_came,
}
