//! What several replicas over one Redis share of the fleet: whose turn it is, what is learnt of hosts, their places, and
//! the queue.

use std::sync::Arc;

use http::Request;
use paddock_tests::{http_client, redis_commands::Connection, redis_server::RedisServer};

use crate::behaviors::prelude::*;

fn waiting(count: usize) -> impl Fn(&serde_json::Value) -> bool {
    move |fleet| fleet["queue"]["waiting"] == count
}

async fn what_one_replica_learns_of_a_host_another_knows_at_once(form: &dyn Form) -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let setup = Setup::new([&ill, &well]).set("LB_POLICY", "round_robin");
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup).await?);
    ill.chats(refusal(503)?.with_header(http::header::RETRY_AFTER, "50"));
    assert_eq!(one.say("learn it").await?.header("x-paddock-host"), "2");
    for turn in 0..4 {
        assert_eq!(two.say(&format!("hello {turn}")).await?.header("x-paddock-host"), "2");
    }
    assert_eq!(ill.count(CHAT), 1);
    for replica in [one, two] {
        let breaker = replica.until_fleet(|_| true).await?["hosts"][0]["lanes"][0]["breaker"].clone();
        assert_eq!((&breaker["state"], &breaker["cause"]), (&json!("open"), &json!("busy")));
    }
    Ok(())
}

async fn replicas_share_the_places_of_a_host_and_the_queue(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("HOST_PARALLEL", "1");
    let replicas = [form.start(setup.clone()).await?, form.start(setup).await?];
    let [one, two] = replicas.each_ref().map(|replica| &**replica);
    let gate = Gate::default();
    ollama.chats(Scripted::saying("done")?.behind(&gate));
    let hot = |message: String| async move {
        one.chat_with(json!({ "message": message }), &[("x-api-key", "hot")]).await
    };
    let first = hot("hot 0".to_owned());
    let others = async {
        ollama.wait_for_requests(CHAT, 1, PATIENCE).await?;
        let hot = join_all((1..=5).map(|turn| hot(format!("hot {turn}"))));
        let cool = async {
            two.until_fleet(waiting(5)).await?;
            let cool = two.chat_with(json!({"message": "cool"}), &[("x-api-key", "cool")]);
            let serve = async {
                one.until_fleet(waiting(6)).await?;
                assert_eq!(ollama.count(CHAT), 1, "one place in all");
                for served in 2..=7 {
                    gate.open(1);
                    ollama.wait_for_requests(CHAT, served, PATIENCE).await?;
                }
                gate.open(1);
                anyhow::Ok(())
            };
            let (cool, served) = futures::join!(cool, serve);
            served.and(cool)
        };
        let (hot, cool) = futures::join!(hot, cool);
        hot.into_iter().chain([cool]).collect::<Result<Vec<_>>>()
    };
    let (first, others) = futures::join!(first, others);
    assert!(others?.iter().chain([&first?]).all(|reply| reply.status == 200));
    let asked: Vec<_> = ollama.chat_requests().iter().flat_map(Recorded::messages).collect();
    let place = asked.iter().position(|message| message == "user: cool");
    assert!(place.is_some_and(|place| place <= 2), "{asked:?}");
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

async fn the_place_of_a_replica_that_was_killed_is_free_when_its_lease_ends(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("HOST_PARALLEL", "1");
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup.clone()).await?);
    ollama.next_chat(Scripted::hang());
    let address = one.url().unwrap_or_default().trim_start_matches("http://").parse()?;
    let request = Request::post("/chat").body(json!({"message": "lost"}).to_string().into())?;
    let lost = tokio::spawn(http_client::open(address, request));
    ollama.wait_for_requests(CHAT, 1, PATIENCE).await?;
    // Its end is sudden: nothing is given back.
    drop(one);
    ollama.wait_for_given_up(1, PATIENCE).await?;
    assert!(lost.await?.is_err());
    let redis = Connection::open(&*RedisServer::shared()?).await?;
    let end = async {
        two.until_fleet(waiting(1)).await?;
        assert_eq!(ollama.count(CHAT), 1);
        for key in redis.run(&["KEYS", &format!("{}:*:leases", setup.prefix())]).await? {
            for lease in redis.run(&["ZRANGE", &key, "0", "-1"]).await? {
                redis.run(&["ZADD", &key, "XX", "1", &lease]).await?;
            }
        }
        anyhow::Ok(())
    };
    let (reply, ended) = futures::join!(two.say("next"), end);
    ended?;
    assert!(reply?.response().starts_with("echo of next"));
    assert_eq!(two.until_fleet(waiting(0)).await?["hosts"][0]["in_flight"], 0);
    Ok(())
}

async fn whoever_waits_when_the_store_goes_away_is_answered(form: &dyn Form) -> Result<()> {
    let redis = Arc::new(RedisServer::start()?);
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama])
        .redis(&redis)
        .set("HOST_PARALLEL", "1")
        .set("REDIS_TIMEOUT", "500ms")
        .set("REDIS_WRITE_TIMEOUT", "500ms");
    let gateway = form.start(setup).await?;
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("one two three")?.gated(&gate));
    let body = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "stream"}]});
    let mut stream = gateway.open_post(CHAT, body, &[]).await?;
    ensure!(stream.next_line().await?.is_some(), "no line");
    let stop = async {
        gateway.until_fleet(waiting(1)).await?;
        redis.stop()?;
        anyhow::Ok(())
    };
    let (reply, stopped) = futures::join!(gateway.say("waits"), stop);
    stopped?;
    assert!(reply?.response().starts_with("echo of waits"));
    gate.open(3);
    assert!(stream.rest().await?.text().contains("\"done\":true"));
    gateway.say("without").await?;
    redis.restart()?;
    gateway.until("s", |reply| reply.header("x-session") == "stored").await.map(drop)
}

over_redis! {
    replicas_take_turns_together,
    what_one_replica_learns_of_a_host_another_knows_at_once,
    replicas_share_the_places_of_a_host_and_the_queue,
    the_place_of_a_replica_that_was_killed_is_free_when_its_lease_ends,
    whoever_waits_when_the_store_goes_away_is_answered,
}
