//! The response cache: when it answers, and above all when it must not.

use crate::behaviors::prelude::*;

async fn a_repeated_question_is_answered_from_the_cache(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let first = gateway.say("hello").await?;
    let second = gateway.say("hello").await?;
    assert_eq!((first.cache(), second.cache()), ("miss", "hit"));
    assert_eq!(first.json(), second.json());
    assert_eq!(ollama.count(CHAT), 1);
    // No host answered the second.
    assert_eq!(second.header("x-paddock-host"), "");
    Ok(())
}

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
    // A proxy that appends instead of replacing lets clients name themselves.
    let twice = asked(&[("x-forwarded-user", "ann"), ("x-forwarded-user", "bob")]).await?;
    assert_eq!(twice.0, "ambiguous_caller");
    Ok(())
}

async fn an_answer_is_forgotten_when_its_time_has_passed(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_TTL", "1")).await?;
    assert_eq!(gateway.say("hello").await?.cache(), "miss");
    gateway.pass(Duration::from_millis(1100)).await;
    let reply = gateway.say("hello").await?;
    assert_eq!((reply.cache(), reply.response().as_str()), ("miss", "echo of hello #2"));
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

async fn an_error_is_never_cached(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for status in [400, 404, 429, 500, 501, 502, 503, 504] {
        ollama.next_chat(refusal(status)?);
        let message = format!("question {status}");
        let failed = gateway.chat(json!({"message": message})).await?;
        assert_ne!(failed.status, 200, "{status}");
        assert_eq!(gateway.say(&message).await?.cache(), "miss", "{status}");
    }
    Ok(())
}

on_every_store! {
    a_repeated_question_is_answered_from_the_cache,
    what_can_change_the_answer_makes_it_another_question,
    the_same_last_question_under_another_history_misses,
    the_same_conversation_in_two_sessions_of_one_caller_is_one_question,
    a_caller_never_gets_what_another_caller_asked,
    a_trusted_header_names_the_caller_instead_of_credentials,
    an_answer_is_forgotten_when_its_time_has_passed,
    a_cache_that_is_off_is_passed_by,
    an_error_is_never_cached,
}
