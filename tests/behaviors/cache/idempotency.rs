//! Requests that say by their `Idempotency-Key` that they are the same as an earlier one.

use serde_json::Value;

use super::{
    CONVERSATIONS, asking,
    purging::{TOKEN, purge},
    words,
};
use crate::behaviors::prelude::*;

/// A request with this key in a session.
async fn repeat(gateway: &dyn Gateway, path: &str, key: &str, body: &Value) -> Result<Reply> {
    let session = if body["session_id"].is_null() { "s" } else { "" };
    let headers = [("idempotency-key", key), ("x-paddock-session", session)];
    gateway.post_to(path, body.clone(), &headers[..=usize::from(!session.is_empty())]).await
}

async fn a_repetition_asks_once_and_adds_one_turn(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    for mode in ["auto", "off"] {
        let gateway = form.start(setup.clone().set("CACHE_MODE", mode)).await?;
        for path in CONVERSATIONS {
            for stream in [false, true] {
                let asked = ollama.requests().len();
                let session = format!("{mode} {path} {stream}").replace(['/', ' '], "-");
                let headers = [("idempotency-key", "k"), ("x-paddock-session", &*session)];
                let body = asking(
                    stream,
                    &json!({"message": "once", "messages": [{"role": "user", "content": "once"}]}),
                );
                let first = gateway.post_to(path, body.clone(), &headers).await?;
                let second = gateway.post_to(path, body.clone(), &headers).await?;
                assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 200), "{path}");
                assert_eq!((first.cache(), second.cache()), ("miss", "hit"), "{mode} {path} {stream}");
                let told = |reply: &Reply| reply.text().replace("\"cache\":\"miss\"", "\"cache\":\"hit\"");
                assert_eq!(told(&first), told(&second), "{path}");
                if !stream {
                    assert_eq!(
                        (first.header("x-session"), second.header("x-session")),
                        ("stored", "stored"),
                        "{path}"
                    );
                }
                let next = asking(
                    false,
                    &json!({"message": "next", "messages": [{"role": "user", "content": "next"}]}),
                );
                gateway.post_to(path, next, &headers[1..]).await?;
                let posts: Vec<_> = ollama
                    .requests()
                    .into_iter()
                    .skip(asked)
                    .filter(|request| request.method == "POST")
                    .collect();
                assert_eq!(posts.len(), 2, "{mode} {path} {stream}");
                let conversation = posts.last().map(Recorded::messages).unwrap_or_default();
                assert_eq!(conversation.len(), 3, "{path}: {conversation:?}");
            }
        }
    }
    Ok(())
}

async fn a_repetition_follows_the_first_while_that_is_on_its_way(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MODE", "off")).await?;
    for path in ["/chat", CHAT] {
        for stream in [false, true] {
            let asked = ollama.count(CHAT);
            let gate = Gate::default();
            let body = asking(
                stream,
                &json!({"message": "slow", "messages": [{"role": "user", "content": "slow"}]}),
            );
            let held = if stream || path == "/chat" {
                Scripted::saying("at last")?
            } else {
                Scripted::single("llama3.2", "at last", 0)?
            };
            ollama.next_chat(held.behind(&gate));
            let key = format!("{path} {stream}");
            let first = repeat(&*gateway, path, &key, &body);
            let others = async {
                ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
                let mut reused = body.clone();
                reused["message"] = json!("another");
                reused["messages"] = json!([{"role": "user", "content": "another"}]);
                let conflict = repeat(&*gateway, path, &key, &reused).await?;
                assert_eq!(conflict.status, 422, "{path} {stream}: {}", conflict.text());
                let again = repeat(&*gateway, path, &key, &body);
                let open = async {
                    // Whoever repeats may be there or not when the answer comes.
                    tokio::task::yield_now().await;
                    gate.open(1);
                };
                anyhow::Ok(futures::join!(again, open).0?)
            };
            let (first, others) = futures::join!(first, others);
            let (first, second) = (first?, others?);
            assert_eq!(words(path, &first), "at last");
            assert_eq!(words(path, &second), "at last");
            assert!(["coalesced", "hit"].contains(&second.cache()), "{path} {}", second.cache());
            assert_eq!(ollama.count(CHAT), asked + 1, "{path} {stream}");
        }
    }
    gateway.say_in("s", "how many turns?").await?;
    let conversation = ollama.last_conversation();
    assert_eq!(conversation.iter().filter(|message| *message == "user: slow").count(), 4, "{conversation:?}");
    Ok(())
}

