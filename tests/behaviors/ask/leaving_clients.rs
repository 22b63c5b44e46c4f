//! A client that leaves while it waits.

use crate::behaviors::prelude::*;

/// A surface that streams, with the recorded stream of what it asks.
const STREAMS: [(&str, &str, &str); 7] = [
    ("/chat", CHAT, "08-chat-stream"),
    (CHAT, CHAT, "08-chat-stream"),
    ("/api/generate", "/api/generate", "13-generate-stream"),
    ("/v1/chat/completions", "/v1/chat/completions", "25-v1-chat-stream-usage"),
    ("/v1/completions", "/v1/completions", "27-v1-completions-stream"),
    ("/v1/responses", "/v1/responses", "31-v1-responses-stream"),
    ("/v1/messages", "/v1/messages", "33-v1-messages-stream"),
];

/// A request on any of them.
fn question(stream: bool) -> serde_json::Value {
    let messages = json!([{"role": "user", "content": "hello"}]);
    json!({
        "message": "hello", "model": "llama3.2", "messages": messages, "prompt": "hello", "input": "hello",
        "max_tokens": 9, "stream": stream
    })
}

/// Asks, and leaves once Ollama was asked.
async fn ask_and_leave(gateway: &dyn Gateway, ollama: &FakeOllama, message: &str) -> Result<()> {
    let asked = ollama.count(CHAT);
    let mut chat = Box::pin(gateway.say_in("s", message));
    tokio::select! {
        reply = &mut chat => bail!("answered although nobody did: {:?}", reply?.text()),
        asked = ollama.wait_for_requests(CHAT, asked + 1, PATIENCE) => asked,
    }
}

async fn a_client_that_leaves_takes_its_upstream_request_with_it(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.loads(&["llama3.2:latest"]);
    let gateway = form.start(Setup::new([&ollama])).await?;
    let silent = [Scripted::hang(), Scripted::unfinished(End::Hang)?];
    for (index, silent) in silent.into_iter().enumerate() {
        ollama.chats(silent);
        ask_and_leave(gateway.as_ref(), &ollama, "hello").await?;
        ollama.wait_for_given_up(index + 1, Duration::from_secs(1)).await?;
    }
    assert_eq!(ollama.open_requests(), 0);
    Ok(())
}

async fn what_a_client_did_not_wait_for_is_not_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    ollama.next_chat(Scripted::unfinished(End::Hang)?);
    ask_and_leave(gateway.as_ref(), &ollama, "hello").await?;
    ollama.wait_for_given_up(1, PATIENCE).await?;
    let reply = gateway.say_in("s", "hello").await?;
    assert_eq!(reply.cache(), "miss");
    assert_eq!(ollama.last_conversation(), ["user: hello"]);
    Ok(())
}

async fn no_other_host_is_asked_for_a_client_that_left(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.loads(&["llama3.2:latest"]);
    let gateway = form.start(Setup::new([&first, &second]).set("LB_POLICY", "round_robin")).await?;
    first.chats(Scripted::hang());
    ask_and_leave(gateway.as_ref(), &first, "hello").await?;
    first.wait_for_given_up(1, PATIENCE).await?;
    // Whatever happens now happened before the answer to this.
    gateway.say("another").await?;
    assert_eq!((first.count(CHAT), second.count(CHAT)), (1, 1));
    Ok(())
}

async fn a_client_that_leaves_a_silent_stream_is_noticed_at_once(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (index, (path, upstream, recorded)) in STREAMS.into_iter().enumerate() {
        ollama.next(upstream, Scripted::recorded(recorded)?.ending_after(3, End::Hang));
        let mut reply = gateway.open_post(path, question(true), &[]).await?;
        ensure!(reply.next().await?.is_some(), "{path} says nothing");
        drop(reply);
        ollama.wait_for_given_up(index + 1, Duration::from_secs(1)).await?;
    }
    Ok(())
}

async fn a_client_that_leaves_before_the_head_is_noticed_within_a_second(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.loads(&["llama3.2:latest"]);
    let gateway = form.start(Setup::new([&ollama])).await?;
    let mut left = 0;
    for stream in [true, false] {
        for (path, upstream, _) in STREAMS {
            ollama.next(upstream, Scripted::hang());
            let asked = ollama.count(upstream) + 1;
            let mut request = Box::pin(gateway.open_post(path, question(stream), &[]));
            tokio::select! {
                early = &mut request => bail!("{path} answers: {early:?}"),
                asked = ollama.wait_for_requests(upstream, asked, PATIENCE) => asked?,
            }
            drop(request);
            left += 1;
            ollama.wait_for_given_up(left, Duration::from_secs(1)).await?;
        }
    }
    Ok(())
}

