//! Bad input: each kind has its status and its stable code, and nothing of it reaches Ollama.

use crate::behaviors::prelude::*;

async fn each_kind_of_bad_body_has_its_code(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let long_id = "é".repeat(129);
    let with_long_id = json!({"message": "hi", "session_id": long_id}).to_string();
    let deep = format!("{{\"message\": {}", "[".repeat(100_000));
    for (body, code, param) in [
        ("", "invalid_json", ""),
        ("{", "invalid_json", ""),
        ("null", "invalid_json", ""),
        ("[]", "invalid_json", ""),
        ("[\"hello\", null, null]", "invalid_json", ""),
        ("\"hello\"", "invalid_json", ""),
        ("{\"message\": \"hi\"} trailing", "invalid_json", ""),
        ("message=hello", "invalid_json", ""),
        (&deep, "invalid_json", ""),
        ("{}", "missing_field", "message"),
        ("{\"message\": null}", "missing_field", "message"),
        ("{\"message\": \"\"}", "empty_field", "message"),
        ("{\"message\": \" \\n\\t\"}", "empty_field", "message"),
        ("{\"message\": 7}", "wrong_type", "message"),
        ("{\"message\": {\"text\": \"hi\"}}", "wrong_type", "message"),
        ("{\"message\": \"hi\", \"model\": 7}", "wrong_type", "model"),
        ("{\"message\": \"hi\", \"session_id\": 7}", "wrong_type", "session_id"),
        ("{\"message\": \"hi\", \"session_id\": \"a\\nb\"}", "invalid_session_id", "session_id"),
        ("{\"message\": \"hi\", \"session_id\": \"a\\u0000\"}", "invalid_session_id", "session_id"),
        ("{\"message\": \"hi\", \"session_id\": \"a\\u0085b\"}", "invalid_session_id", "session_id"),
        (&with_long_id, "invalid_session_id", "session_id"),
    ] {
        let reply = gateway.post(body.to_owned(), &[]).await?;
        let shown: String = body.chars().take(60).collect();
        assert_eq!(reply.outcome(), (400, code.to_owned()), "{shown}");
        assert_eq!(reply.at("/error/param"), param, "{shown}");
        assert_eq!(reply.at("/error/type"), "invalid_request_error", "{shown}");
        assert!(!reply.at("/error/message").is_empty(), "{shown}");
        assert_eq!(reply.header("content-type"), "application/json", "{shown}");
    }
    let not_text = gateway.post(&b"{\"message\": \"\xff\xfe\"}"[..], &[]).await?;
    assert_eq!(not_text.outcome(), (400, "invalid_json".to_owned()));
    assert_eq!(ollama.count(CHAT), 0);
    Ok(())
}

async fn a_session_id_of_128_characters_is_taken(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let id = "é".repeat(128);
    assert_eq!(gateway.say_in(&id, "hello").await?.at("/session_id"), id);
    Ok(())
}

async fn an_unknown_path_is_404(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in ["/chats", "/chat/more", "/v1/nothing", "/v1/modela/", "/..%2fmetrics", "/healthz"] {
        for method in [Method::GET, Method::POST] {
            let reply = gateway.request(method, path, "", &[]).await?;
            assert_eq!(reply.outcome(), (404, "not_found".to_owned()), "{path}");
        }
    }
    Ok(())
}

async fn a_wrong_method_is_405_and_names_the_right_ones(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (method, path, allow) in [
        (Method::GET, "/chat", "POST"),
        (Method::PUT, "/chat", "POST"),
        (Method::HEAD, "/chat", "POST"),
        (Method::OPTIONS, "/chat", "POST"),
        (Method::POST, "/health", "GET, HEAD"),
        (Method::POST, "/livez", "GET, HEAD"),
        (Method::DELETE, "/metrics", "GET, HEAD"),
    ] {
        let reply = gateway.request(method.clone(), path, "", &[]).await?;
        assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, allow), "{method} {path}");
        if method != Method::HEAD {
            assert_eq!(reply.at("/error/code"), "method_not_allowed", "{method} {path}");
        }
    }
    Ok(())
}

/// A body of exactly so many bytes.
fn body_of(length: usize) -> String {
    let empty = json!({"message": ""}).to_string().len();
    json!({"message": "x".repeat(length - empty)}).to_string()
}

