//! What stands before a host and answers in its place: a proxy that denies, a login page, a portal, what packs answers.

use http::{StatusCode, header};
use paddock_tests::ollama::{Pause, Piece};

use crate::behaviors::{
    prelude::*,
    surfaces::{QUESTIONS, question, told},
};

/// The statuses with which one host denies what another may let pass.
const DENIALS: [u16; 7] = [401, 402, 403, 407, 408, 413, 421];

/// An answer with this body.
fn answer(status: u16, content_type: &'static str, body: &str) -> Result<Scripted> {
    let status = StatusCode::from_u16(status)?;
    let pieces = vec![Piece { after: Pause::NONE, bytes: body.to_owned().into() }];
    let answer = Scripted { status, pieces, ..Scripted::proxy(StatusCode::OK) };
    let answer = answer.with_header(header::CONTENT_TYPE, content_type);
    Ok(answer.ending_after(1, End::Clean))
}

/// What a surface is asked, whole and, for one of each kind, as a stream.
fn asked(path: &str, message: &str) -> Vec<serde_json::Value> {
    let streams = [CHAT, "/v1/chat/completions", "/v1/messages"].contains(&path);
    let deliveries = [Some(false), streams.then_some(true)].into_iter().flatten();
    let asked = deliveries.map(|streams| {
        let mut asked = question("llama3.2");
        asked["prompt"] = message.into();
        asked["messages"][0]["content"] = message.into();
        asked["stream"] = streams.into();
        asked["options"] = json!({"temperature": 0});
        asked["temperature"] = json!(0);
        asked
    });
    asked.collect()
}

async fn what_one_host_denies_is_asked_of_one_other(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    for status in DENIALS {
        // Its own words in the shape of one surface, and a page.
        let own = answer(status, "application/json", r#"{"error":"not without a subscription"}"#)?;
        for (denial, words) in [
            (own, "not without a subscription".to_owned()),
            (refusal(status)?, format!("{status} text/html")),
        ] {
            let gateway = form.start(Setup::new(&hosts).set("LB_POLICY", "round_robin")).await?;
            for (path, _) in QUESTIONS {
                hosts[0].answers(path, denial.clone());
                hosts[1].recover();
                let reply = gateway.post_to(path, question("llama3.2"), &[]).await?;
                assert_eq!(reply.status, 200, "{status} {path}: {}", reply.text());
                for host in &hosts {
                    host.answers(path, denial.clone());
                }
                let count = || hosts.iter().map(|host| host.count(path)).sum::<usize>();
                let before = count();
                let reply =
                    gateway.post_to(path, question("llama3.2"), &[("cache-control", "no-cache")]).await?;
                assert_eq!(reply.status, status, "{path}: {}", reply.text());
                let said = told(path, &reply)?;
                assert!(said.contains(&words), "{path}: {said}");
                assert_eq!(count() - before, 2, "{status} {path}");
            }
            for host in &hosts {
                host.recover();
            }
        }
    }
    Ok(())
}

async fn what_a_host_calls_a_bad_request_is_asked_of_no_other(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    let page = answer(400, "text/html", "<html>400 Bad Request</html>")?;
    for (path, _) in QUESTIONS {
        for host in &hosts {
            host.answers(path, page.clone());
        }
        let reply = gateway.post_to(path, question("llama3.2"), &[]).await?;
        assert_eq!(reply.status, 400, "{path}");
        let words = told(path, &reply)?;
        assert!(words.contains("400 text/html") && !words.contains("<html>"), "{path}: {words}");
        assert_eq!(hosts.iter().map(|host| host.count(path)).sum::<usize>(), 1, "{path}");
    }
    Ok(())
}

/// What is no answer although its status is 200, and how it is named.
fn pages() -> Result<Vec<(Scripted, &'static str)>> {
    let login = "<!DOCTYPE html><html><body>Please log in</body></html>";
    let packed = answer(200, "application/json", "\u{1f}not readable")?;
    Ok(vec![
        (answer(200, "text/html; charset=utf-8", login)?, "answered 200 text/html: not Ollama"),
        (answer(200, "application/json", login)?, "answered 200 application/json: not Ollama"),
        (answer(200, "text/event-stream", login)?, "answered 200 text/event-stream: not Ollama"),
        (answer(200, "text/plain", "default backend")?, "answered 200 text/plain: not Ollama"),
        (answer(200, "text/plain", "It works")?, "answered 200 text/plain: not Ollama"),
        (answer(201, "image/png", "\u{89}PNG")?, "answered 201 image/png: not Ollama"),
        (packed.with_header(header::CONTENT_ENCODING, "gzip"), "answered 200 with Content-Encoding gzip"),
    ])
}

async fn a_page_in_place_of_an_answer_is_its_hosts_failure_and_nothing_of_it_arrives(
    form: &dyn Form,
) -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    for (number, (page, words)) in pages()?.into_iter().enumerate() {
        for (path, _) in QUESTIONS {
            for asked in asked(path, &format!("{number} {path}")) {
                // A fleet of its own, because a host that answers like this is out of rotation.
                let gateway = form.start(Setup::new([&ill, &well]).set("LB_POLICY", "round_robin")).await?;
                ill.answers(path, page.clone());
                let reply = gateway.post_to(path, asked.clone(), &[]).await?;
                assert_eq!(
                    (reply.status.as_u16(), reply.header("x-paddock-host")),
                    (200, "2"),
                    "{words} {path}"
                );
                well.answers(path, page.clone());
                let again = &[("cache-control", "no-cache")];
                let reply = gateway.post_to(path, asked.clone(), again).await?;
                assert_eq!(reply.status, 502, "{words} {path}: {}", reply.text());
                let said = told(path, &reply)?;
                assert!(said.contains(words) && !said.contains("log in"), "{path}: {said}");
                ill.recover();
                well.recover();
                // Nothing of it was kept.
                let reply = gateway.post_to(path, asked, again).await?;
                assert_eq!(reply.status, 200, "{words} {path}: {}", reply.text());
                assert!(!reply.text().contains("log in"), "{path}");
            }
        }
    }
    Ok(())
}

