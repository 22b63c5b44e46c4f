//! One host fails: whether another is asked, and what the caller is told when none is left.

use paddock_tests::ollama::{Pause, Piece};

use crate::behaviors::{prelude::*, surfaces};

/// Everything that makes a host be skipped within a request.
fn skipped() -> Result<Vec<(&'static str, Scripted)>> {
    let mut faults = vec![
        ("hangs", Scripted::hang()),
        ("redirects", Scripted::proxy(http::StatusCode::FOUND)),
        ("cut", Scripted::cut()?),
        ("reset", Scripted::unfinished(End::Reset)?),
        ("ends without done", Scripted::unfinished(End::Clean)?),
        ("falls silent", Scripted::unfinished(End::Hang)?),
        ("crashes in the stream", Scripted::crashed_in_stream()?),
        ("speaks no JSON", Scripted::with_line("{\"model\":\n")?),
        ("speaks another JSON", Scripted::with_line("[1, 2]\n")?),
    ];
    for (name, status) in
        [("404", 404), ("429", 429), ("500", 500), ("502", 502), ("503", 503), ("504", 504), ("505", 505)]
    {
        faults.push((name, refusal(status)?));
    }
    Ok(faults)
}

/// Limits that a hanging host meets soon.
fn impatient(setup: Setup) -> Setup {
    setup.set("CONNECT_TIMEOUT", "1").set("FIRST_BYTE_TIMEOUT", "500ms").set("BETWEEN_BYTES_TIMEOUT", "500ms")
}

/// The first request begins at the first host.
fn by_turns(setup: Setup) -> Setup {
    setup.set("LB_POLICY", "round_robin")
}