async fn a_key_of_a_repetition_stands_for_one_request_of_one_caller(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in CONVERSATIONS {
        let body = |text: &str| {
            asking(false, &json!({"message": text, "messages": [{"role": "user", "content": text}]}))
        };
        let ask =
            async |headers: &[(&str, &str)], text: &str| gateway.post_to(path, body(text), headers).await;
        let key = ("idempotency-key", "k");
        assert_eq!(ask(&[key], "hello").await?.cache(), "miss", "{path}");
        assert_eq!(ask(&[key], "hello").await?.cache(), "hit", "{path}");
        let reused = ask(&[key], "goodbye").await?;
        assert_eq!(reused.status, 422, "{path}");
        if path == "/chat" || path.starts_with("/v1/chat") {
            assert_eq!(reused.at("/error/code"), "idempotency_key_reused", "{path}");
        }
        let other = ask(&[key, ("x-api-key", "ann")], "goodbye").await?;
        assert_eq!((other.status.as_u16(), other.cache()), (200, "miss"), "{path}");
        assert!(words(path, &other).starts_with("echo of goodbye #"), "{path}");
        assert_eq!(ask(&[key, ("x-api-key", "ann")], "goodbye").await?.body, other.body, "{path}");
        // In another session it is another.
        assert_eq!(ask(&[key, ("x-paddock-session", "s")], "goodbye").await?.cache(), "miss", "{path}");
        // What changes nothing is none.
        let version = gateway.request(Method::GET, "/api/version", "", &[key]).await?;
        assert_eq!((version.status.as_u16(), version.cache()), (200, ""), "{path}");
        for wrong in [&*"k".repeat(256), ""] {
            let wrong = ask(&[("idempotency-key", wrong)], "hello").await?;
            assert_eq!(wrong.status, 400, "{path}");
        }
        assert_eq!(ask(&[("idempotency-key", &*"k".repeat(255))], "hello").await?.status, 200, "{path}");
    }
    Ok(())
}

async fn a_repetition_of_what_failed_asks_again(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for stream in [false, true] {
        let body = asking(stream, &json!({"session_id": format!("s{stream}")}));
        for fault in [refusal(500)?, Scripted::crashed_in_stream()?] {
            ollama.next_chat(fault);
            drop(repeat(&*gateway, "/chat", "k", &body).await?);
        }
        let reply = repeat(&*gateway, "/chat", "k", &body).await?;
        assert_eq!((reply.status.as_u16(), reply.cache()), (200, "miss"));
        assert_eq!(repeat(&*gateway, "/chat", "k", &body).await?.cache(), "hit");
    }
    assert_eq!(ollama.count(CHAT), 6);
    Ok(())
}

/// Asks for this under a key, whole or as a stream; gives what the cache did.
async fn repeated(gateway: &dyn Gateway, path: &str, key: &str, model: &str, stream: bool) -> Result<String> {
    let body = asking(
        stream,
        &json!({"model": model, "message": "hello", "messages": [{"role": "user", "content": "hello"}]}),
    );
    let reply = gateway.post_to(path, body, &[("idempotency-key", key)]).await?;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    Ok(reply.cache().to_owned())
}

async fn what_is_forgotten_is_forgotten_under_the_key_of_a_repetition_as_well(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let gateway = form.start(Setup::new([&ollama]).set("ADMIN_TOKEN", "the-admin")).await?;
    let gateway = gateway.as_ref();
    for path in ["/chat", CHAT] {
        let ask = async || {
            let mut caches = Vec::new();
            for model in ["llama3.2", "qwen3"] {
                caches.push(repeated(gateway, path, &format!("{model}{path}"), model, false).await?);
            }
            anyhow::Ok(caches)
        };
        assert_eq!(ask().await?, ["miss", "miss"], "{path}");
        assert_eq!(ask().await?, ["hit", "hit"], "{path}");
        assert_eq!(purge(gateway, "?model=QWEN3", &TOKEN).await?.status, 204);
        assert_eq!(ask().await?, ["hit", "miss"], "{path}");
        assert_eq!(ask().await?, ["hit", "hit"], "{path}");
        assert_eq!(purge(gateway, "", &TOKEN).await?.status, 204);
        assert_eq!(ask().await?, ["miss", "miss"], "{path}");
        assert_eq!(ask().await?, ["hit", "hit"], "{path}");
        let other = json!({"message": "other", "messages": [{"role": "user", "content": "other"}]});
        let key = format!("qwen3{path}");
        let reused = gateway.post_to(path, other, &[("idempotency-key", &*key)]).await?;
        assert_eq!(reused.status, 422, "{path}: the key still stands for one request");
    }
    Ok(())
}

async fn a_key_in_both_forms_at_once_asks_once(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let gateway = gateway.as_ref();
    for path in ["/chat", CHAT] {
        for stream in [true, false] {
            let asked = ollama.count(CHAT);
            let gate = Gate::default();
            let held = if stream || path == "/chat" {
                Scripted::saying("at last")?
            } else {
                Scripted::single("llama3.2", "at last", 0)?
            };
            let key = format!("{path} {stream}");
            let body = |stream| {
                asking(stream, &json!({"message": "slow", "messages": [{"role": "user", "content": "slow"}]}))
            };
            let headers = [("idempotency-key", &*key)];
            ollama.next_chat(held.behind(&gate));
            let first = gateway.post_to(path, body(stream), &headers);
            let second = async {
                ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
                let second = gateway.post_to(path, body(!stream), &headers).await;
                gate.open(1);
                second
            };
            let (first, second) = futures::join!(first, second);
            let (first, second) = (first?, second?);
            assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 409), "{path} {stream}");
            assert_eq!(ollama.count(CHAT), asked + 1, "{path} {stream}");
            // Afterwards its answer serves both.
            assert_eq!(
                gateway.post_to(path, body(!stream), &headers).await?.cache(),
                "hit",
                "{path} {stream}"
            );
        }
    }
    Ok(())
}

on_every_store! {
    what_is_forgotten_is_forgotten_under_the_key_of_a_repetition_as_well,
    a_key_in_both_forms_at_once_asks_once,
    a_repetition_asks_once_and_adds_one_turn,
    a_repetition_follows_the_first_while_that_is_on_its_way,
    a_key_of_a_repetition_stands_for_one_request_of_one_caller,
    a_repetition_of_what_failed_asks_again,
}