/// The same in pieces whose sum nobody tells.
fn in_pieces(body: &str) -> Payload {
    Payload::Chunked(body.as_bytes().chunks(1000).map(bytes::Bytes::copy_from_slice).collect())
}

async fn a_body_over_the_limit_is_413_whether_it_tells_its_length_or_not(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("BODY_LIMIT", "4KiB")).await?;
    let (fits, exceeds) = (body_of(4096), body_of(4097));
    for body in [Payload::from(fits.clone()), in_pieces(&fits)] {
        assert_eq!(gateway.post(body, &[]).await?.status, 200);
    }
    for body in [Payload::from(exceeds.clone()), in_pieces(&exceeds), in_pieces(&body_of(200_000))] {
        let reply = gateway.post(body, &[]).await?;
        assert_eq!(reply.outcome(), (413, "body_too_large".to_owned()));
    }
    Ok(())
}

async fn the_limit_of_a_question_is_20_mib_unless_set(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.chats(Scripted::saying("yes")?);
    let gateway = form.start(Setup::new([&ollama])).await?;
    assert_eq!(gateway.post(body_of(20 << 20), &[]).await?.status, 200);
    let reply = gateway.post(body_of((20 << 20) + 1), &[]).await?;
    assert_eq!(reply.outcome(), (413, "body_too_large".to_owned()));
    assert!(reply.at("/error/message").contains("CHAT_BODY_LIMIT"), "{}", reply.text());
    Ok(())
}

async fn a_body_without_room_is_refused_at_once_and_leaves_its_room_to_the_next(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("MEMORY_BUDGET", "256KiB").set("CACHE_ENABLED", "false");
    let gateway = form.start(setup.in_one_instance()).await?;
    let gateway = gateway.as_ref();
    let asked = |length: usize| json!({"model": "llama3.2", "messages": [{"role": "user", "content": "x".repeat(length)}]});
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("late")?.behind(&gate));
    let others = async {
        ollama.wait_for_requests(CHAT, 1, PATIENCE).await?;
        for path in [CHAT, "/v1/chat/completions", "/v1/messages"] {
            let reply = gateway.post_to(path, asked(150_000), &[]).await?;
            assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, "1"), "{path}");
            assert!(reply.text().contains("MEMORY_BUDGET"), "{}", reply.text());
        }
        let reply = gateway.post(in_pieces(&body_of(150_000)), &[]).await?;
        assert_eq!(reply.outcome(), (503, "overloaded".to_owned()));
        assert_eq!(gateway.post(body_of(10_000), &[]).await?.status, 200);
        gate.open(1);
        anyhow::Ok(())
    };
    let (first, others) = futures::join!(gateway.post_to(CHAT, asked(150_000), &[]), others);
    others?;
    assert_eq!(first?.status, 200);
    assert_eq!(gateway.post_to(CHAT, asked(150_000), &[]).await?.status, 200);
    Ok(())
}

async fn a_body_that_never_finds_room_is_413(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("MEMORY_BUDGET", "128KiB")).await?;
    for body in [Payload::from(body_of(200_000)), in_pieces(&body_of(200_000))] {
        let reply = gateway.post(body, &[]).await?;
        assert_eq!(reply.outcome(), (413, "body_too_large".to_owned()));
        assert!(reply.at("/error/message").contains("MEMORY_BUDGET"), "{}", reply.text());
    }
    Ok(())
}

async fn a_multipart_body_is_415(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for content_type in ["multipart/form-data; boundary=x", "Multipart/Mixed; boundary=x"] {
        let body = json!({"message": "hello"}).to_string();
        let reply = gateway.post(body, &[("content-type", content_type)]).await?;
        assert_eq!(reply.outcome(), (415, "unsupported_media_type".to_owned()), "{content_type}");
    }
    Ok(())
}

on_every_form! {
    each_kind_of_bad_body_has_its_code,
    a_session_id_of_128_characters_is_taken,
    an_unknown_path_is_404,
    a_wrong_method_is_405_and_names_the_right_ones,
    a_body_over_the_limit_is_413_whether_it_tells_its_length_or_not,
    the_limit_of_a_question_is_20_mib_unless_set,
    a_body_without_room_is_refused_at_once_and_leaves_its_room_to_the_next,
    a_body_that_never_finds_room_is_413,
    a_multipart_body_is_415,
}
