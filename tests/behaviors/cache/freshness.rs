//! How long an answer holds: for its time, until its model is pulled anew, and through an outage of the hosts.

use super::{ask, cache_control::wishing, cached, seeded, whole};
use crate::behaviors::prelude::*;

async fn an_answer_is_forgotten_when_its_time_has_passed(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_TTL", "1")).await?;
    assert_eq!(gateway.say("hello").await?.cache(), "miss");
    gateway.pass(Duration::from_millis(1100)).await;
    let reply = gateway.say("hello").await?;
    assert_eq!((reply.cache(), reply.response().as_str()), ("miss", "echo of hello #2"));
    Ok(())
}

/// A list of the one model, with this content.
fn tags(digest: &str) -> Result<Scripted> {
    let model = json!({"name": "llama3.2:latest", "model": "llama3.2:latest", "digest": digest, "size": 1});
    whole("04-tags", &json!({"models": [model]}))
}

async fn a_model_that_was_pulled_anew_is_asked_anew_and_an_outage_is_nothing_new(
    form: &dyn Form,
) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    hosts[0].lists(tags("aa")?);
    hosts[1].lists(tags("bb")?);
    let gateway = form.start(Setup::new(&hosts)).await?;
    gateway.look_at_all_hosts().await?;
    let again = Duration::from_millis(2500);
    let paths = ["/chat", CHAT, "/api/embed"];
    let mut first = Vec::new();
    for path in paths {
        first.push(ask(&*gateway, path, &seeded(false)).await?.body);
    }
    hosts[1].refuse().await;
    for _ in 0..2 {
        for (path, body) in paths.iter().zip(&first) {
            let hit = ask(&*gateway, path, &seeded(false)).await?;
            assert_eq!((hit.cache(), &hit.body), ("hit", body), "{path}");
        }
        // By then the hosts were asked what they have once more.
        gateway.pass(again).await;
    }
    hosts[0].lists(tags("cc")?);
    let started = Instant::now();
    // A hit until somebody has looked.
    while wishing(&*gateway, CHAT, "only-if-cached", &seeded(false)).await?.status == 200 {
        ensure!(started.elapsed() < PATIENCE, "still a hit");
        gateway.pass(Duration::from_millis(50)).await;
    }
    for path in paths {
        assert_eq!(cached(&*gateway, path, &seeded(false)).await?, "miss", "{path}");
        assert_eq!(cached(&*gateway, path, &seeded(false)).await?, "hit", "{path}");
    }
    Ok(())
}

async fn a_replica_that_begins_in_an_outage_finds_the_answers_of_before(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    hosts[0].lists(tags("aa")?);
    hosts[1].lists(tags("bb")?);
    let setup = Setup::new(&hosts);
    let first = form.start(setup.clone()).await?;
    first.look_at_all_hosts().await?;
    let answer = ask(&*first, "/chat", &seeded(false)).await?;
    hosts[1].refuse().await;
    let second = form.start(setup.clone()).await?;
    let hit = ask(&*second, "/chat", &seeded(false)).await?;
    assert_eq!((hit.cache(), &hit.body), ("hit", &answer.body));
    hosts[0].refuse().await;
    let third = form.start(setup).await?;
    let hit = ask(&*third, "/chat", &seeded(false)).await?;
    assert_eq!((hit.cache(), &hit.body), ("hit", &answer.body));
    Ok(())
}

on_every_store! {
    an_answer_is_forgotten_when_its_time_has_passed,
    a_model_that_was_pulled_anew_is_asked_anew_and_an_outage_is_nothing_new,
}

/// What replicas learn of hosts is in the store that they share.
mod outages {
    use super::a_replica_that_begins_in_an_outage_finds_the_answers_of_before;

    over_redis! {
        a_replica_that_begins_in_an_outage_finds_the_answers_of_before,
    }
}
