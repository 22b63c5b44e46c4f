//! Single flight: many who ask the same at the same time get one answer, which is asked for once.

mod across_replicas;
mod bounds;
mod endings;
mod passing;
mod redis_pause;
mod repetitions;

use paddock_tests::gateway::Streamed;
use serde_json::Value;

use crate::behaviors::prelude::*;

/// How many ask at the same time.
const CROWD: usize = 8;

/// A question that `/chat` and `/api/chat` understand and the cache answers.
fn question(text: &str, stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": text}]);
    json!({"model": "llama3.2", "message": text, "messages": messages, "options": {"seed": 7}, "stream": stream})
}

async fn ask(gateway: &dyn Gateway, path: &str, text: &str) -> Result<Reply> {
    gateway.post_to(path, question(text, false), &[]).await
}

async fn open(gateway: &dyn Gateway, path: &str, text: &str) -> Result<Streamed> {
    gateway.open_post(path, question(text, true), &[]).await
}

/// The next line, which says `word`.
async fn hears(reply: &mut Streamed, word: &str) -> Result<String> {
    let mut before = String::new();
    loop {
        let line = reply.next_line().await?.with_context(|| format!("{word} is not said: {before}"))?;
        before.push_str(&line);
        before.push('\n');
        if line.contains(word) {
            return Ok(before);
        }
    }
}

/// What everybody gets: of `/chat` the last event alone says what the cache did.
fn told(body: &str) -> String {
    body.replace("\"cache\":\"miss\"", "\"cache\":\"coalesced\"")
}

/// How many of the replies came by each way.
fn ways<'a>(replies: impl IntoIterator<Item = &'a str>) -> Vec<(&'a str, usize)> {
    let mut replies: Vec<_> = replies.into_iter().collect();
    replies.sort_unstable();
    replies.chunk_by(PartialEq::eq).map(|ways| (ways[0], ways.len())).collect()
}

async fn many_who_ask_the_same_at_once_get_one_stream_live(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say("warm up").await?;
    for path in ["/chat", CHAT] {
        let asked = ollama.count(CHAT);
        let gate = Gate::default();
        ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
        let crowd = join_all((0..CROWD).map(|_| open(&*gateway, path, "together"))).await;
        let mut crowd = crowd.into_iter().collect::<Result<Vec<_>>>()?;
        // All have the first word while upstream holds the second.
        let mut bodies = Vec::new();
        for reply in &mut crowd {
            bodies.push(hears(reply, "one ").await?);
        }
        let found = ways(crowd.iter().map(|reply| reply.header("x-cache")));
        assert_eq!(found, [("coalesced", CROWD - 1), ("miss", 1)], "{path}");
        gate.open(1);
        // Whoever comes later hears all from the first word on.
        let mut late = open(&*gateway, path, "together").await?;
        assert_eq!(late.header("x-cache"), "coalesced", "{path}");
        let mut heard = hears(&mut late, "one ").await?;
        heard.push_str(&hears(&mut late, "two ").await?);
        gate.open(100);
        heard.push_str(&late.rest().await?.text());
        for (body, reply) in bodies.iter_mut().zip(crowd) {
            body.push_str(&reply.rest().await?.text());
            assert_eq!(told(body), told(&heard), "{path}");
        }
        assert!(heard.contains("three") && heard.contains("done"), "{path}: {heard}");
        assert_eq!(ollama.count(CHAT), asked + 1, "{path}");
        assert_eq!(open(&*gateway, path, "together").await?.header("x-cache"), "hit", "{path}");
    }
    Ok(())
}

async fn many_who_ask_the_same_at_once_get_one_whole_answer(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say("warm up").await?;
    for path in ["/chat", CHAT, "/api/embed"] {
        let upstream = if path == "/chat" { CHAT } else { path };
        let asked = ollama.count(upstream);
        let gate = Gate::default();
        let held = match path {
            "/chat" => Scripted::saying("one two")?,
            CHAT => Scripted::single("llama3.2", "one two", 1)?,
            _ => Scripted::recorded("16-embed")?,
        };
        ollama.next(upstream, held.behind(&gate));
        let mut body = question("together", false);
        body["input"] = json!("together");
        let crowd = join_all((0..CROWD).map(|_| gateway.post_to(path, body.clone(), &[])));
        let answer = async {
            ollama.wait_for_requests(upstream, asked + 1, PATIENCE).await?;
            gate.open(1);
            anyhow::Ok(())
        };
        let (crowd, answered) = futures::join!(crowd, answer);
        answered?;
        let crowd = crowd.into_iter().collect::<Result<Vec<_>>>()?;
        for reply in &crowd {
            assert_eq!((reply.status.as_u16(), &reply.body), (200, &crowd[0].body), "{path}");
        }
        // Whoever came when the answer was there already found it.
        let found =
            ways(crowd.iter().map(|reply| if reply.cache() == "hit" { "coalesced" } else { reply.cache() }));
        assert_eq!(found, [("coalesced", CROWD - 1), ("miss", 1)], "{path}");
        assert_eq!(ollama.count(upstream), asked + 1, "{path}");
    }
    Ok(())
}

