//! Single flight over several replicas that share one Redis.

use paddock_tests::{redis_commands::Connection, redis_server::RedisServer};

use super::{ask, hears, open, question, told};
use crate::behaviors::prelude::*;

/// Waits until so many follow flights through Redis at once.
pub(super) async fn wait_for_audience(setup: &Setup, count: usize) -> Result<()> {
    let redis = Connection::open(&*RedisServer::shared()?).await?;
    let started = Instant::now();
    loop {
        let mut found = 0;
        for key in redis.run(&["KEYS", &format!("{}:*:audience:*", setup.prefix())]).await? {
            found += redis.run(&["ZCARD", &key]).await?.concat().parse::<usize>()?;
        }
        if found >= count {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "{found} follow");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn replicas_ask_once_together_and_stream_live(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup.clone()).await?);
    one.say("warm up").await?;
    assert_eq!(two.say("warm up").await?.cache(), "hit");
    for path in ["/chat", CHAT] {
        let asked = ollama.count(CHAT);
        let gate = Gate::default();
        ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
        let mut leader = open(&*one, path, "streamed").await?;
        let mut first = hears(&mut leader, "one ").await?;
        let mut follower = open(&*two, path, "streamed").await?;
        let mut second = hears(&mut follower, "one ").await?;
        assert_eq!((leader.header("x-cache"), follower.header("x-cache")), ("miss", "coalesced"));
        for (word, next) in [("two ", 1), ("three", 100)] {
            gate.open(next);
            second.push_str(&hears(&mut follower, word).await?);
        }
        first.push_str(&leader.rest().await?.text());
        second.push_str(&follower.rest().await?.text());
        assert_eq!(told(&first), told(&second), "{path}");
        assert_eq!(ollama.count(CHAT), asked + 1, "{path}");
    }
    Ok(())
}

async fn replicas_ask_once_together_for_a_whole_answer(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup.clone()).await?);
    one.say("warm up").await?;
    assert_eq!(two.say("warm up").await?.cache(), "hit");
    let gate = Gate::default();
    let asked = ollama.count(CHAT);
    ollama.next_chat(Scripted::saying("one two")?.behind(&gate));
    let follow = async {
        ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
        let open = async {
            wait_for_audience(&setup, 1).await?;
            gate.open(1);
            anyhow::Ok(())
        };
        let (reply, opened) = futures::join!(ask(&*two, "/chat", "whole"), open);
        opened?;
        reply
    };
    let (leader, follower) = futures::join!(ask(&*one, "/chat", "whole"), follow);
    let (leader, follower) = (leader?, follower?);
    assert_eq!((leader.cache(), &*leader.response()), ("miss", "one two"));
    assert_eq!((follower.cache(), &follower.body), ("coalesced", &leader.body));
    assert_eq!(ollama.count(CHAT), asked + 1);
    Ok(())
}

async fn an_answer_in_the_other_form_keeps_nobody_from_asking_together(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("REDIS_TIMEOUT", "30");
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup.clone()).await?);
    one.say("warm up").await?;
    assert_eq!(two.say("warm up").await?.cache(), "hit");
    for (path, recorded, kept) in [
        ("/v1/messages", "33-v1-messages-stream", false),
        ("/v1/messages", "32-v1-messages", true),
        ("/v1/responses", "31-v1-responses-stream", false),
        ("/v1/responses", "30-v1-responses", true),
        ("/v1/chat/completions", "23-v1-chat", true),
    ] {
        let text = format!("in both forms {kept}");
        let body = |stream: bool| {
            let messages = json!([{"role": "user", "content": text}]);
            json!({"model": "llama3.2", "max_tokens": 64, "temperature": 0, "input": text, "messages": messages, "stream": stream})
        };
        assert_eq!(one.post_to(path, body(kept), &[]).await?.cache(), "miss", "{path} {kept}");
        let (asked, gate) = (ollama.count(path), Gate::default());
        ollama.next(path, Scripted::recorded(recorded)?.behind(&gate));
        let follow = async {
            ollama.wait_for_requests(path, asked + 1, PATIENCE).await?;
            let open = async {
                wait_for_audience(&setup, 1).await?;
                gate.open(1);
                anyhow::Ok(())
            };
            let (reply, opened) = futures::join!(two.post_to(path, body(!kept), &[]), open);
            opened?;
            reply
        };
        let (leader, follower) = futures::join!(one.post_to(path, body(!kept), &[]), follow);
        let (leader, follower) = (leader?, follower?);
        assert_eq!((leader.cache(), follower.cache()), ("miss", "coalesced"), "{path} {kept}");
        assert_eq!(leader.body, follower.body, "{path} {kept}");
        assert_eq!(ollama.count(path), asked + 1, "{path} {kept}");
        for stream in [false, true] {
            assert_eq!(two.post_to(path, body(stream), &[]).await?.cache(), "hit", "{path} {kept} {stream}");
        }
    }
    Ok(())
}

