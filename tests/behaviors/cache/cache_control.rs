//! What a client may wish of the cache, in `Cache-Control`.

use serde_json::Value;

use super::{ask, asking, seeded};
use crate::behaviors::prelude::*;

pub(super) async fn wishing(
    gateway: &dyn Gateway,
    path: &str,
    wish: &'static str,
    body: &Value,
) -> Result<Reply> {
    gateway.post_to(path, body.clone(), &[("cache-control", wish)]).await
}

async fn a_client_may_want_a_fresh_answer_which_is_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in ["/chat", CHAT] {
        let body = seeded(false);
        let old = ask(&*gateway, path, &body).await?;
        for wish in ["no-cache", "max-age=0"] {
            let fresh = wishing(&*gateway, path, wish, &body).await?;
            assert_eq!((fresh.cache(), fresh.header("age")), ("miss", ""), "{path} {wish}");
            assert_ne!(fresh.body, old.body, "{path} {wish}");
            let kept = ask(&*gateway, path, &body).await?;
            assert_eq!((kept.cache(), &kept.body), ("hit", &fresh.body), "{path} {wish}");
        }
    }
    Ok(())
}

async fn a_client_may_want_that_nothing_is_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in ["/chat", CHAT, "/api/embed"] {
        for stream in [false, true] {
            let body = seeded(stream);
            let secret = wishing(&*gateway, path, "no-store", &body).await?;
            assert_eq!((secret.status.as_u16(), secret.cache()), (200, "bypass"), "{path}");
            assert_eq!(wishing(&*gateway, path, "only-if-cached", &body).await?.status, 504, "{path}");
        }
        let kept = ask(&*gateway, path, &seeded(false)).await?;
        let other = wishing(&*gateway, path, "no-store", &seeded(false)).await?;
        assert_eq!((kept.cache(), other.cache()), ("miss", "bypass"), "{path}");
        let again = ask(&*gateway, path, &seeded(false)).await?;
        assert_eq!((again.cache(), &again.body), ("hit", &kept.body), "{path}");
    }
    Ok(())
}

async fn an_answer_may_be_too_old_for_a_client(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let age = |reply: &Reply| reply.header("age").parse::<u64>().context("no age");
    for path in ["/chat", CHAT] {
        let body = seeded(false);
        let old = ask(&*gateway, path, &body).await?;
        gateway.pass(Duration::from_millis(2100)).await;
        let hit = wishing(&*gateway, path, "max-age=3600", &body).await?;
        assert_eq!((hit.cache(), &hit.body), ("hit", &old.body), "{path}");
        assert!(age(&hit)? >= 2, "{path} {}", age(&hit)?);
        let cached = wishing(&*gateway, path, "only-if-cached, max-age=1", &body).await?;
        assert_eq!(cached.status, 504, "{path}");
        let young = wishing(&*gateway, path, "max-age=1", &body).await?;
        assert_eq!((young.cache(), young.header("age")), ("miss", ""), "{path}");
        let kept = ask(&*gateway, path, &body).await?;
        assert_eq!((kept.cache(), &kept.body), ("hit", &young.body), "{path}");
    }
    Ok(())
}

async fn a_client_may_want_the_cache_alone_to_answer(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in ["/chat", CHAT, "/v1/chat/completions", "/v1/messages", "/api/embed"] {
        for stream in [false, true] {
            let mut body = seeded(stream);
            body["message"] = json!(format!("only {stream}"));
            body["messages"] = json!([{"role": "user", "content": format!("only {stream}")}]);
            body["input"] = json!(format!("only {stream}"));
            let before = ollama.count(path);
            let none = wishing(&*gateway, path, "only-if-cached", &body).await?;
            assert_eq!((none.status.as_u16(), none.cache()), (504, "miss"), "{path}");
            if path == "/chat" || path.starts_with("/v1/chat") {
                assert_eq!(none.at("/error/code"), "not_cached", "{path}");
            }
            assert_eq!(ollama.count(path), before, "{path}");
            ask(&*gateway, path, &body).await?;
            let hit = wishing(&*gateway, path, "only-if-cached", &body).await?;
            assert_eq!((hit.status.as_u16(), hit.cache()), (200, "hit"), "{path}");
            assert!(!hit.header("age").is_empty(), "{path}");
        }
        // What is not looked up is not there.
        let tools = asking(false, &json!({"tools": [{"type": "function", "function": {"name": "f"}}]}));
        if path.starts_with("/v1/") || path == CHAT {
            assert_eq!(wishing(&*gateway, path, "only-if-cached", &tools).await?.status, 504, "{path}");
        }
    }
    Ok(())
}

on_every_store! {
    a_client_may_want_a_fresh_answer_which_is_kept,
    a_client_may_want_that_nothing_is_kept,
    an_answer_may_be_too_old_for_a_client,
    a_client_may_want_the_cache_alone_to_answer,
}
