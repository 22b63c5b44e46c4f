//! How each surface that Ollama speaks says that something is wrong, and what every reply, good or bad, says of its way.

use http::header;
use serde_json::Value;

use crate::behaviors::{
    prelude::*,
    surfaces::{QUESTIONS, question, questions, told},
};

/// Those whose answers can come in pieces.
const STREAMED: [&str; 6] =
    [CHAT, "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"];

fn streamed(model: &str) -> Value {
    let mut question = question(model);
    question["stream"] = true.into();
    question
}

/// The status, and what clients of the surface tell errors by: `type`, which Ollama's own surfaces do not have.
#[track_caller]
fn check(path: &str, reply: &Reply, status: u16, openai: &str, anthropic: &str) -> String {
    let words = told(path, reply).unwrap();
    let kind = match path {
        "/v1/messages" => anthropic,
        _ if path.starts_with("/api/") => "",
        _ => openai,
    };
    assert_eq!((reply.status.as_u16(), &*reply.at("/error/type")), (status, kind), "{path}: {words}");
    words
}

async fn every_reply_tells_its_way(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.refuse().await;
    let gateway = form.start(Setup::new([&first, &second]).set("CACHE_MODE", "off")).await?;
    for (path, _) in QUESTIONS {
        for body in [question("llama3.2"), streamed("llama3.2")] {
            let reply = gateway.post_to(path, body.clone(), &[("x-request-id", "my-id:1")]).await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-request-id")), (200, "my-id:1"), "{path}");
            assert_eq!(reply.header("x-paddock-host"), "2", "{path}");
            assert_eq!(reply.cache(), if path == "/api/show" { "" } else { "bypass" }, "{path}");
            let is_anthropic = path == "/v1/messages";
            assert_eq!(reply.header("request-id"), if is_anthropic { "my-id:1" } else { "" }, "{path}");
            let is_streamed = body["stream"] == true && STREAMED.contains(&path);
            let length = if is_streamed { String::new() } else { reply.body.len().to_string() };
            assert_eq!(reply.header("content-length"), length, "{path}");
            assert_eq!(reply.header("cache-control"), if is_streamed { "no-cache" } else { "" }, "{path}");
        }
        let unnamed = gateway.post_to(path, question("llama3.2"), &[("x-request-id", "no id")]).await?;
        assert_eq!(unnamed.header("x-request-id").len(), 32, "{path}");
    }
    Ok(())
}

async fn an_error_tells_its_way_as_well(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MODE", "off")).await?;
    for (path, _) in QUESTIONS {
        ollama.answers(path, refusal(400)?);
        let reply = gateway.post_to(path, question("llama3.2"), &[("x-request-id", "my-id")]).await?;
        assert_eq!((reply.status.as_u16(), reply.header("x-request-id")), (400, "my-id"), "{path}");
        assert_eq!(reply.header("x-paddock-host"), "1", "{path}");
        assert_eq!(reply.cache(), if path == "/api/show" { "" } else { "bypass" }, "{path}");
        ollama.answers(path, refusal(503)?);
        let reply = gateway.post_to(path, question("llama3.2"), &[]).await?;
        assert_eq!((reply.status.as_u16(), reply.header("x-paddock-host")), (503, ""), "{path}");
        assert_eq!(reply.cache(), if path == "/api/show" { "" } else { "bypass" }, "{path}");
    }
    Ok(())
}

async fn a_wrong_key_is_refused_in_the_words_of_the_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    for path in QUESTIONS.map(|(path, _)| path).into_iter().chain(["/api/tags", "/v1/models", "/api/version"])
    {
        let reply = gateway.post_to(path, question("llama3.2"), &[("x-api-key", "beta")]).await?;
        check(path, &reply, 401, "authentication_error", "authentication_error");
        assert_eq!(reply.header("www-authenticate"), "Bearer", "{path}");
    }
    assert!(questions(&ollama).is_empty());
    assert_eq!(gateway.post_to(CHAT, question("llama3.2"), &[("x-api-key", "alpha")]).await?.status, 200);
    Ok(())
}

