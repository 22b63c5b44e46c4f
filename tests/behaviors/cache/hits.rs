//! What a hit says: the same bytes, in either form, and where it is wanted at the pace of a model.

use super::{EMBEDDING, SPOKEN, ask, asking, cached, seeded, words};
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

async fn what_is_wanted_the_same_again_is_answered_with_the_same_bytes(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let wishes = [
        json!({"seed": 7, "options": {"seed": 7}}),
        json!({"temperature": 0, "options": {"temperature": 0.0}}),
    ];
    for path in SPOKEN {
        for (index, wish) in
            wishes.iter().enumerate().filter(|(index, _)| path != "/v1/messages" || *index == 1)
        {
            for stream in [false, true] {
                // A word of its own, for an answer may serve the other form, too.
                let mut body = asking(stream, wish);
                let text = format!("one two {index} {stream}");
                body["prompt"] = json!(text);
                body["messages"] = json!([{"role": "user", "content": text}]);
                let (first, second) =
                    (ask(&*gateway, path, &body).await?, ask(&*gateway, path, &body).await?);
                assert_eq!((first.cache(), second.cache()), ("miss", "hit"), "{path} {body}");
                assert_eq!(first.body, second.body, "{path}");
                for name in ["content-type", "content-length"] {
                    assert_eq!(first.header(name), second.header(name), "{path}");
                }
                assert_eq!((first.header("age"), second.header("x-paddock-host")), ("", ""), "{path}");
                assert!(!second.header("age").is_empty(), "{path}");
            }
        }
    }
    for path in EMBEDDING {
        let body = asking(false, &json!({}));
        let (first, second) = (ask(&*gateway, path, &body).await?, ask(&*gateway, path, &body).await?);
        assert_eq!((first.cache(), second.cache(), &first.body), ("miss", "hit", &second.body), "{path}");
        assert_eq!(ollama.count(path), 1);
    }
    Ok(())
}

async fn one_answer_serves_both_forms_where_nothing_is_lost(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, first, expected) in [
        (CHAT, false, "hit"),
        (CHAT, true, "hit"),
        ("/api/generate", false, "hit"),
        ("/api/generate", true, "hit"),
        ("/v1/chat/completions", false, "hit"),
        ("/v1/chat/completions", true, "miss"),
        ("/v1/completions", false, "hit"),
        ("/v1/completions", true, "miss"),
        ("/v1/messages", false, "miss"),
        ("/v1/messages", true, "miss"),
        ("/v1/responses", false, "miss"),
        ("/v1/responses", true, "miss"),
        ("/chat", false, "hit"),
        ("/chat", true, "hit"),
    ] {
        let mut body = seeded(first);
        // Whoever asks another way asks another question.
        body["prompt"] = json!(format!("one two {first}"));
        body["message"] = body["prompt"].clone();
        body["input"] = body["prompt"].clone();
        body["messages"] = json!([{"role": "user", "content": body["prompt"]}]);
        assert_eq!(cached(&*gateway, path, &body).await?, "miss", "{path} {first}");
        body["stream"] = json!(!first);
        let other = ask(&*gateway, path, &body).await?;
        assert_eq!(other.cache(), expected, "{path} {first}");
        let said = words(path, &other);
        assert!(said.starts_with(&format!("echo of one two {first} #")), "{path} {first}: {said}");
        // What was built is what is built again, and what was asked anew is kept as well.
        assert_eq!(cached(&*gateway, path, &body).await?, "hit", "{path} {first}");
        // The first one is still there beside it.
        body["stream"] = json!(first);
        assert_eq!(cached(&*gateway, path, &body).await?, "hit", "{path} {first}");
    }
    Ok(())
}

/// The pieces of two replies to the same question, the second from the cache, and how long that took.
async fn streamed_twice(gateway: &dyn Gateway, path: &str) -> Result<([Vec<bytes::Bytes>; 2], Duration)> {
    let mut replies = [Vec::new(), Vec::new()];
    let mut time = Duration::ZERO;
    for (pieces, expected) in replies.iter_mut().zip(["miss", "hit"]) {
        let started = Instant::now();
        let mut reply = gateway.open_post(path, seeded(true), &[]).await?;
        assert_eq!(reply.header("x-cache"), expected, "{path}");
        while let Some(piece) = reply.next().await? {
            pieces.push(piece);
        }
        time = started.elapsed();
    }
    Ok((replies, time))
}

async fn a_streamed_hit_has_the_events_of_the_first_time(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in ["/chat"].into_iter().chain(SPOKEN) {
        let (replies, _) = streamed_twice(&*gateway, path).await?;
        let [first, second] = replies.map(|pieces| String::from_utf8_lossy(&pieces.concat()).into_owned());
        assert_eq!(first.replace("\"cache\":\"miss\"", "\"cache\":\"hit\""), second, "{path}");
        // Five words and the end.
        assert!(second.lines().count() > 5, "{path}: {second}");
    }
    Ok(())
}

async fn a_streamed_hit_can_be_paced(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_REPLAY_PAUSE", "40ms")).await?;
    for path in [CHAT, "/chat"] {
        let ([_, pieces], time) = streamed_twice(&*gateway, path).await?;
        assert!(pieces.len() >= 5, "{path}: {pieces:?}");
        assert!(time >= Duration::from_millis(5 * 40), "{path}: {time:?}");
    }
    Ok(())
}

on_every_store! {
    a_repeated_question_is_answered_from_the_cache,
    what_is_wanted_the_same_again_is_answered_with_the_same_bytes,
    one_answer_serves_both_forms_where_nothing_is_lost,
    a_streamed_hit_has_the_events_of_the_first_time,
}

/// In memory time passes by hand.
mod pacing {
    use super::a_streamed_hit_can_be_paced;

    over_http! {
        a_streamed_hit_can_be_paced,
    }
}
