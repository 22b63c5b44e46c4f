//! Requests that are written oddly, and that Ollama reads: they take the same way as any other, and get its own words.

use http::StatusCode;
use serde_json::Value;

use crate::behaviors::{prelude::*, surfaces};

/// What may stand behind the object of a request.
const BEHIND: [&[u8]; 6] = [b"}", b"\0", b"\xff", b"{\"model\":\"other\"}", b"\n{\"stream\":true}\n", b"x"];

/// A body with something behind its object.
fn followed(body: &Value, behind: &[u8]) -> Vec<u8> {
    [body.to_string().as_bytes(), behind].concat()
}

async fn what_follows_a_request_is_not_looked_at(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    // One host alone has the model, so that a request whose model is not read gets to the other as well.
    first.has_models(&["qwen3:latest"]);
    let gateway = form.start(Setup::new([&first, &second]).set("CACHE_ENABLED", "false")).await?;
    for (path, _) in surfaces::QUESTIONS {
        for behind in BEHIND {
            let body = followed(&surfaces::question("llama3.2"), behind);
            let reply = gateway.request(Method::POST, path, body.clone(), &[]).await?;
            assert_eq!(reply.status, 200, "{path} {behind:?}: {}", reply.text());
            let asked = surfaces::questions(&second).pop().context(path)?;
            assert_eq!((&*asked.path, &*asked.body), (path, &*body), "{behind:?}");
        }
    }
    assert_eq!(surfaces::questions(&first).len(), 0);
    Ok(())
}

async fn the_history_goes_into_the_object_that_ollama_reads(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (index, behind) in BEHIND.into_iter().enumerate() {
        for path in [CHAT, "/v1/chat/completions", "/v1/messages"] {
            let session = format!("{path} {index}");
            let headers = [("x-paddock-session", &*session)];
            for message in ["on\u{e9}", "two"] {
                let mut body = surfaces::question("llama3.2");
                body["messages"][0]["content"] = message.into();
                let mut body = followed(&body, behind);
                // One byte of its text is no UTF-8.
                body.iter_mut().filter(|byte| **byte == 0xa9).for_each(|byte| *byte = b'X');
                let reply = gateway.request(Method::POST, path, body, &headers).await?;
                assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, "stored"), "{session}");
            }
            let asked = surfaces::questions(&ollama).pop().context("nothing is asked")?.messages();
            assert_eq!(asked.len(), 3, "{session}: {asked:?}");
            assert_eq!((&*asked[0], &*asked[2]), ("user: on\u{fffd}X", "user: two"), "{session}");
        }
    }
    Ok(())
}

/// Bodies that name no model that can be read.
const UNNAMED: [&str; 7] = [
    r#"{"stream":false}"#,
    r#"{"stream":false,"model":""}"#,
    r#"{"stream":false,"model":5}"#,
    r#"{"stream":false,"model":"no such name"}"#,
    "[]",
    "{",
    "null",
];

async fn who_names_no_model_gets_the_status_and_the_words_of_ollama(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    for (path, _) in surfaces::QUESTIONS {
        for status in [400, 404] {
            let refused = refusal(status)?;
            let words: Vec<u8> = refused.pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
            for host in &hosts {
                host.answers(path, refused.clone());
            }
            for body in UNNAMED {
                let reply = gateway.request(Method::POST, path, body, &[]).await?;
                assert_eq!(
                    (reply.status.as_u16(), reply.body.to_vec()),
                    (status, words.clone()),
                    "{path} {body}"
                );
            }
        }
    }
    Ok(())
}