async fn a_wrong_method_names_the_right_one_in_the_words_of_the_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let lists = ["/api/tags", "/api/ps", "/api/version", "/v1/models", "/v1/models/llama3.2"];
    let cases = QUESTIONS.map(|(path, _)| (Method::GET, path, "POST"));
    let cases = cases.into_iter().chain(lists.map(|path| (Method::POST, path, "GET, HEAD")));
    for (method, path, allow) in cases {
        let reply = gateway.request(method, path, "", &[]).await?;
        check(path, &reply, 405, "invalid_request_error", "invalid_request_error");
        assert_eq!(reply.header("allow"), allow, "{path}");
    }
    assert!(questions(&ollama).is_empty());
    Ok(())
}

async fn a_body_over_its_limit_names_the_setting_of_its_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let mut setup = Setup::new([&ollama]).set("BODY_LIMIT", "1KiB");
    for setting in ["API_BODY_LIMIT", "OPENAI_BODY_LIMIT", "ANTHROPIC_BODY_LIMIT"] {
        setup = setup.set(setting, "2KiB");
    }
    let gateway = form.start(setup).await?;
    for (path, setting) in QUESTIONS {
        let limit = if setting == "BODY_LIMIT" { 1024 } else { 2048 };
        let (mut fits, text) = (question("llama3.2"), question("llama3.2").to_string());
        fits["padding"] = "x".repeat(limit - text.len() - r#","padding":"""#.len()).into();
        assert_eq!(gateway.post_to(path, fits.clone(), &[]).await?.status, 200, "{path}");
        let asked = questions(&ollama).len();
        let exceeds = Payload::from(fits.to_string() + " ");
        let reply = gateway.request(Method::POST, path, exceeds, &[]).await?;
        let words = check(path, &reply, 413, "invalid_request_error", "request_too_large");
        assert!(words.contains(&format!("{limit} bytes, the limit that {setting} sets")), "{path}: {words}");
        assert_eq!(questions(&ollama).len(), asked, "{path}");
    }
    Ok(())
}

async fn what_is_packed_or_in_parts_is_refused_in_the_words_of_the_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, _) in QUESTIONS {
        for (name, value) in [
            ("content-encoding", "gzip"),
            ("content-encoding", "br"),
            ("content-type", "multipart/form-data; boundary=x"),
        ] {
            let body = question("llama3.2").to_string();
            let reply = gateway.request(Method::POST, path, body, &[(name, value)]).await?;
            let words = check(path, &reply, 415, "invalid_request_error", "invalid_request_error");
            assert!(
                words.contains(if name == "content-type" { "multipart" } else { "Content-Encoding" }),
                "{words}"
            );
        }
        let plain = [("content-encoding", "identity"), ("content-type", "text/plain")];
        let body = question("llama3.2").to_string();
        assert_eq!(gateway.request(Method::POST, path, body, &plain).await?.status, 200, "{path}");
    }
    assert_eq!(questions(&ollama).len(), QUESTIONS.len());
    Ok(())
}

async fn when_no_host_can_answer_each_surface_says_so_in_its_words(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let setup = || {
        let setup = Setup::new([&first, &second]).set("CONNECT_TIMEOUT", "1");
        setup.set("TOTAL_TIMEOUT", "500ms").set("FIRST_BYTE_TIMEOUT", "500ms")
    };
    for (fault, status, anthropic) in [
        (refusal(502)?, 502, "api_error"),
        (refusal(503)?, 503, "overloaded_error"),
        (refusal(429)?.with_header(header::RETRY_AFTER, "7"), 503, "overloaded_error"),
        (Scripted::hang(), 504, "timeout_error"),
    ] {
        let retry_after = match (status, fault.headers.contains_key(header::RETRY_AFTER)) {
            (503, true) => "7",
            (503, false) => "1",
            _ => "",
        };
        for (path, _) in QUESTIONS {
            first.answers(path, fault.clone());
            second.answers(path, fault.clone());
        }
        // Of each fault something would be learnt that changes the next.
        let gateway = form.start(setup()).await?;
        let ask = async |path: &'static str, body: Value| (path, gateway.post_to(path, body, &[]).await);
        let questions = QUESTIONS.map(|(path, _)| ask(path, question("llama3.2")));
        let streams = STREAMED.map(|path| ask(path, streamed("llama3.2")));
        for (path, reply) in join_all(questions.into_iter().chain(streams)).await {
            let reply = reply?;
            check(path, &reply, status, "api_error", anthropic);
            assert_eq!(reply.header("retry-after"), retry_after, "{path}");
        }
    }
    first.refuse().await;
    second.refuse().await;
    let gateway = form.start(setup()).await?;
    for (path, _) in QUESTIONS {
        let reply = gateway.post_to(path, question("llama3.2"), &[]).await?;
        check(path, &reply, 502, "api_error", "api_error");
    }
    Ok(())
}