async fn a_model_loads_although_its_clients_are_impatient(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    // The model is not loaded yet; its load is over when the gate opens.
    let gate = Gate::default();
    for departed in 0..4 {
        ollama.next_chat(Scripted::saying("too late")?.behind(&gate));
        ask_and_leave(gateway.as_ref(), &ollama, &format!("hello {departed}")).await?;
        // Every other request of a departed client is dropped at once.
        ollama.wait_for_given_up(departed, Duration::from_secs(1)).await?;
        assert!(ollama.open_requests() >= 1, "the load was given up");
    }
    ollama.loads(&["llama3.2:latest"]);
    gate.open(1);
    // Its head is all that was waited for.
    ollama.wait_for_rest(PATIENCE).await?;
    assert_eq!(ollama.count(CHAT), 4);
    let reply = gateway.say("and now?").await?;
    assert!(reply.response().starts_with("echo of and now?"), "{}", reply.response());
    // Once it is there, nothing is seen through.
    ollama.next_chat(Scripted::hang());
    let given_up = ollama.given_up();
    ask_and_leave(gateway.as_ref(), &ollama, "once more").await?;
    ollama.wait_for_given_up(given_up + 1, Duration::from_secs(1)).await?;
    ollama.wait_for_rest(PATIENCE).await
}

async fn a_client_that_leaves_a_pull_takes_the_pulls_of_all_hosts_with_it(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    let begun = Scripted::recorded("52-pull-no-registry")?.ending_after(1, End::Hang);
    for (turn, (fault, stream)) in
        [(begun, true), (Scripted::hang(), true), (Scripted::hang(), false)].into_iter().enumerate()
    {
        for host in &hosts {
            host.next("/api/pull", fault.clone());
        }
        let pull = gateway.open_post("/api/pull", json!({"model": "phi4:14b", "stream": stream}), &[]);
        let asked =
            join_all(hosts.iter().map(|host| host.wait_for_requests("/api/pull", turn + 1, PATIENCE)));
        if stream {
            let mut reply = pull.await?;
            for asked in asked.await {
                asked?;
            }
            if turn == 0 {
                assert!(reply.next_line().await?.is_some_and(|line| line.contains("pulling manifest")));
            }
        } else {
            tokio::select! {
                reply = pull => bail!("answered although nobody did: {reply:?}"),
                asked = asked => asked.into_iter().collect::<Result<()>>()?,
            }
        }
        for host in &hosts {
            host.wait_for_given_up(turn + 1, Duration::from_secs(1)).await?;
        }
    }
    Ok(())
}

async fn a_client_that_leaves_the_queue_is_forgotten_at_once(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("HOST_PARALLEL", "1")).await?;
    let gate = Gate::default();
    ollama.chats(Scripted::saying("done")?.behind(&gate));
    let leave = async {
        ollama.wait_for_requests(CHAT, 1, PATIENCE).await?;
        for stream in [false, true] {
            let body = json!({"message": "too long", "stream": stream});
            tokio::select! {
                reply = gateway.open_post("/chat", body, &[]) => bail!("answered: {reply:?}"),
                waits = gateway.until_fleet(|fleet| fleet["queue"]["waiting"] == 1) => drop(waits?),
            }
            gateway.until_fleet(|fleet| fleet["queue"]["waiting"] == 0).await?;
        }
        gate.open(2);
        anyhow::Ok(())
    };
    let (held, left) = futures::join!(gateway.say("held"), leave);
    left.and(held)?;
    gateway.say("next").await?;
    let asked: Vec<_> = ollama.chat_requests().iter().flat_map(Recorded::messages).collect();
    assert_eq!(asked, ["user: held", "user: next"]);
    Ok(())
}

where_leaving_is_seen! {
    a_client_that_leaves_the_queue_is_forgotten_at_once,
    a_client_that_leaves_a_silent_stream_is_noticed_at_once,
    a_client_that_leaves_before_the_head_is_noticed_within_a_second,
    a_model_loads_although_its_clients_are_impatient,
    a_client_that_leaves_takes_its_upstream_request_with_it,
    what_a_client_did_not_wait_for_is_not_kept,
    no_other_host_is_asked_for_a_client_that_left,
    a_client_that_leaves_a_pull_takes_the_pulls_of_all_hosts_with_it,
}
