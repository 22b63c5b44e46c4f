//! Which answers are kept: those that are complete, say something, are no errors and are not too large.

use super::{EMBEDDING, ask, cached, seeded, whole, words};
use crate::behaviors::prelude::*;

async fn only_what_is_complete_and_says_something_is_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let mut number = 0;
    for path in ["/chat", CHAT] {
        for stream in [true, false] {
            let mut faults =
                vec![Scripted::crashed_in_stream()?, Scripted::cut()?, Scripted::unfinished(End::Clean)?];
            faults.extend([Scripted::stream("llama3.2", "", 0)?, refusal(500)?]);
            if path == CHAT && !stream {
                faults = vec![Scripted::single("llama3.2", "", 0)?, refusal(500)?, refusal(404)?];
                faults.push(
                    Scripted::single("llama3.2", "half", 0)?
                        .ending_after(1, End::Cut)
                        .in_pieces_of(20)
                        .ending_after(2, End::Cut),
                );
            }
            for fault in faults {
                number += 1;
                let mut body = seeded(stream);
                body["message"] = json!(format!("question {number}"));
                body["messages"] = json!([{"role": "user", "content": format!("question {number}")}]);
                ollama.next_chat(fault.clone());
                // It may break before its end.
                drop(gateway.post_to(path, body.clone(), &[]).await);
                let reply = ask(&*gateway, path, &body).await?;
                assert_eq!(reply.cache(), "miss", "{path} {stream} {fault:?}");
                assert!(words(path, &reply).starts_with(&format!("echo of question {number} #")), "{path}");
            }
        }
    }
    for (question, answer) in [
        ("a", json!({"error": "out of memory"})),
        ("b", json!({"embeddings": [], "embedding": [], "data": []})),
    ] {
        for path in EMBEDDING {
            let mut body = seeded(false);
            (body["input"], body["prompt"]) = (json!(question), json!(question));
            ollama.next(path, whole("18-embed-dimensions", &answer)?);
            drop(gateway.post_to(path, body.clone(), &[]).await);
            assert_eq!(cached(&*gateway, path, &body).await?, "miss", "{path}");
        }
    }
    Ok(())
}

async fn what_is_larger_than_is_kept_is_answered_and_not_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]);
    for (limit, expected) in [("10", "miss"), ("100KiB", "hit")] {
        let gateway = form.start(setup.clone().set("CACHE_MAX_ENTRY", limit)).await?;
        for path in ["/chat", CHAT, "/v1/chat/completions"] {
            for stream in [false, true] {
                let mut body = seeded(stream);
                body["message"] = json!(format!("one two three {limit} {stream}"));
                body["messages"] = json!([{"role": "user", "content": body["message"]}]);
                let first = ask(&*gateway, path, &body).await?;
                let said = words(path, &first);
                assert!(
                    said.starts_with(&format!("echo of one two three {limit} {stream} #")),
                    "{path}: {said}"
                );
                assert_eq!(cached(&*gateway, path, &body).await?, expected, "{path} {limit} {stream}");
            }
        }
    }
    Ok(())
}

async fn a_long_stream_is_kept_when_it_shrinks_to_what_is_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MAX_ENTRY", "8KiB")).await?;
    for path in ["/chat", CHAT] {
        ollama.next_chat(Scripted::saying(&"word ".repeat(200))?);
        let first = ask(&*gateway, path, &seeded(true)).await?;
        let hit = ask(&*gateway, path, &seeded(true)).await?;
        assert_eq!((hit.cache(), words(path, &hit)), ("hit", words(path, &first)), "{path}");
        assert!(path != CHAT || first.body.len() > 16 << 10, "{path} {}", first.body.len());
    }
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
    only_what_is_complete_and_says_something_is_kept,
    what_is_larger_than_is_kept_is_answered_and_not_kept,
    a_long_stream_is_kept_when_it_shrinks_to_what_is_kept,
    an_error_is_never_cached,
}