async fn whoever_wants_a_younger_answer_than_there_is_asks_together(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("REDIS_TIMEOUT", "30");
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup.clone()).await?);
    assert_eq!(ask(&*one, "/chat", "old").await?.cache(), "miss");
    assert_eq!(ask(&*two, "/chat", "old").await?.cache(), "hit");
    one.pass(Duration::from_millis(1_100)).await;
    let (asked, gate) = (ollama.count(CHAT), Gate::default());
    ollama.next_chat(Scripted::saying("young")?.behind(&gate));
    let wish = [("cache-control", "max-age=1")];
    let follow = async {
        ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
        let open = async {
            wait_for_audience(&setup, 1).await?;
            gate.open(1);
            anyhow::Ok(())
        };
        let (reply, opened) = futures::join!(two.post_to("/chat", question("old", false), &wish), open);
        opened?;
        reply
    };
    let (leader, follower) = futures::join!(one.post_to("/chat", question("old", false), &wish), follow);
    let (leader, follower) = (leader?, follower?);
    assert_eq!((leader.response(), follower.response()), ("young".into(), "young".into()));
    assert_eq!((leader.cache(), follower.cache()), ("miss", "coalesced"));
    assert_eq!(ollama.count(CHAT), asked + 1);
    Ok(())
}

async fn a_key_that_another_replica_is_busy_with_stands_for_that_alone(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup).await?);
    one.say("warm up").await?;
    let asked = ollama.count(CHAT);
    for (turn, path) in ["/chat", CHAT].into_iter().enumerate() {
        let gate = Gate::default();
        let headers = [("idempotency-key", "k")];
        ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
        let mut first = one.open_post(path, question("first", true), &headers).await?;
        hears(&mut first, "one ").await?;
        let conflict = two.post_to(path, question("second", true), &headers).await?;
        assert_eq!(conflict.status, 422, "{path}: {}", conflict.text());
        let mut again = two.open_post(path, question("first", true), &headers).await?;
        assert_eq!(again.header("x-cache"), "coalesced", "{path}");
        hears(&mut again, "one ").await?;
        gate.open(100);
        for reply in [first, again] {
            assert!(reply.rest().await?.text().contains("three"), "{path}");
        }
        assert_eq!(ollama.count(CHAT), asked + turn + 1, "{path}");
    }
    Ok(())
}

async fn a_client_that_leaves_stops_nobody_in_another_replica(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup).await?);
    one.say("warm up").await?;
    let asked = ollama.count(CHAT);
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("one two three four")?.gated(&gate));
    let mut leader = open(&*one, CHAT, "leaving").await?;
    hears(&mut leader, "one ").await?;
    let mut follower = open(&*two, CHAT, "leaving").await?;
    hears(&mut follower, "one ").await?;
    drop(leader);
    for word in ["two ", "three "] {
        gate.open(1);
        hears(&mut follower, word).await?;
    }
    gate.open(100);
    let rest = follower.rest().await?.text();
    assert!(rest.contains("four") && rest.contains("\"done\":true"), "{rest}");
    assert_eq!((ollama.count(CHAT), ollama.given_up()), (asked + 1, 0));
    assert_eq!(open(&*two, CHAT, "leaving").await?.header("x-cache"), "hit");
    Ok(())
}

async fn whoever_follows_a_replica_that_was_killed_asks_another_time(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup.clone()).await?);
    one.say("warm up").await?;
    let asked = ollama.count(CHAT);
    ollama.next_chat(Scripted::hang());
    let follow = async {
        ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
        let kill = async {
            wait_for_audience(&setup, 1).await?;
            assert_eq!(ollama.count(CHAT), asked + 1);
            anyhow::Ok(())
        };
        let mut replies = join_all([ask(&*two, "/chat", "lost"), ask(&*two, "/chat", "lost")]);
        tokio::select! {
            replies = &mut replies => bail!("answered by nobody: {replies:?}"),
            killed = kill => killed?,
        }
        anyhow::Ok(replies)
    };
    // The client of the one that is killed is no part of this.
    let mut leader = Box::pin(ask(&*one, "/chat", "lost"));
    let replies = tokio::select! {
        reply = &mut leader => bail!("answered by nobody: {reply:?}"),
        replies = follow => replies?,
    };
    drop(leader);
    drop(one);
    let replies = replies.await.into_iter().collect::<Result<Vec<_>>>()?;
    for reply in &replies {
        assert!(reply.response().starts_with("echo of lost #"), "{}", reply.text());
        assert_eq!(reply.body, replies[0].body);
    }
    assert_eq!(ollama.count(CHAT), asked + 2);
    Ok(())
}

async fn whoever_heard_a_part_of_a_replica_that_was_killed_hears_an_error(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    let three = form.start(setup.clone()).await?;
    three.say("warm up").await?;
    for path in ["/chat", CHAT] {
        let one = form.start(setup.clone()).await?;
        ollama.next_chat(Scripted::saying("one two three")?.gated(&Gate::default()));
        let mut leader = open(&*one, path, "lost").await?;
        hears(&mut leader, "one ").await?;
        let mut follower = open(&*three, path, "lost").await?;
        hears(&mut follower, "one ").await?;
        drop(one);
        let rest = follower.rest().await?.text();
        assert!(rest.contains("error") && !rest.contains("\"done\":true"), "{path}: {rest}");
        drop(leader);
    }
    Ok(())
}

over_redis! {
    replicas_ask_once_together_and_stream_live,
    replicas_ask_once_together_for_a_whole_answer,
    an_answer_in_the_other_form_keeps_nobody_from_asking_together,
    whoever_wants_a_younger_answer_than_there_is_asks_together,
    a_key_that_another_replica_is_busy_with_stands_for_that_alone,
    a_client_that_leaves_stops_nobody_in_another_replica,
    whoever_follows_a_replica_that_was_killed_asks_another_time,
    whoever_heard_a_part_of_a_replica_that_was_killed_hears_an_error,
}
