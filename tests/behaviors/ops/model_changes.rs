//! Changes of models: who may make them, that every host makes them, and what is told of it.

use serde_json::Value;

use crate::behaviors::{prelude::*, surfaces};

/// The changes, with a request for each.
fn changes(model: &str) -> [(Method, &'static str, Value); 4] {
    [
        (Method::POST, "/api/pull", json!({"model": model})),
        (Method::POST, "/api/create", json!({"model": model, "from": "llama3.2"})),
        (Method::POST, "/api/copy", json!({"source": "llama3.2", "destination": model})),
        (Method::DELETE, "/api/delete", json!({"model": model})),
    ]
}

const UPLOADS: [&str; 2] = ["/api/push", "/api/blobs/sha256:0000"];
const PULLED: &str = r#"{"status":"success"}"#;

async fn change(
    gateway: &dyn Gateway,
    (method, path, body): (Method, &str, Value),
    headers: &[(&str, &str)],
) -> Result<Reply> {
    gateway.request(method, path, body.to_string(), headers).await
}

/// What a host was asked to change.
fn changed(host: &FakeOllama) -> Vec<Recorded> {
    let is_change = |request: &Recorded| changes("").iter().any(|(_, path, _)| *path == request.path);
    host.requests().into_iter().filter(is_change).collect()
}

async fn nobody_changes_models_unless_that_is_allowed(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let hosts = Setup::new([&ollama]);
    let closed = form.start(hosts.clone().set("API_KEYS", "alpha").set("ADMIN_TOKEN", "root")).await?;
    let open = form.start(hosts).await?;
    for (gateway, headers) in [
        (&open, &[][..]),
        (&open, &[("authorization", "Bearer root")]),
        (&closed, &[("x-api-key", "alpha")]),
        (&closed, &[("authorization", "Bearer alpha")]),
    ] {
        for change in changes("phi4:14b") {
            let path = change.1;
            let reply = self::change(gateway.as_ref(), change, headers).await?;
            let words = surfaces::told(path, &reply)?;
            assert_eq!(reply.status, 403, "{path}");
            assert!(
                words.contains("ADMIN_TOKEN") && words.contains("ALLOW_MODEL_MANAGEMENT"),
                "{path}: {words}"
            );
        }
    }
    for change in changes("phi4:14b") {
        let path = change.1;
        let reply = self::change(closed.as_ref(), change, &[("x-api-key", "wrong")]).await?;
        assert_eq!(reply.status, 401, "{path}");
        let wrong = closed.request(Method::GET, path, "", &[("x-api-key", "alpha")]).await?;
        assert_eq!((wrong.status.as_u16(), wrong.header("allow").is_empty()), (405, false), "{path}");
    }
    assert!(changed(&ollama).is_empty());
    Ok(())
}

async fn uploads_are_never_passed_on(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("ADMIN_TOKEN", "root").set("ALLOW_MODEL_MANAGEMENT", "true");
    let gateway = form.start(setup).await?;
    for path in UPLOADS {
        let reply = gateway.post_to(path, json!({"model": "x"}), &[("x-api-key", "root")]).await?;
        let words = surfaces::told(path, &reply)?;
        assert_eq!(reply.status, 403, "{path}");
        assert!(words.contains("/api/pull"), "{path}: {words}");
    }
    let head = gateway.request(Method::HEAD, UPLOADS[1], "", &[("x-api-key", "root")]).await?;
    assert_eq!((head.status.as_u16(), &*head.text()), (403, ""));
    assert!(surfaces::questions(&ollama).is_empty());
    Ok(())
}

async fn whoever_may_changes_the_models_of_every_host(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let admin = Setup::new(&hosts).set("API_KEYS", "alpha").set("ADMIN_TOKEN", "root");
    let everybody = Setup::new(&hosts).set("ALLOW_MODEL_MANAGEMENT", "true");
    let unlocked = Setup::new(&hosts).set("ADMIN_TOKEN", "root");
    for (setup, headers) in [
        (admin.clone(), &[("authorization", "Bearer root")][..]),
        (admin, &[("x-api-key", "root")]),
        (unlocked, &[("authorization", "bearer root")]),
        (everybody, &[]),
    ] {
        let gateway = form.start(setup).await?;
        let before: Vec<_> = hosts.iter().map(|host| changed(host).len()).collect();
        for change in changes("phi4:14b") {
            let path = change.1;
            let reply = self::change(gateway.as_ref(), change, headers).await?;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            match path {
                "/api/pull" | "/api/create" => {
                    assert_eq!(reply.header("content-type"), "application/x-ndjson", "{path}");
                    assert_eq!(reply.header("cache-control"), "no-cache", "{path}");
                    check_progress(&reply, &["1", "2"]);
                    assert!(reply.text().ends_with(&format!("\n{PULLED}\n")), "{}", reply.text());
                }
                _ => assert_eq!((&*reply.text(), reply.header("content-length")), ("", "0"), "{path}"),
            }
        }
        for (host, before) in hosts.iter().zip(before) {
            let made = changed(host).split_off(before);
            let made: Vec<_> = made.iter().map(|made| (&*made.method, &*made.path, made.json())).collect();
            let expected = changes("phi4:14b");
            let expected: Vec<_> =
                expected.iter().map(|(method, path, body)| (method.as_str(), *path, body.clone())).collect();
            assert_eq!(made, expected);
        }
        // The token opens everything else, too.
        assert_eq!(gateway.post_to(CHAT, surfaces::question("llama3.2"), headers).await?.status, 200);
    }
    for request in hosts.iter().flat_map(changed) {
        assert!(!request.headers.contains_key("authorization") && !request.headers.contains_key("x-api-key"));
    }
    Ok(())
}

/// Whether each line but the last is one host's, and each host has lines; there is one success at most.
#[track_caller]
fn check_progress(reply: &Reply, names: &[&str]) {
    let text = reply.text();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
    let (last, lines) = lines.split_last().unwrap();
    assert!(last["host"].is_null(), "{text}");
    for line in lines {
        assert!(line["status"].is_string() && line["status"] != "success", "{text}");
    }
    for name in names {
        assert!(lines.iter().any(|line| line["host"] == *name), "no progress of {name}: {text}");
    }
    assert!(lines.iter().all(|line| names.iter().any(|name| line["host"] == *name)), "{text}");
}

async fn a_change_in_one_piece_says_success_once(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    for path in ["/api/pull", "/api/create"] {
        let body = json!({"model": "phi4:14b", "from": "llama3.2", "stream": false});
        let reply = gateway.post_to(path, body.clone(), &[]).await?;
        assert_eq!((reply.status.as_u16(), &*reply.text()), (200, PULLED), "{path}");
        assert_eq!(reply.header("content-type"), "application/json", "{path}");
        assert_eq!(reply.header("content-length"), PULLED.len().to_string(), "{path}");
        // A host is asked for its progress all the same, so that a silent one is noticed.
        let mut asked = body.clone();
        asked["stream"] = json!(true);
        for host in &hosts {
            assert_eq!(changed(host).last().map(Recorded::json), Some(asked.clone()), "{path}");
        }
    }
    Ok(())
}

/// Every way in which a host may not pull, streamed and in one piece, with the status and what is told of it.
fn faults() -> Result<Vec<(Scripted, Scripted, u16, &'static str)>> {
    let (streamed, whole) =
        (Scripted::recorded("52-pull-no-registry")?, Scripted::recorded("53-pull-no-registry-nostream")?);
    let redirect = Scripted::proxy(http::StatusCode::FOUND);
    Ok(vec![
        (streamed.clone(), whole.clone(), 500, "pull model manifest"),
        (whole.clone(), whole, 500, "pull model manifest"),
        (refusal(400)?, refusal(400)?, 400, "invalid model name"),
        (refusal(503)?, refusal(503)?, 503, "server busy"),
        (refusal(502)?, refusal(502)?, 502, "502"),
        (redirect.clone(), redirect, 502, "302"),
        (streamed.clone().ending_after(1, End::Cut), Scripted::cut()?, 502, "broke off"),
        (streamed.ending_after(1, End::Clean), refusal(500)?, 500, ""),
    ])
}

async fn a_host_that_fails_is_named_and_there_is_no_success(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let gateway = form.start(Setup::new([&first, &second]).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    let check = |told: &str, words: &str| {
        assert!(told.contains("host 2: ") && told.contains(words) && !told.contains("host 1"), "{told}");
    };
    for (streamed, whole, status, words) in faults()? {
        second.next("/api/pull", streamed);
        let reply = gateway.post_to("/api/pull", json!({"model": "phi4:14b"}), &[]).await?;
        let last: Value =
            reply.text().lines().last().map(serde_json::from_str).transpose()?.unwrap_or_default();
        assert_eq!(reply.status, 200);
        assert!(!reply.text().contains(PULLED), "{}", reply.text());
        check(last["error"].as_str().unwrap_or_default(), words);
        second.next("/api/pull", whole);
        let reply = gateway.post_to("/api/pull", json!({"model": "phi4:14b", "stream": false}), &[]).await?;
        assert_eq!(reply.status, status, "{words}: {}", reply.text());
        check(&surfaces::told("/api/pull", &reply)?, words);
    }
    second.refuse().await;
    for change in changes("llama3.2") {
        let path = change.1;
        let reply = self::change(gateway.as_ref(), change, &[]).await?;
        if ["/api/pull", "/api/create"].contains(&path) {
            check(reply.text().lines().last().unwrap_or_default(), "host 2: ");
        } else {
            assert_eq!(reply.status, 502, "{path}");
            check(&surfaces::told(path, &reply)?, "host 2: ");
        }
    }
    Ok(())
}

async fn a_host_without_the_model_has_nothing_to_copy_or_delete(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    second.has_models(&["llama3.2:latest", "phi4:14b"]);
    let gateway = form.start(Setup::new([&first, &second]).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    let copy = |source: &str| (Method::POST, "/api/copy", json!({"source": source, "destination": "mine:1"}));
    let delete = |model: &str| (Method::DELETE, "/api/delete", json!({"model": model}));
    for change in [copy("phi4:14b"), delete("phi4:14b"), delete("mine:1")] {
        let path = change.1;
        let reply = self::change(gateway.as_ref(), change, &[]).await?;
        assert_eq!((reply.status.as_u16(), &*reply.text()), (200, ""), "{path}");
    }
    let left = gateway.get("/api/tags").await?.json();
    assert_eq!(left["models"].as_array().map(Vec::len), Some(1), "{left}");
    for change in [copy("phi4:14b"), delete("phi4:14b")] {
        let path = change.1;
        let reply = self::change(gateway.as_ref(), change, &[]).await?;
        let words = surfaces::told(path, &reply)?;
        assert_eq!(reply.status, 404, "{path}");
        assert!(words.contains("host 1: ") && words.contains("host 2: "), "{path}: {words}");
    }
    Ok(())
}

async fn a_silent_host_holds_no_change_for_longer_than_the_usual_limits(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("ALLOW_MODEL_MANAGEMENT", "true");
    let setup = setup.set("TOTAL_TIMEOUT", "1").set("FIRST_BYTE_TIMEOUT", "500ms");
    let gateway = form.start(setup).await?;
    for (method, path, mut body) in changes("phi4:14b") {
        ollama.next(path, Scripted::hang());
        body["stream"] = json!(false);
        let reply = self::change(gateway.as_ref(), (method, path, body), &[]).await?;
        let words = surfaces::told(path, &reply)?;
        assert_eq!(reply.status, 504, "{path}: {words}");
        // One host alone needs no name.
        assert!(!words.contains("host 1") && words.contains("did not answer in time"), "{path}: {words}");
    }
    Ok(())
}

async fn a_change_that_no_host_made_forgets_nothing(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    let ask = async || anyhow::Ok(gateway.chat(json!({"message": "hello"})).await?.cache().to_owned());
    assert_eq!(ask().await?, "miss");
    for change in changes("llama3.2") {
        let path = change.1;
        ollama.next(path, refusal(400)?);
        self::change(gateway.as_ref(), change, &[]).await?;
        assert_eq!(ask().await?, "hit", "{path}");
    }
    Ok(())
}

async fn progress_comes_while_it_is_made(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    let gate = paddock_tests::ollama::Gate::default();
    for host in &hosts {
        host.next("/api/pull", Scripted::recorded("48-create-from-stream")?.gated(&gate));
    }
    let mut reply = gateway.open_post("/api/pull", json!({"model": "phi4:14b"}), &[]).await?;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&reply.next_line().await?.unwrap_or_default())?;
        seen.push(line["host"].as_str().unwrap_or_default().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["1", "2"]);
    gate.open(100);
    assert!(reply.rest().await?.text().ends_with(&format!("{PULLED}\n")));
    Ok(())
}

async fn what_a_model_said_before_it_was_changed_is_forgotten_when_success_is_told(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_models(&["llama3.2:latest", "qwen3:latest"]);
    let gateway = form.start(Setup::new([&ollama]).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    let ask = async |model: &str| {
        let reply = gateway.chat(json!({"message": "hello", "model": model})).await?;
        anyhow::Ok(reply.cache().to_owned())
    };
    assert_eq!((ask("llama3.2").await?, ask("qwen3").await?), ("miss".to_owned(), "miss".to_owned()));
    for change in changes("qwen3") {
        let path = change.1;
        assert_eq!(ask("qwen3").await?, "hit", "{path}");
        assert_eq!(self::change(gateway.as_ref(), change, &[]).await?.status, 200, "{path}");
        assert_eq!(ask("qwen3").await?, "miss", "{path}");
    }
    assert_eq!(ask("llama3.2").await?, "hit");
    Ok(())
}

on_every_form! {
    nobody_changes_models_unless_that_is_allowed,
    uploads_are_never_passed_on,
    whoever_may_changes_the_models_of_every_host,
    a_change_in_one_piece_says_success_once,
    a_host_that_fails_is_named_and_there_is_no_success,
    a_host_without_the_model_has_nothing_to_copy_or_delete,
    a_silent_host_holds_no_change_for_longer_than_the_usual_limits,
    a_change_that_no_host_made_forgets_nothing,
    progress_comes_while_it_is_made,
    what_a_model_said_before_it_was_changed_is_forgotten_when_success_is_told,
}
