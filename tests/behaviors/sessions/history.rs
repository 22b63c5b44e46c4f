//! Conversations: what is sent ahead of a message, what is kept, whose it is.

use crate::behaviors::prelude::*;

async fn the_history_goes_ahead_of_the_message(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say_in("s", "one").await?;
    gateway.say_in("s", "two").await?;
    gateway.say_in("other", "elsewhere").await?;
    gateway.say_in("s", "three").await?;
    assert_eq!(
        ollama.last_conversation(),
        ["user: one", "assistant: echo of one #1", "user: two", "assistant: echo of two #2", "user: three"]
    );
    Ok(())
}

async fn without_a_session_nothing_is_remembered(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say("one").await?;
    gateway.chat(json!({"message": "two", "session_id": ""})).await?;
    gateway.chat(json!({"message": "three", "session_id": null})).await?;
    assert_eq!(ollama.last_conversation(), ["user: three"]);
    Ok(())
}

async fn a_turn_that_the_cache_answered_is_remembered_as_well(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say("one").await?;
    let hit = gateway.say_in("s", "one").await?;
    assert_eq!((hit.cache(), hit.header("x-session")), ("hit", "stored"));
    gateway.say_in("s", "two").await?;
    assert_eq!(ollama.last_conversation(), ["user: one", "assistant: echo of one #1", "user: two"]);
    Ok(())
}

/// Sends so many turns at once, and counts them in the history afterwards.
async fn concurrent_turns_survive(form: &dyn Form, turns: usize) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let messages: Vec<_> = (0..turns).map(|turn| format!("turn {turn}")).collect();
    for reply in join_all(messages.iter().map(|message| gateway.say_in("s", message))).await {
        assert_eq!(reply?.header("x-session"), "stored");
    }
    gateway.say_in("s", "what did I say?").await?;
    let conversation = ollama.last_conversation();
    assert_eq!(conversation.len(), 2 * turns + 1, "{conversation:#?}");
    for message in messages {
        let place = conversation.iter().position(|said| *said == format!("user: {message}"));
        let answer = place.and_then(|place| conversation.get(place + 1)).cloned().unwrap_or_default();
        assert!(answer.starts_with(&format!("assistant: echo of {message} #")), "{conversation:#?}");
    }
    Ok(())
}

async fn two_turns_at_once_both_survive(form: &dyn Form) -> Result<()> {
    concurrent_turns_survive(form, 2).await
}

async fn sixteen_turns_at_once_all_survive(form: &dyn Form) -> Result<()> {
    concurrent_turns_survive(form, 16).await
}

async fn the_history_is_trimmed_to_its_messages_without_splitting_a_turn(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("HISTORY_MAX_MESSAGES", "5")).await?;
    for message in ["one", "two", "three", "four"] {
        gateway.say_in("s", message).await?;
    }
    assert_eq!(
        ollama.last_conversation(),
        [
            "user: two",
            "assistant: echo of two #2",
            "user: three",
            "assistant: echo of three #3",
            "user: four"
        ]
    );
    Ok(())
}

async fn the_history_is_trimmed_to_its_bytes_without_splitting_a_turn(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("HISTORY_MAX_BYTES", "1KiB")).await?;
    let long = "x".repeat(600);
    gateway.say_in("s", "short").await?;
    gateway.say_in("s", &long).await?;
    // The long turn alone exceeds the budget, and what is older than it must not come without it.
    gateway.say_in("s", "and now?").await?;
    assert_eq!(ollama.last_conversation(), ["user: and now?"]);
    gateway.say_in("s", "still?").await?;
    assert_eq!(
        ollama.last_conversation(),
        ["user: and now?", "assistant: echo of and now? #3", "user: still?"]
    );
    Ok(())
}

