//! The shapes in which answers come, and which of them are whole.

use crate::behaviors::prelude::*;

async fn an_answer_is_the_same_however_it_is_cut_into_pieces(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let text = "grüße an 熊猫 und 🦙 \"quoted\" \\ \u{1}\n";
    for size in [1, 2, 3, 7, 64, 100_000] {
        ollama.chats(Scripted::saying(text)?.in_pieces_of(size));
        let reply = gateway.say(&format!("hello {size}")).await?;
        assert_eq!(reply.response(), text, "{size}");
    }
    Ok(())
}

async fn one_object_without_a_line_end_is_an_answer(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    ollama.chats(Scripted::single("llama3.2", "all at once", 10)?);
    assert_eq!(gateway.say("hello").await?.response(), "all at once");
    Ok(())
}

async fn fields_that_are_new_or_absent_do_not_matter(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let line = "{\"message\":{\"content\":\"well\",\"thinking\":\"hm\"},\"new\":[{}]}\n\n{\"done\":true}\n";
    ollama.chats(Scripted::with_line(line)?);
    assert_eq!(gateway.say("hello").await?.response(), "well begunwell");
    Ok(())
}

async fn an_empty_answer_is_given_but_never_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    ollama.chats(Scripted::saying("")?);
    for _ in 0..2 {
        let reply = gateway.say_in("s", "hello").await?;
        assert_eq!((reply.response().as_str(), reply.cache()), ("", "miss"));
        assert_ne!(reply.header("x-session"), "stored");
    }
    ollama.recover();
    gateway.say_in("s", "again").await?;
    assert_eq!(ollama.last_conversation(), ["user: again"]);
    Ok(())
}

async fn an_answer_that_broke_off_is_never_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let ends = [End::Cut, End::Reset, End::Clean];
    for (index, end) in ends.into_iter().enumerate() {
        ollama.next_chat(Scripted::unfinished(end)?);
        let message = format!("hello {index}");
        let broken = gateway.chat(json!({"message": message})).await?;
        assert_eq!(broken.outcome(), (502, "upstream_protocol".to_owned()), "{end:?}");
        let whole = gateway.say(&message).await?;
        assert_eq!(whole.cache(), "miss", "{end:?}");
        assert!(whole.response().starts_with("echo of hello"), "{end:?}");
    }
    Ok(())
}

async fn an_endless_line_is_given_up(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let line = vec![b'x'; 17 << 20];
    ollama.next_chat(Scripted::with_line(line)?.in_pieces_of(1 << 16));
    let reply = gateway.chat(json!({"message": "hello"})).await?;
    assert_eq!(reply.outcome(), (502, "answer_too_long".to_owned()));
    assert_eq!(gateway.say("and now?").await?.status, 200);
    Ok(())
}

async fn a_long_answer_arrives_whole(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let text = "word ".repeat(20_000);
    ollama.chats(Scripted::saying(&text)?);
    assert_eq!(gateway.say("hello").await?.response(), text);
    assert_eq!(gateway.say("hello").await?.cache(), "hit");
    Ok(())
}

async fn many_chats_at_once_are_all_answered_and_never_mixed_up(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    let messages: Vec<_> = (0..16).map(|number| format!("question {number}")).collect();
    let replies = join_all(messages.iter().map(|message| gateway.say(message))).await;
    for (message, reply) in messages.iter().zip(replies) {
        let response = reply?.response();
        assert!(response.starts_with(&format!("echo of {message} #")), "{message}: {response}");
    }
    Ok(())
}

on_every_form! {
    an_answer_is_the_same_however_it_is_cut_into_pieces,
    one_object_without_a_line_end_is_an_answer,
    fields_that_are_new_or_absent_do_not_matter,
    an_empty_answer_is_given_but_never_kept,
    an_answer_that_broke_off_is_never_kept,
    an_endless_line_is_given_up,
    a_long_answer_arrives_whole,
    many_chats_at_once_are_all_answered_and_never_mixed_up,
}
