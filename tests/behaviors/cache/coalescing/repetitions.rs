//! Repetitions under an `Idempotency-Key` whose answer was forgotten, at several replicas at once.

use super::across_replicas::wait_for_audience;
use crate::behaviors::{
    cache::{
        asking,
        purging::{TOKEN, purge},
        words,
    },
    prelude::*,
};

async fn what_was_forgotten_is_asked_for_by_one_replica_and_told_by_all(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("ADMIN_TOKEN", "the-admin").set("REDIS_TIMEOUT", "30");
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup.clone()).await?);
    for gateway in [&one, &two] {
        gateway.say("warm up").await?;
    }
    for path in ["/chat", CHAT] {
        for stream in [false, true] {
            let body = asking(
                stream,
                &json!({"message": "again", "messages": [{"role": "user", "content": "again"}]}),
            );
            let key = format!("{path} {stream}");
            let headers = [("idempotency-key", &*key)];
            assert_eq!(one.post_to(path, body.clone(), &headers).await?.cache(), "miss", "{path} {stream}");
            assert_eq!(purge(&*two, "", &TOKEN).await?.status, 204);
            let asked = ollama.count(CHAT);
            let gate = Gate::default();
            let held = if stream || path == "/chat" {
                Scripted::saying("at last")?
            } else {
                Scripted::single("llama3.2", "at last", 0)?
            };
            ollama.next_chat(held.behind(&gate));
            let first = one.post_to(path, body.clone(), &headers);
            let second = async {
                ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
                let second = two.post_to(path, body.clone(), &headers);
                let open = async {
                    wait_for_audience(&setup, 1).await?;
                    gate.open(1);
                    anyhow::Ok(())
                };
                let (second, opened) = futures::join!(second, open);
                opened?;
                second
            };
            let (first, second) = futures::join!(first, second);
            let (first, second) = (first?, second?);
            assert_eq!((words(path, &first), words(path, &second)), ("at last".into(), "at last".into()));
            assert_eq!((first.cache(), second.cache()), ("miss", "coalesced"), "{path} {stream}");
            assert_eq!(ollama.count(CHAT), asked + 1, "{path} {stream}");
        }
    }
    Ok(())
}

over_redis! {
    what_was_forgotten_is_asked_for_by_one_replica_and_told_by_all,
}
