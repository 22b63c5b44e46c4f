//! Emptying the cache: at once, for all replicas, and only by whoever may.

use crate::behaviors::prelude::*;

pub(crate) const TOKEN: [(&str, &str); 1] = [("authorization", "Bearer the-admin")];

pub(crate) async fn purge(gateway: &dyn Gateway, query: &str, headers: &[(&str, &str)]) -> Result<Reply> {
    gateway.request(Method::DELETE, &format!("/cache{query}"), "", headers).await
}

/// Asks both models the same, and tells what the cache did.
async fn ask(gateway: &dyn Gateway) -> Result<[String; 2]> {
    let mut caches = Vec::new();
    for model in ["llama3.2", "qwen3"] {
        let reply = gateway.chat(json!({"message": "hello", "model": model})).await?;
        caches.push(reply.cache().to_owned());
    }
    Ok([caches.remove(0), caches.remove(0)])
}

async fn the_cache_is_emptied_at_once_of_all_or_of_one_model(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let gateway = form.start(Setup::new([&ollama]).set("ADMIN_TOKEN", "the-admin")).await?;
    let gateway = gateway.as_ref();
    assert_eq!(ask(gateway).await?, ["miss", "miss"]);
    assert_eq!(ask(gateway).await?, ["hit", "hit"]);
    assert_eq!(purge(gateway, "?model=QWEN3%3Alatest", &TOKEN).await?.status, 204);
    assert_eq!(ask(gateway).await?, ["hit", "miss"]);
    assert_eq!(ask(gateway).await?, ["hit", "hit"]);
    let emptied = purge(gateway, "", &TOKEN).await?;
    assert_eq!((emptied.status.as_u16(), emptied.body.len()), (204, 0));
    assert_eq!(ask(gateway).await?, ["miss", "miss"]);
    assert_eq!(ask(gateway).await?, ["hit", "hit"]);
    Ok(())
}

async fn nobody_without_the_token_empties_the_cache(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("ADMIN_TOKEN", "the-admin")).await?;
    gateway.say("hello").await?;
    for headers in [&[][..], &[("authorization", "Bearer other")]] {
        let refused = purge(gateway.as_ref(), "", headers).await?;
        assert_eq!(refused.outcome(), (403, "purge_forbidden".to_owned()));
    }
    assert_eq!(purge(gateway.as_ref(), "?model=", &TOKEN).await?.outcome(), (400, "empty_field".to_owned()));
    assert_eq!(gateway.say("hello").await?.cache(), "hit");
    // Where nobody has a token, nobody is an operator.
    let open = form.start(Setup::new([&ollama])).await?;
    assert_eq!(purge(open.as_ref(), "", &TOKEN).await?.status, 403);
    Ok(())
}

async fn an_answer_that_is_on_its_way_when_the_cache_is_emptied_is_not_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("ADMIN_TOKEN", "the-admin")).await?;
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("late")?.behind(&gate));
    let asking = gateway.say("hello");
    let emptying = async {
        ollama.wait_for_requests(CHAT, 1, PATIENCE).await?;
        let emptied = purge(gateway.as_ref(), "", &TOKEN).await?;
        gate.open(1);
        Ok::<_, anyhow::Error>(emptied)
    };
    let (asked, emptied) = futures::try_join!(asking, emptying)?;
    assert_eq!((asked.cache(), emptied.status.as_u16()), ("miss", 204));
    assert_eq!(gateway.say("hello").await?.cache(), "miss");
    Ok(())
}

on_every_store! {
    the_cache_is_emptied_at_once_of_all_or_of_one_model,
    nobody_without_the_token_empties_the_cache,
    an_answer_that_is_on_its_way_when_the_cache_is_emptied_is_not_kept,
}