async fn a_missing_model_is_named_with_those_there_are_in_the_words_of_the_surface(
    form: &dyn Form,
) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    second.has_models(&["qwen3:4b"]);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    let missing = |words: &str| {
        assert!(words.contains("'mistral'") && words.contains("ollama pull mistral"), "{words}");
        assert!(words.contains("qwen3:4b, llama3.2:latest"), "nearest first: {words}");
    };
    for (turn, (path, _)) in QUESTIONS.into_iter().enumerate() {
        let turn = QUESTIONS.iter().take(turn).filter(|(before, _)| *before == path).count();
        for body in [question("mistral"), streamed("mistral")] {
            let reply = gateway.post_to(path, body, &[]).await?;
            missing(&check(path, &reply, 404, "not_found_error", "not_found_error"));
        }
        assert_eq!((first.count(path), second.count(path)), (0, turn), "{path}: no host is asked for it");
        let found = gateway.post_to(path, question("qwen3:4b"), &[]).await?;
        assert_eq!((found.status.as_u16(), found.header("x-paddock-host")), (200, "2"), "{path}");
    }
    let path = "/v1/models/mistral";
    missing(&check(path, &gateway.get(path).await?, 404, "not_found_error", ""));
    Ok(())
}

/// The refusals of both hosts for every question: how often both were asked together, and whether the words came back.
async fn refused_everywhere(form: &dyn Form, status: u16, attempts: usize) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    let said = refusal(status)?;
    let body: Vec<_> = said.pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
    for (path, _) in QUESTIONS {
        // A gateway of its own, so that one surface does not use up what the budget leaves for another.
        let gateway = form.start(Setup::new(&hosts)).await?;
        for host in &hosts {
            host.answers(path, said.clone());
        }
        for question in [question("llama3.2"), streamed("llama3.2")] {
            let asked: usize = hosts.iter().map(|host| host.count(path)).sum();
            let reply = gateway.post_to(path, question, &[]).await?;
            assert_eq!((reply.status.as_u16(), &*reply.body), (status, &*body), "{path}");
            assert_eq!(
                reply.headers.get(header::CONTENT_TYPE),
                said.headers.get(header::CONTENT_TYPE),
                "{path}"
            );
            let together: usize = hosts.iter().map(|host| host.count(path)).sum();
            assert_eq!(together - asked, attempts, "{path}");
        }
    }
    Ok(())
}

async fn a_500_comes_back_as_ollama_said_it_after_one_other_host(form: &dyn Form) -> Result<()> {
    refused_everywhere(form, 500, 2).await
}

async fn what_the_caller_can_mend_comes_back_as_ollama_said_it_at_once(form: &dyn Form) -> Result<()> {
    for status in [400, 501] {
        refused_everywhere(form, status, 1).await?;
    }
    Ok(())
}

async fn what_is_no_json_is_for_ollama_to_refuse(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, _) in QUESTIONS {
        for body in ["{\"model\":", "[]", "\"hello\"", "", "{} {}"] {
            ollama.next(path, refusal(400)?);
            let reply = gateway.request(Method::POST, path, body, &[]).await?;
            assert_eq!(
                (reply.status.as_u16(), reply.at("/error")),
                (400, "invalid model name".into()),
                "{path}"
            );
            let asked = questions(&ollama);
            assert_eq!(asked.last().map(|asked| asked.body.clone()), Some(body.into()), "{path}");
        }
    }
    Ok(())
}

on_every_form! {
    every_reply_tells_its_way,
    an_error_tells_its_way_as_well,
    a_wrong_key_is_refused_in_the_words_of_the_surface,
    a_wrong_method_names_the_right_one_in_the_words_of_the_surface,
    a_body_over_its_limit_names_the_setting_of_its_surface,
    what_is_packed_or_in_parts_is_refused_in_the_words_of_the_surface,
    when_no_host_can_answer_each_surface_says_so_in_its_words,
    a_missing_model_is_named_with_those_there_are_in_the_words_of_the_surface,
    a_500_comes_back_as_ollama_said_it_after_one_other_host,
    what_the_caller_can_mend_comes_back_as_ollama_said_it_at_once,
    what_is_no_json_is_for_ollama_to_refuse,
}