async fn another_form_caller_or_question_is_another_flight(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say("warm up").await?;
    for path in ["/chat", CHAT] {
        let asked = ollama.count(CHAT);
        let gate = Gate::default();
        ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
        let mut first = open(&*gateway, path, "held").await?;
        hears(&mut first, "one ").await?;
        // None of these waits for the first.
        let whole = ask(&*gateway, path, "held").await?;
        assert_eq!(whole.cache(), "miss", "{path}");
        let other = open(&*gateway, path, "other").await?;
        assert_eq!(other.header("x-cache"), "miss", "{path}");
        assert!(other.rest().await?.text().contains("other "), "{path}");
        let caller = gateway.open_post(path, question("held", true), &[("x-api-key", "ann")]).await?;
        assert_eq!(caller.header("x-cache"), "miss", "{path}");
        assert!(!caller.rest().await?.text().contains("three"), "{path}");
        let fresh = gateway.open_post(path, question("held", true), &[("cache-control", "no-cache")]).await?;
        assert_eq!(fresh.header("x-cache"), "miss", "{path}");
        drop(fresh.rest().await?);
        assert_eq!(ollama.count(CHAT), asked + 5, "{path}");
        gate.open(100);
        assert!(first.rest().await?.text().contains("three"), "{path}");
    }
    Ok(())
}

async fn a_failure_is_everybodys(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say("warm up").await?;
    for path in ["/chat", CHAT] {
        let asked = ollama.count(CHAT);
        let gate = Gate::default();
        ollama.chats(refusal(400)?);
        ollama.next_chat(refusal(400)?.behind(&gate));
        let crowd = join_all((0..CROWD).map(|_| ask(&*gateway, path, "refused")));
        let answer = async {
            ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
            gate.open(1);
            anyhow::Ok(())
        };
        let (crowd, answered) = futures::join!(crowd, answer);
        answered?;
        let first = crowd.first().context("nobody")?.as_ref().map(Reply::text).unwrap_or_default();
        for reply in crowd {
            let reply = reply?;
            assert_eq!((reply.status.as_u16(), reply.text()), (400, first.clone()), "{path}");
        }
        ollama.recover();
        // What breaks off breaks off for all.
        let asked = ollama.count(CHAT);
        ollama.next_chat(Scripted::crashed_in_stream()?.gated(&gate));
        let crowd = join_all((0..CROWD).map(|_| open(&*gateway, path, "broken"))).await;
        let mut bodies = Vec::new();
        let mut rest = Vec::new();
        for reply in crowd {
            let mut reply = reply?;
            let first = reply.next_line().await?.context("no line")?;
            rest.push(async move { anyhow::Ok(format!("{first}\n{}", reply.rest().await?.text())) });
        }
        gate.open(1000);
        for body in join_all(rest).await {
            bodies.push(body?);
        }
        assert_eq!(ollama.count(CHAT), asked + 1, "{path}");
        assert!(bodies[0].contains("error"), "{path}: {}", bodies[0]);
        for body in &bodies {
            assert_eq!(body, &bodies[0], "{path}");
        }
        let again = open(&*gateway, path, "broken").await?;
        assert_eq!(again.header("x-cache"), "miss", "{path}");
        drop(again.rest().await?);
    }
    Ok(())
}

