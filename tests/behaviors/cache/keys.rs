//! Which questions are one to the cache: never those of two callers, nor two that any word or option tells apart.

use serde_json::Value;

use super::{CONVERSATIONS, cached, seeded};
use crate::behaviors::prelude::*;

async fn what_can_change_the_answer_makes_it_another_question(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say("hello").await?;
    for body in [
        json!({"message": "hello "}),
        json!({"message": "Hello"}),
        json!({"message": "hello", "model": "qwen3"}),
        json!({"message": "hello", "model": "llama3.2:latest"}),
    ] {
        let reply = gateway.chat(body.clone()).await?;
        assert_eq!((reply.outcome().0, reply.cache()), (200, "miss"), "{body}");
    }
    assert_eq!(gateway.say("hello").await?.cache(), "hit");
    Ok(())
}

async fn the_same_last_question_under_another_history_misses(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say("why?").await?;
    gateway.say_in("a", "the sky is blue").await?;
    gateway.say_in("b", "grass is green").await?;
    let (sky, grass) = (gateway.say_in("a", "why?").await?, gateway.say_in("b", "why?").await?);
    assert_eq!((sky.cache(), grass.cache()), ("miss", "miss"));
    assert_ne!(sky.response(), grass.response());
    Ok(())
}

async fn the_same_conversation_in_two_sessions_of_one_caller_is_one_question(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for session in ["a", "b"] {
        let first = gateway.say_in(session, "the sky is blue").await?;
        let second = gateway.say_in(session, "why?").await?;
        let expected = if session == "a" { "miss" } else { "hit" };
        assert_eq!((first.cache(), second.cache()), (expected, expected));
    }
    Ok(())
}

async fn a_caller_never_gets_what_another_caller_asked(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let callers: [&[(&str, &str)]; 6] = [
        &[],
        &[("authorization", "Bearer ann")],
        &[("authorization", "Bearer bob")],
        &[("x-api-key", "ann")],
        &[("x-api-key", "Bearer bob")],
        &[("api-key", "eve")],
    ];
    // The fifth sends what the third sends, by another name: it is the same credential.
    for (index, headers) in callers.iter().enumerate() {
        let reply = gateway.chat_with(json!({"message": "hello"}), headers).await?;
        let expected = if index == 4 { "hit" } else { "miss" };
        assert_eq!(reply.cache(), expected, "{headers:?}");
    }
    for headers in callers {
        let reply = gateway.chat_with(json!({"message": "hello"}), headers).await?;
        assert_eq!(reply.cache(), "hit", "{headers:?}");
    }
    assert_eq!(ollama.count(CHAT), 5);
    Ok(())
}

async fn a_trusted_header_names_the_caller_instead_of_credentials(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CALLER_HEADER", "X-Forwarded-User")).await?;
    let asked = async |headers: &[(&str, &str)]| {
        let reply = gateway.chat_with(json!({"message": "hello"}), headers).await?;
        anyhow::Ok((reply.outcome().1, reply.cache().to_owned()))
    };
    let (hit, miss) = (("ok".to_owned(), "hit".to_owned()), ("ok".to_owned(), "miss".to_owned()));
    assert_eq!(asked(&[("x-forwarded-user", "ann"), ("authorization", "Bearer 1")]).await?, miss);
    assert_eq!(asked(&[("x-forwarded-user", "ann"), ("authorization", "Bearer 2")]).await?, hit);
    assert_eq!(asked(&[("x-forwarded-user", "bob"), ("authorization", "Bearer 1")]).await?, miss);
    assert_eq!(asked(&[("authorization", "Bearer 1")]).await?, miss);
    assert_eq!(asked(&[("authorization", "Bearer 2")]).await?, hit);
    // No name that a proxy gives is the caller without a name, or the caller of a credential.
    assert_eq!(asked(&[("x-forwarded-user", "public")]).await?, miss);
    assert_eq!(asked(&[("x-forwarded-user", "Bearer 1")]).await?, miss);
    assert_eq!(asked(&[("x-forwarded-user", "")]).await?.0, "ambiguous_caller");
    // A proxy that appends instead of replacing lets clients name themselves.
    let twice = asked(&[("x-forwarded-user", "ann"), ("x-forwarded-user", "bob")]).await?;
    assert_eq!(twice.0, "ambiguous_caller");
    Ok(())
}

async fn callers_share_answers_where_the_operator_says_so(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    for (scope, second) in [("caller", "miss"), ("shared", "hit")] {
        let gateway = form.start(setup.clone().set("CACHE_SCOPE", scope)).await?;
        for path in ["/chat", CHAT, "/api/embed"] {
            for (caller, expected) in [("ann", "miss"), ("bob", second), ("ann", "hit")] {
                let reply = gateway.post_to(path, seeded(false), &[("x-api-key", caller)]).await?;
                assert_eq!(reply.cache(), expected, "{scope} {path} {caller}");
            }
        }
    }
    Ok(())
}