async fn an_empty_model_falls_to_the_name_where_ollama_does_that(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.has_models(&["qwen3:latest"]);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    for body in [json!({"model": "", "name": "llama3.2"}), json!({"model": null, "name": "llama3.2:local"})] {
        second.next("/api/show", Scripted::recorded("06-show")?);
        let reply = gateway.post_to("/api/show", body, &[]).await?;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!((surfaces::questions(&first).len(), surfaces::questions(&second).len()), (0, 2));
    let reply = gateway.post_to("/api/show", json!({"model": "", "name": "nosuch"}), &[]).await?;
    assert_eq!(reply.status, StatusCode::NOT_FOUND, "{}", reply.text());
    assert!(reply.text().contains("nosuch"), "{}", reply.text());
    Ok(())
}

async fn whatever_asks_a_model_takes_a_place(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("HOST_PARALLEL", "1")).await?;
    let named = [
        "{\"model\":\"llama3.2\",\"model\":null,\"stream\":false}",
        "{\"model\":\" llama3.2:local \",\"stream\":false}}",
        "{\"MODEL\":\"llama3.2\",\"stream\":false}{\"model\":\"x\"}",
    ];
    for bodies in [&UNNAMED[..], &named] {
        let gate = Gate::default();
        ollama.chats(refusal(400)?.behind(&gate));
        let asked = ollama.count(CHAT);
        let watch = async {
            for done in 0..bodies.len() {
                gateway.until_fleet(|fleet| fleet["queue"]["waiting"] == bodies.len() - done - 1).await?;
                ollama.wait_for_requests(CHAT, asked + done + 1, PATIENCE).await?;
                assert_eq!(ollama.count(CHAT), asked + done + 1);
                gate.open(1);
            }
            anyhow::Ok(())
        };
        let ask = |body: &&'static str| gateway.request(Method::POST, CHAT, *body, &[]);
        let (replies, watched) = futures::join!(join_all(bodies.iter().map(ask)), watch);
        watched?;
        for reply in replies {
            assert_eq!(reply?.status, 400);
        }
    }
    Ok(())
}

async fn more_in_a_body_than_any_request_has_is_refused_in_the_words_of_each_surface(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let members = format!("{{\"model\":\"llama3.2\"{}}}", ",\"\":0".repeat(10_000));
    for (path, _) in surfaces::QUESTIONS {
        let reply = gateway.request(Method::POST, path, members.clone(), &[]).await?;
        assert_eq!(reply.status, 400, "{path}");
        let words = surfaces::told(path, &reply)?;
        assert!(words.contains("more than 4096 members"), "{path}: {words}");
    }
    let messages =
        format!("{{\"model\":\"llama3.2\",\"max_tokens\":9,\"messages\":[{{}}{}]}}", ",{}".repeat(100_000));
    for path in [CHAT, "/v1/chat/completions", "/v1/messages"] {
        let headers = [("x-paddock-session", "s")];
        let reply = gateway.request(Method::POST, path, messages.clone(), &headers).await?;
        assert_eq!(reply.status, 400, "{path}");
        let words = surfaces::told(path, &reply)?;
        assert!(words.contains("more than 65536 values"), "{path}: {words}");
        // Without a session it is Ollama's to say.
        assert_eq!(gateway.request(Method::POST, path, messages.clone(), &[]).await?.status, 200, "{path}");
    }
    Ok(())
}

async fn whoever_joins_a_flight_gets_the_form_that_it_asked_for(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, forms) in [
        (CHAT, [r#""stream":false,"stream":null"#, r#""stream":null,"stream":false"#]),
        ("/v1/chat/completions", [r#""stream":null,"stream":true"#, r#""stream":null"#]),
        ("/v1/messages", [r#""stream":null,"stream":true"#, r#""x":1"#]),
    ] {
        let body = |form: &str| {
            format!(
                r#"{{"model":"llama3.2","max_tokens":9,"temperature":0,"options":{{"temperature":0}},{form},"messages":[{{"role":"user","content":"{path}"}}]}}"#
            )
        };
        let [stream, whole] = forms.map(|form| gateway.request(Method::POST, path, body(form), &[]));
        let (stream, whole) = futures::join!(stream, whole);
        let (stream, whole) = (stream?, whole?);
        let kind = if path == CHAT { "application/x-ndjson" } else { "text/event-stream" };
        assert!(stream.header("content-type").starts_with(kind), "{path}: {}", stream.text());
        assert!(whole.header("content-type").starts_with("application/json"), "{path}: {}", whole.text());
        assert!(whole.json().is_object(), "{path}: {}", whole.text());
    }
    Ok(())
}

on_every_form! {
    what_follows_a_request_is_not_looked_at,
    the_history_goes_into_the_object_that_ollama_reads,
    who_names_no_model_gets_the_status_and_the_words_of_ollama,
    an_empty_model_falls_to_the_name_where_ollama_does_that,
    whatever_asks_a_model_takes_a_place,
    more_in_a_body_than_any_request_has_is_refused_in_the_words_of_each_surface,
    whoever_joins_a_flight_gets_the_form_that_it_asked_for,
}