async fn whatever_ails_one_host_another_answers_the_same_request(form: &dyn Form) -> Result<()> {
    let (ill, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    for (name, fault) in skipped()? {
        // Each begins with a fleet of which nothing is known.
        let gateway = form.start(by_turns(impatient(Setup::new([&ill, &well])))).await?;
        ill.chats(fault);
        let asked = ill.count(CHAT);
        // The first begins at the ill host.
        for turn in 0..2 {
            let reply = gateway.chat(json!({"message": format!("{name} {turn}")})).await?;
            assert_eq!(reply.outcome(), (200, "ok".to_owned()), "{name}");
            assert_eq!(reply.header("x-paddock-host"), "2", "{name}");
            assert!(
                reply.response().starts_with(&format!("echo of {name} {turn} #")),
                "{}",
                reply.response()
            );
        }
        assert_eq!(ill.count(CHAT) - asked, 1, "{name}");
    }
    Ok(())
}

async fn a_dead_host_is_skipped_within_the_same_request(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    hosts[0].refuse().await;
    hosts[1].refuse().await;
    let gateway = form.start(by_turns(Setup::new(&hosts))).await?;
    for turn in 0..4 {
        let reply = gateway.say(&format!("hello {turn}")).await?;
        assert_eq!(reply.header("x-paddock-host"), "3");
    }
    hosts[0].accept().await?;
    let started = Instant::now();
    for turn in 0.. {
        // A host that is back is asked again.
        if gateway.say(&format!("again {turn}")).await?.header("x-paddock-host") == "1" {
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "not asked again");
        gateway.pass(Duration::from_millis(250)).await;
    }
    Ok(())
}

async fn when_every_host_fails_the_code_says_how(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    for (name, fault, status, code) in [
        ("502", refusal(502)?, 502, "upstream_unreachable"),
        ("503", refusal(503)?, 503, "upstream_busy"),
        ("429", refusal(429)?, 503, "upstream_busy"),
        ("504", refusal(504)?, 504, "upstream_timeout"),
        ("hang", Scripted::hang(), 504, "upstream_timeout"),
        ("silence", Scripted::unfinished(End::Hang)?, 504, "upstream_timeout"),
        ("500", refusal(500)?, 502, "upstream_failed"),
        ("crash", Scripted::crashed_in_stream()?, 502, "upstream_failed"),
        ("cut", Scripted::cut()?, 502, "upstream_protocol"),
        ("reset", Scripted::unfinished(End::Reset)?, 502, "upstream_protocol"),
        ("no JSON", Scripted::with_line("{\n")?, 502, "upstream_protocol"),
        ("redirect", Scripted::proxy(http::StatusCode::FOUND), 502, "not_ollama"),
    ] {
        let gateway = form.start(impatient(Setup::new([&first, &second]))).await?;
        let asked = (first.count(CHAT), second.count(CHAT));
        first.chats(fault.clone());
        second.chats(fault);
        let reply = gateway.chat(json!({"message": name})).await?;
        assert_eq!(reply.outcome(), (status, code.to_owned()), "{name}");
        assert_eq!(reply.at("/error/type"), "api_error", "{name}");
        assert_eq!((first.count(CHAT), second.count(CHAT)), (asked.0 + 1, asked.1 + 1), "{name}");
    }
    first.refuse().await;
    second.refuse().await;
    let gateway = form.start(impatient(Setup::new([&first, &second]))).await?;
    let reply = gateway.chat(json!({"message": "nobody"})).await?;
    assert_eq!(reply.outcome(), (502, "upstream_unreachable".to_owned()));
    Ok(())
}

async fn a_crash_is_tried_on_one_other_host_and_no_more(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    for host in &hosts {
        host.chats(refusal(500)?);
    }
    let gateway = form.start(Setup::new(&hosts)).await?;
    let reply = gateway.chat(json!({"message": "hello"})).await?;
    assert_eq!(reply.outcome(), (502, "upstream_failed".to_owned()));
    assert!(reply.at("/error/message").contains("unexpected EOF"), "Ollama's own words: {}", reply.text());
    let asked: usize = hosts.iter().map(|host| host.count(CHAT)).sum();
    assert_eq!(asked, 2);
    Ok(())
}

async fn a_request_that_is_at_fault_itself_is_tried_once(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    for (status, words) in [(400, "invalid model name"), (501, "does not support embeddings")] {
        first.chats(refusal(status)?);
        second.chats(refusal(status)?);
        let asked = first.count(CHAT) + second.count(CHAT);
        let reply = gateway.chat(json!({"message": format!("hello {status}")})).await?;
        assert_eq!(reply.outcome(), (status, "upstream_rejected".to_owned()));
        assert!(reply.at("/error/message").contains(words), "{}", reply.text());
        assert_eq!(first.count(CHAT) + second.count(CHAT) - asked, 1, "{status}");
    }
    Ok(())
}

async fn a_model_that_one_host_lacks_is_found_on_another(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    second.has_models(&["qwen3:4b"]);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    for turn in 0..2 {
        let reply = gateway.chat(json!({"message": format!("hello {turn}"), "model": "qwen3:4b"})).await?;
        assert_eq!((reply.status.as_u16(), reply.header("x-paddock-host")), (200, "2"));
    }
    Ok(())
}

async fn a_missing_model_names_the_models_there_are_and_how_to_add_it(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.has_models(&["llama3.2:latest", "qwen3:4b"]);
    second.has_models(&["phi4:14b", "qwen3:4b"]);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    let reply = gateway.chat(json!({"message": "hello", "model": "mistral"})).await?;
    assert_eq!(reply.outcome(), (404, "model_not_found".to_owned()));
    assert_eq!(
        (reply.at("/error/param"), reply.at("/error/type")),
        ("model".into(), "not_found_error".into())
    );
    let message = reply.at("/error/message");
    for name in ["llama3.2:latest", "phi4:14b", "qwen3:4b", "ollama pull mistral"] {
        assert!(message.contains(name), "{message}");
    }
    assert_eq!((first.count(CHAT), second.count(CHAT)), (0, 0), "nothing is sent upstream");
    Ok(())
}

async fn a_model_is_not_missing_while_a_host_that_may_have_it_is_silent(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    second.refuse().await;
    let gateway = form.start(Setup::new([&first, &second])).await?;
    let reply = gateway.chat(json!({"message": "hello", "model": "mistral"})).await?;
    assert_eq!(reply.outcome(), (503, "model_unavailable".to_owned()));
    Ok(())
}

async fn a_busy_fleet_says_when_to_come_back(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    ollama.next_chat(refusal(503)?);
    let without = gateway.chat(json!({"message": "hello"})).await?;
    assert_eq!((without.status.as_u16(), without.header("retry-after")), (503, "1"));
    ollama.next_chat(refusal(429)?.with_header(http::header::RETRY_AFTER, "7"));
    let with = gateway.chat(json!({"message": "hello"})).await?;
    assert_eq!((with.status.as_u16(), with.header("retry-after")), (503, "7"));
    // What no client can wait for is not passed on.
    ollama.next_chat(refusal(429)?.with_header(http::header::RETRY_AFTER, "18446744073709551615"));
    let endless = gateway.chat(json!({"message": "hello"})).await?;
    assert_eq!((endless.status.as_u16(), endless.header("retry-after")), (503, "86400"));
    Ok(())
}

async fn limits_end_a_wait_soon_after_they_pass(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(impatient(Setup::new([&ollama]))).await?;
    for fault in [Scripted::hang(), Scripted::unfinished(End::Hang)?] {
        ollama.chats(fault);
        let started = Instant::now();
        let reply = gateway.chat(json!({"message": "hello"})).await?;
        assert_eq!(reply.outcome(), (504, "upstream_timeout".to_owned()));
        let waited = started.elapsed();
        assert!((Duration::from_millis(400)..Duration::from_secs(10)).contains(&waited), "{waited:?}");
    }
    // Whoever gives up also hangs up: Ollama must not go on for nobody.
    ollama.wait_for_given_up(2, PATIENCE).await
}

async fn a_host_that_is_gone_is_given_up_at_the_limit_for_connecting(form: &dyn Form) -> Result<()> {
    let (gone, well) = (FakeOllama::start().await?, FakeOllama::start().await?);
    gone.fall_silent().await?;
    let setup = Setup::new([&gone, &well]).set("CONNECT_TIMEOUT", "500ms");
    let gateway = form.start(setup.set("PROBE_CONNECT_TIMEOUT", "500ms")).await?;
    let started = Instant::now();
    assert_eq!(gateway.say("hello").await?.header("x-paddock-host"), "2");
    // Where the hosts are asked in the background nobody waits for it at all.
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    well.refuse().await;
    let reply = gateway.chat(json!({"message": "nobody"})).await?;
    assert_eq!(reply.outcome(), (502, "upstream_unreachable".to_owned()));
    Ok(())
}

async fn a_slow_host_within_the_limits_is_waited_for(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("BETWEEN_BYTES_TIMEOUT", "5")).await?;
    let pause = Duration::from_millis(60);
    ollama.chats(Scripted::saying("slow but sure")?.after(Duration::from_millis(300)).slowly(pause));
    assert_eq!(gateway.say("hello").await?.response(), "slow but sure");
    Ok(())
}

