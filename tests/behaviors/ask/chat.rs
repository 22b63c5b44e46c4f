//! The contract of `POST /chat` when all is well, and what every reply carries.

use crate::behaviors::prelude::*;

async fn a_chat_without_anything_else_has_the_default_model_and_no_session(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let reply = gateway.chat(json!({"message": "hello"})).await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json(), json!({"response": "echo of hello #1", "session_id": ""}));
    assert_eq!((reply.header("x-cache"), reply.header("x-session")), ("miss", ""));
    assert_eq!(reply.header("x-paddock-host"), "1");
    let asked = ollama.chat_requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].json(),
        json!({"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}], "stream": true})
    );
    Ok(())
}

async fn the_model_of_the_request_wins_over_the_default(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["qwen3:latest", "phi4:14b"]);
    let gateway = form.start(Setup::new([&ollama]).set("DEFAULT_MODEL", "qwen3")).await?;
    gateway.say("hello").await?;
    let reply = gateway.chat(json!({"message": "hello", "model": "phi4:14b"})).await?;
    assert_eq!(reply.outcome(), (200, "ok".to_owned()));
    let models: Vec<_> = ollama.chat_requests().iter().map(Recorded::model).collect();
    assert_eq!(models, ["qwen3", "phi4:14b"]);
    Ok(())
}

async fn the_session_id_is_given_back(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let reply = gateway.say_in("résumé \"1\"", "hello").await?;
    assert_eq!(reply.json(), json!({"response": "echo of hello #1", "session_id": "résumé \"1\""}));
    assert_eq!(reply.header("x-session"), "stored");
    Ok(())
}

async fn a_body_that_is_json_is_taken_whatever_it_is_called(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let types = ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-8", ""];
    for (index, content_type) in types.into_iter().enumerate() {
        let body = json!({"message": format!("hello {index}"), "unknown": {"field": [1]}}).to_string();
        let headers = [("content-type", content_type)];
        let headers = if content_type.is_empty() { &[][..] } else { &headers[..] };
        let reply = gateway.post(body, headers).await?;
        assert_eq!(reply.outcome(), (200, "ok".to_owned()), "{content_type}");
    }
    Ok(())
}

async fn a_body_in_pieces_is_a_body(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let pieces = ["{\"mess", "age\": \"hel", "lo\"}"].map(bytes::Bytes::from);
    let reply = gateway.post(Payload::Chunked(pieces.to_vec()), &[]).await?;
    assert_eq!(reply.response(), "echo of hello #1");
    Ok(())
}

async fn every_request_has_an_id_which_a_client_may_choose(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let id = |reply: &Reply| reply.header("x-request-id").to_owned();
    let body = json!({"message": "hello"});
    let chosen = gateway.chat_with(body.clone(), &[("x-request-id", "order-66.a:b_c")]).await?;
    assert_eq!(id(&chosen), "order-66.a:b_c");
    let long = "x".repeat(129);
    let mut made = Vec::new();
    for unusable in ["", "two words", "semi;colon", long.as_str()] {
        made.push(id(&gateway.chat_with(body.clone(), &[("x-request-id", unusable)]).await?));
    }
    // An error has one too, and so have the other routes.
    made.push(id(&gateway.chat(json!({})).await?));
    for path in ["/health", "/livez", "/metrics"] {
        made.push(id(&gateway.get(path).await?));
    }
    let count = made.len();
    assert!(
        made.iter().all(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())),
        "{made:?}"
    );
    made.sort();
    made.dedup();
    assert_eq!(made.len(), count, "two requests have one id");
    Ok(())
}

async fn every_complete_reply_tells_its_length(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let mut replies = vec![
        gateway.say("hello").await?,
        gateway.say("hello").await?,
        gateway.chat(json!({})).await?,
        gateway.chat(json!({"message": "hello", "model": "absent"})).await?,
        gateway.request(Method::DELETE, "/chat", "", &[]).await?,
    ];
    for path in ["/health", "/livez", "/metrics", "/nothing/here"] {
        replies.push(gateway.get(path).await?);
    }
    for reply in replies {
        assert_eq!(reply.header("content-length"), reply.body.len().to_string(), "{reply:?}");
        assert_eq!(reply.header("transfer-encoding"), "", "{reply:?}");
    }
    // What we send upstream tells it as well: some servers take nothing else.
    let asked = ollama.chat_requests();
    let length = asked[0].headers.get("content-length").map(|value| value.as_bytes().to_vec());
    assert_eq!(length, Some(asked[0].body.len().to_string().into_bytes()));
    Ok(())
}

async fn head_answers_like_get_without_the_body(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in ["/health", "/livez", "/metrics", "/nothing/here"] {
        let get = gateway.get(path).await?;
        let head = gateway.request(Method::HEAD, path, "", &[]).await?;
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{path}");
    }
    Ok(())
}

on_every_form! {
    a_chat_without_anything_else_has_the_default_model_and_no_session,
    the_model_of_the_request_wins_over_the_default,
    the_session_id_is_given_back,
    a_body_that_is_json_is_taken_whatever_it_is_called,
    a_body_in_pieces_is_a_body,
    every_request_has_an_id_which_a_client_may_choose,
    every_complete_reply_tells_its_length,
    head_answers_like_get_without_the_body,
}