async fn whatever_differs_is_another_question_on_every_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MODE", "all")).await?;
    let tool = |name: &str| json!([{"type": "function", "name": name, "input_schema": {}, "function": {"name": name, "parameters": {}}}]);
    let said = |history: &str| json!([{"role": "user", "content": history}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "why?"}]);
    let system =
        |words: &str| json!([{"role": "system", "content": words}, {"role": "user", "content": "why?"}]);
    let image = |data: &str| json!([{"role": "user", "content": "why?", "images": [data]}]);
    let (base, pair) = (
        json!([{"role": "user", "content": "why?"}]),
        |path: &str, name: &str, value: Value| {
            let mut body = json!({"model": "llama3.2", "stream": false, "max_tokens": 9, "temperature": 0, "options": {"seed": 1}});
            if path == "/chat" {
                body = json!({"model": "llama3.2", "message": "why?", "options": {"seed": 1}});
            }
            body[name] = value;
            body
        },
    );
    for path in CONVERSATIONS {
        let mut bodies = vec![
            pair(path, "model", json!("qwen3")),
            pair(path, "options", json!({"seed": 2})),
            pair(path, "options", json!({"seed": 1, "top_k": 3})),
            pair(path, "tools", tool("a")),
            pair(path, "tools", tool("b")),
            pair(path, "system", json!("be brief")),
            pair(path, "system", json!("be long")),
        ];
        if path == "/chat" {
            bodies.push(pair(path, "images", json!(["aGVsbG8="])));
            bodies.push(pair(path, "images", json!(["aGFsbG8="])));
            bodies.push(pair(path, "think", json!(false)));
            bodies.push(pair(path, "format", json!("json")));
        } else {
            for body in &mut bodies {
                body["messages"] = base.clone();
            }
            for messages in [said("it is so"), said("it is not so"), image("aGVsbG8="), image("aGFsbG8=")] {
                bodies.push(pair(path, "messages", messages));
            }
            if path != "/v1/messages" {
                bodies.extend(
                    [system("be brief"), system("be long")].map(|messages| pair(path, "messages", messages)),
                );
            }
            bodies.push(pair(path, "messages", base.clone()));
        }
        let asked = ollama.requests().len();
        for body in &bodies {
            assert_eq!(cached(&*gateway, path, body).await?, "miss", "{path} {body}");
        }
        for body in &bodies {
            assert_eq!(cached(&*gateway, path, body).await?, "hit", "{path} {body}");
            for headers in [&[("x-api-key", "ann")][..], &[("authorization", "Bearer bob")]] {
                let reply = gateway
                    .post_to(path, body.clone(), &[headers, &[("cache-control", "only-if-cached")]].concat())
                    .await?;
                assert_eq!(reply.status, 504, "{path} {body} {headers:?}");
            }
        }
        let chats = ollama.requests().iter().skip(asked).filter(|request| request.method == "POST").count();
        assert_eq!(chats, bodies.len(), "{path}");
    }
    Ok(())
}

async fn the_order_within_tools_and_calls_is_a_part_of_the_question(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MODE", "all")).await?;
    let tool = |properties: &str| {
        let schema = format!(r#"{{"type":"object","properties":{properties}}}"#);
        format!(
            r#"[{{"type":"function","name":"f","input_schema":{schema},"function":{{"name":"f","parameters":{schema}}}}}]"#
        )
    };
    let (one, other) = (
        r#"{"a":{"type":"string"},"b":{"type":"string"}}"#,
        r#"{"b":{"type":"string"},"a":{"type":"string"}}"#,
    );
    for path in CONVERSATIONS {
        let body = |properties: &str| {
            let asked = r#""message":"why?","messages":[{"role":"user","content":"why?"}]"#;
            format!(
                r#"{{"model":"llama3.2","stream":false,"max_tokens":9,{asked},"tools":{}}}"#,
                tool(properties)
            )
        };
        for (properties, expected) in [(one, "miss"), (other, "miss"), (one, "hit"), (other, "hit")] {
            let reply = gateway.request(Method::POST, path, body(properties), &[]).await?;
            assert_eq!((reply.status.as_u16(), reply.cache()), (200, expected), "{path} {properties}");
        }
    }
    Ok(())
}

on_every_store! {
    the_order_within_tools_and_calls_is_a_part_of_the_question,
    what_can_change_the_answer_makes_it_another_question,
    the_same_last_question_under_another_history_misses,
    the_same_conversation_in_two_sessions_of_one_caller_is_one_question,
    a_caller_never_gets_what_another_caller_asked,
    a_trusted_header_names_the_caller_instead_of_credentials,
    callers_share_answers_where_the_operator_says_so,
    whatever_differs_is_another_question_on_every_surface,
}