async fn the_history_is_trimmed_to_the_models_window_and_the_reply_says_so(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let texts = ["a", "b", "c"].map(|letter| letter.repeat(300));
    for text in &texts {
        let reply = gateway.say_in("s", text).await?;
        assert_eq!(reply.header("x-session-left-out"), "", "all of it has room");
    }
    // A quarter of the window is the answer's. By what the stand-in counts a turn is some 110 tokens.
    let options = json!({"num_ctx": 400});
    let body = json!({"message": "and now?", "session_id": "s", "options": options});
    let reply = gateway.chat(body).await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-session-left-out")), (200, "1"));
    assert_eq!(reply.json()["left_out"], 1);
    let said = ollama.last_conversation();
    assert_eq!((said.len(), &said[0]), (5, &format!("user: {}", texts[1])));
    let messages = json!([{"role": "user", "content": "and here?"}]);
    for (path, ask, left_out) in [
        (CHAT, json!({"options": {"num_ctx": 200}}), "2"),
        (CHAT, json!({"options": {"num_ctx": 4000}}), ""),
        // Ollama takes no options there: its least window has room for all.
        ("/v1/chat/completions", json!({"options": {"num_ctx": 200}}), ""),
    ] {
        let mut body = json!({"model": "llama3.2", "messages": messages, "stream": true});
        body["options"] = ask["options"].clone();
        let reply = gateway.post_to(path, body, &[("x-paddock-session", "s")]).await?;
        assert_eq!(
            (reply.status.as_u16(), reply.header("x-session-left-out")),
            (200, left_out),
            "{path} {ask}"
        );
    }
    Ok(())
}

async fn a_stream_says_in_its_last_event_how_many_turns_were_left_out(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let say = async |message: &str, accept: &str, num_ctx: u64| {
        let body =
            json!({"message": message, "session_id": "s", "stream": true, "options": {"num_ctx": num_ctx}});
        gateway.chat_with(body, &[("accept", accept)]).await
    };
    let long = "a".repeat(300);
    for (accept, num_ctx, left_out) in [
        ("text/event-stream", 4000, json!(null)),
        ("text/event-stream", 100, json!(1)),
        ("application/x-ndjson", 100, json!(2)),
        ("application/x-ndjson", 4000, json!(null)),
    ] {
        let reply = say(&long, accept, num_ctx).await?;
        let text = reply.text();
        let last = text.trim_end().lines().last().unwrap_or_default().trim_start_matches("data: ");
        let done: serde_json::Value = serde_json::from_str(last).with_context(|| text.clone())?;
        assert_eq!((&done["session"], &done["left_out"]), (&json!("stored"), &left_out), "{accept} {done}");
        let said = left_out.as_u64().map(|turns| turns.to_string()).unwrap_or_default();
        assert_eq!(reply.header("x-session-left-out"), said);
    }
    Ok(())
}

async fn a_foreign_session_is_an_empty_session_of_ones_own(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let say = async |message: &str, caller: &str| {
        let body = json!({"message": message, "session_id": "s"});
        gateway.chat_with(body, &[("x-api-key", caller)]).await
    };
    say("my secret is 42", "ann").await?;
    say("what is the secret?", "bob").await?;
    assert_eq!(ollama.last_conversation(), ["user: what is the secret?"]);
    gateway.say_in("s", "and for everybody?").await?;
    assert_eq!(ollama.last_conversation(), ["user: and for everybody?"]);
    say("what is my secret?", "ann").await?;
    assert_eq!(ollama.last_conversation().len(), 3);
    Ok(())
}

async fn a_session_is_forgotten_when_its_time_has_passed(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("SESSION_TTL", "1")).await?;
    gateway.say_in("s", "one").await?;
    gateway.pass(Duration::from_millis(1100)).await;
    gateway.say_in("s", "two").await?;
    assert_eq!(ollama.last_conversation(), ["user: two"]);
    Ok(())
}

async fn a_failed_turn_is_not_remembered(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for failure in [refusal(500)?, refusal(400)?, Scripted::cut()?, Scripted::crashed_in_stream()?] {
        ollama.next_chat(failure);
        let reply = gateway.chat(json!({"message": "one", "session_id": "s"})).await?;
        assert_ne!(reply.status, 200);
    }
    gateway.say_in("s", "two").await?;
    assert_eq!(ollama.last_conversation(), ["user: two"]);
    Ok(())
}

on_every_store! {
    the_history_goes_ahead_of_the_message,
    without_a_session_nothing_is_remembered,
    a_turn_that_the_cache_answered_is_remembered_as_well,
    two_turns_at_once_both_survive,
    sixteen_turns_at_once_all_survive,
    the_history_is_trimmed_to_its_messages_without_splitting_a_turn,
    the_history_is_trimmed_to_its_bytes_without_splitting_a_turn,
    the_history_is_trimmed_to_the_models_window_and_the_reply_says_so,
    a_stream_says_in_its_last_event_how_many_turns_were_left_out,
    a_foreign_session_is_an_empty_session_of_ones_own,
    a_session_is_forgotten_when_its_time_has_passed,
    a_failed_turn_is_not_remembered,
}