async fn the_last_hosts_own_status_and_words_reach_the_client(form: &dyn Form) -> Result<()> {
    let words = "you have reached your session usage limit, upgrade for higher limits";
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    for status in [429, 503, 502, 504] {
        let gateway = form.start(Setup::new(&hosts)).await?;
        let body = json!({"error": words}).to_string();
        let pieces = vec![Piece { after: Pause::NONE, bytes: body.into() }];
        let said = Scripted {
            pieces,
            status: http::StatusCode::from_u16(status)?,
            ..Scripted::recorded("54-e-chat-404")?
        };
        let said = said.ending_after(1, End::Clean).with_header(http::header::RETRY_AFTER, "7");
        for path in [CHAT, "/v1/chat/completions", "/v1/messages"] {
            for host in &hosts {
                host.answers(path, said.clone());
            }
            let reply = gateway.post_to(path, surfaces::question("llama3.2"), &[]).await?;
            assert_eq!(reply.status, status, "{path}");
            assert!(reply.text().contains(words), "{path}: {}", reply.text());
            assert!(status != 429 || reply.header("retry-after") == "7", "{path}: {:?}", reply.headers);
        }
        let reply = gateway.chat(json!({"message": "hello"})).await?;
        assert!(reply.text().contains(words), "{}", reply.text());
        assert!(
            status != 429 || reply.outcome() == (429, "upstream_busy".to_owned()),
            "{:?}",
            reply.outcome()
        );
    }
    Ok(())
}

on_every_form! {
    the_last_hosts_own_status_and_words_reach_the_client,
    whatever_ails_one_host_another_answers_the_same_request,
    a_dead_host_is_skipped_within_the_same_request,
    when_every_host_fails_the_code_says_how,
    a_crash_is_tried_on_one_other_host_and_no_more,
    a_request_that_is_at_fault_itself_is_tried_once,
    a_model_that_one_host_lacks_is_found_on_another,
    a_missing_model_names_the_models_there_are_and_how_to_add_it,
    a_model_is_not_missing_while_a_host_that_may_have_it_is_silent,
    a_busy_fleet_says_when_to_come_back,
    limits_end_a_wait_soon_after_they_pass,
    a_host_that_is_gone_is_given_up_at_the_limit_for_connecting,
    a_slow_host_within_the_limits_is_waited_for,
}