async fn a_page_in_place_of_an_answer_is_named_to_those_who_chat(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    for (page, words) in pages()? {
        let gateway = form.start(Setup::new([&ollama])).await?;
        ollama.chats(page);
        let reply = gateway.chat(json!({"message": "hello"})).await?;
        assert_eq!(reply.outcome(), (502, "not_ollama".to_owned()), "{words}");
        assert!(reply.at("/error/message").contains(&format!("host 1 {words}")), "{}", reply.text());
    }
    Ok(())
}

async fn hosts_are_asked_for_what_is_not_packed(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    for (path, _) in QUESTIONS {
        let packed = &[("accept-encoding", "gzip, br")];
        assert_eq!(gateway.post_to(path, question("llama3.2"), packed).await?.status, 200, "{path}");
    }
    gateway.get("/v1/models").await?;
    gateway.request(Method::DELETE, "/api/delete", r#"{"model":"m"}"#, &[]).await?;
    for request in ollama.requests() {
        let wanted = request.headers.get("accept-encoding").and_then(|wanted| wanted.to_str().ok());
        assert_eq!(wanted, Some("identity"), "{} {}", request.method, request.path);
    }
    Ok(())
}

async fn a_page_in_place_of_a_changed_model_is_no_success(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    let login = answer(200, "text/html", "<html>Please log in</html>")?;
    for (method, path, body) in [
        (Method::POST, "/api/pull", json!({"model": "phi4:14b", "stream": false})),
        (Method::POST, "/api/copy", json!({"source": "llama3.2", "destination": "phi4:14b"})),
        (Method::DELETE, "/api/delete", json!({"model": "phi4:14b"})),
    ] {
        hosts[1].answers(path, login.clone());
        let reply = gateway.request(method, path, body.to_string(), &[]).await?;
        assert_eq!(reply.status, 502, "{path}: {}", reply.text());
        let words = told(path, &reply)?;
        assert!(words.contains("host 2 answered 200 text/html: not Ollama"), "{path}: {words}");
    }
    Ok(())
}

on_every_form! {
    what_one_host_denies_is_asked_of_one_other,
    what_a_host_calls_a_bad_request_is_asked_of_no_other,
    a_page_in_place_of_an_answer_is_its_hosts_failure_and_nothing_of_it_arrives,
    a_page_in_place_of_an_answer_is_named_to_those_who_chat,
    hosts_are_asked_for_what_is_not_packed,
    a_page_in_place_of_a_changed_model_is_no_success,
}
