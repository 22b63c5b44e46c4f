//! Several replicas over one Redis are one service: they share answers, the turns of sessions and an emptied cache.

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
    turns_of_two_replicas_in_one_session_all_survive,
}
