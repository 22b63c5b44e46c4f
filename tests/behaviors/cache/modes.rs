//! Which questions the cache answers at all: what the operator sets, and what may differ each time.

use serde_json::Value;

use super::{SPOKEN, asking, cached};
use crate::behaviors::prelude::*;

async fn what_may_differ_each_time_is_asked_each_time(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let tools = json!([{"type": "function", "name": "f", "function": {"name": "f", "parameters": {}}}]);
    let bodies = [
        json!({}),
        json!({"temperature": 0.1, "options": {"temperature": 1}}),
        json!({"seed": null}),
        json!({"seed": 7, "temperature": 0, "options": {"seed": 7}, "tools": tools}),
    ];
    for path in SPOKEN {
        for more in &bodies {
            for _ in 0..2 {
                assert_eq!(cached(&*gateway, path, &asking(false, more)).await?, "bypass", "{path} {more}");
            }
        }
        assert_eq!(ollama.count(path), 8, "{path}");
    }
    Ok(())
}

async fn the_operator_says_what_is_cached(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let twice = async |setup: Setup, path: &str, more: Value| {
        let gateway = form.start(setup).await?;
        let body = asking(false, &more);
        let first = cached(&*gateway, path, &body).await?;
        anyhow::Ok((first, cached(&*gateway, path, &body).await?))
    };
    let set = |name: &str, value: &str| Setup::new([&ollama]).set(name, value);
    let of = |first: &str, second: &str| (first.to_owned(), second.to_owned());
    let (hit, bypass) = (of("miss", "hit"), of("bypass", "bypass"));
    let qwen = json!({"model": "qwen3", "seed": 1, "options": {"seed": 1}});
    for (setup, path, more, expected) in [
        (set("CACHE_MODE", "all"), CHAT, json!({}), &hit),
        (set("CACHE_MODE", "off"), "/chat", json!({}), &bypass),
        (set("CACHE_MODE", "off"), "/api/embed", json!({}), &bypass),
        (set("CACHE_MODELS", "qwen3=off"), CHAT, qwen.clone(), &bypass),
        (set("CACHE_MODELS", "qwen3=off"), "/chat", qwen.clone(), &bypass),
        (set("CACHE_MODELS", "llama3.2:latest=all"), CHAT, json!({}), &hit),
        (set("CACHE_MODE", "off").set("CACHE_MODELS", "qwen3=auto"), CHAT, qwen.clone(), &hit),
        (set("CACHE_MODELS", "qwen3=all").set("CACHE_ENABLED", "false"), CHAT, qwen, &bypass),
    ] {
        let settings = format!("{path} {more} {setup:?}");
        assert_eq!(&twice(setup, path, more).await?, expected, "{settings}");
    }
    Ok(())
}

async fn a_cache_that_is_off_is_passed_by(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_ENABLED", "false")).await?;
    for _ in 0..2 {
        assert_eq!(gateway.say("hello").await?.cache(), "bypass");
    }
    assert_eq!(ollama.count(CHAT), 2);
    // Sessions are another matter.
    assert_eq!(gateway.say_in("s", "hello").await?.header("x-session"), "stored");
    Ok(())
}

on_every_store! {
    what_may_differ_each_time_is_asked_each_time,
    the_operator_says_what_is_cached,
    a_cache_that_is_off_is_passed_by,
}