async fn whoever_leaves_stops_nobody_and_the_last_one_stops_upstream(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.loads(&["llama3.2:latest"]);
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say("warm up").await?;
    for (turn, path) in ["/chat", CHAT].into_iter().enumerate() {
        let gate = Gate::default();
        ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
        let mut leader = open(&*gateway, path, "leaving").await?;
        hears(&mut leader, "one ").await?;
        let mut follower = open(&*gateway, path, "leaving").await?;
        hears(&mut follower, "one ").await?;
        drop(leader);
        gate.open(1);
        hears(&mut follower, "two ").await?;
        let mut late = open(&*gateway, path, "leaving").await?;
        hears(&mut late, "two ").await?;
        gate.open(100);
        for reply in [follower, late] {
            assert_eq!(reply.header("x-cache"), "coalesced", "{path}");
            let rest = reply.rest().await?.text();
            assert!(rest.contains("three") && rest.contains("done"), "{path}: {rest}");
        }
        assert_eq!(open(&*gateway, path, "leaving").await?.header("x-cache"), "hit", "{path}");
        assert_eq!(ollama.given_up(), turn, "{path}");
        ollama.next_chat(Scripted::saying("one two three")?.gated(&Gate::default()));
        let mut crowd = Vec::new();
        for _ in 0..3 {
            let mut reply = open(&*gateway, path, "all leave").await?;
            hears(&mut reply, "one ").await?;
            crowd.push(reply);
        }
        while let Some(reply) = crowd.pop() {
            assert_eq!((ollama.given_up(), ollama.open_requests()), (turn, 1), "{path}");
            drop(reply);
        }
        ollama.wait_for_given_up(turn + 1, PATIENCE).await?;
        let again = open(&*gateway, path, "all leave").await?;
        assert_eq!(again.header("x-cache"), "miss", "{path}");
        drop(again.rest().await?);
    }
    Ok(())
}

async fn a_slow_one_holds_up_nobody_and_hears_that_it_fell_behind(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MAX_ENTRY", "512")).await?;
    let gate = Gate::default();
    let text = "word ".repeat(100);
    for path in ["/chat", CHAT] {
        ollama.next_chat(Scripted::saying(&format!("first {text}"))?.gated(&gate));
        let mut slow = open(&*gateway, path, "much").await?;
        hears(&mut slow, "first ").await?;
        let mut fast = open(&*gateway, path, "much").await?;
        hears(&mut fast, "first ").await?;
        assert_eq!((slow.header("x-cache"), fast.header("x-cache")), ("miss", "coalesced"));
        gate.open(1000);
        let all = fast.rest().await?.text();
        assert!(all.matches("word ").count() == 100 && all.contains("done"), "{path}: {all}");
        let some = slow.rest().await?.text();
        assert!(some.contains("error") && some.contains("too slowly"), "{path}: {some}");
        assert!(some.matches("word ").count() < 100, "{path}: {some}");
    }
    Ok(())
}

async fn who_may_not_know_why_a_host_was_chosen_is_not_told_by_whoever_may(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("CACHE_SCOPE", "shared").set("ADMIN_TOKEN", "the-admin");
    let gateway = form.start(setup).await?;
    gateway.say("warm up").await?;
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
    let admin = [("authorization", "Bearer the-admin"), ("x-paddock-explain", "1")];
    let mut first = gateway.open_post("/chat", question("why there?", true), &admin).await?;
    hears(&mut first, "one ").await?;
    let curious = [("x-paddock-explain", "1")];
    let mut second = gateway.open_post("/chat", question("why there?", true), &curious).await?;
    hears(&mut second, "one ").await?;
    assert!(!first.header("x-paddock-route").is_empty());
    assert_eq!((second.header("x-cache"), second.header("x-paddock-route")), ("coalesced", ""));
    gate.open(100);
    first.rest().await?;
    second.rest().await?;
    Ok(())
}

on_every_store! {
    who_may_not_know_why_a_host_was_chosen_is_not_told_by_whoever_may,
    many_who_ask_the_same_at_once_get_one_stream_live,
    many_who_ask_the_same_at_once_get_one_whole_answer,
    another_form_caller_or_question_is_another_flight,
    a_failure_is_everybodys,
}

mod leaving {
    use super::whoever_leaves_stops_nobody_and_the_last_one_stops_upstream;

    where_leaving_is_seen! {
        whoever_leaves_stops_nobody_and_the_last_one_stops_upstream,
    }
}

/// Elsewhere the buffers of sockets hold more than what is kept.
mod lagging {
    use super::a_slow_one_holds_up_nobody_and_hears_that_it_fell_behind;

    in_memory! {
        a_slow_one_holds_up_nobody_and_hears_that_it_fell_behind,
    }
}
