//! `/sessions`: made, shown, written out, deleted, and whose they are.

use crate::behaviors::{prelude::*, surfaces};

const ANN: (&str, &str) = ("x-api-key", "ann");
/// The surfaces of Ollama's that have sessions.
const OLLAMAS: [&str; 3] = [CHAT, "/v1/chat/completions", "/v1/messages"];
const BOB: (&str, &str) = ("authorization", "Bearer bob");

/// Makes a session; gives its id.
pub(crate) async fn made(gateway: &dyn Gateway, body: &str, caller: &[(&str, &str)]) -> Result<String> {
    let reply = gateway.request(Method::POST, "/sessions", body.to_owned(), caller).await?;
    ensure!(reply.status == 201, "{} {}", reply.status, reply.text());
    let id = reply.at("/session_id");
    assert_eq!(reply.header("location"), format!("/sessions/{id}"));
    Ok(id)
}

async fn ask(gateway: &dyn Gateway, method: Method, path: &str, caller: &[(&str, &str)]) -> Result<Reply> {
    gateway.request(method, path, "", caller).await
}

/// The model that was asked last.
fn last_model(ollama: &FakeOllama) -> String {
    ollama.chat_requests().last().map(Recorded::model).unwrap_or_default()
}

/// The questions of a page of a session.
fn questions(reply: &Reply) -> Vec<String> {
    let turns = reply.json()["turns"].as_array().cloned().unwrap_or_default();
    turns.iter().map(|turn| turn["messages"][0]["content"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn a_session_is_made_with_an_id_that_cannot_be_guessed(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("SESSION_TTL", "120")).await?;
    let plain = gateway.request(Method::POST, "/sessions", "", &[]).await?;
    let id = plain.at("/session_id");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    assert_eq!(
        plain.json(),
        json!({"session_id": id, "system": null, "model": null, "ttl": 120, "expires_in": 120, "age": 0})
    );
    let body = json!({"system": "be brief", "model": "phi4:14b", "ttl": "90m"}).to_string();
    let full = gateway.request(Method::POST, "/sessions", body, &[]).await?;
    assert_ne!(full.at("/session_id"), id);
    assert_eq!((full.at("/system"), full.at("/model")), ("be brief".to_owned(), "phi4:14b".to_owned()));
    assert_eq!((&full.json()["ttl"], &full.json()["expires_in"]), (&json!(5400), &json!(5400)));
    assert_eq!(full.header("cache-control"), "no-store");
    for body in ["[]", "{\"ttl\":0}", "{\"system\":1}"] {
        let reply = gateway.request(Method::POST, "/sessions", body, &[]).await?;
        assert_eq!(reply.status, 400, "{body}");
    }
    assert_eq!(ollama.count(CHAT), 0);
    Ok(())
}

async fn what_a_session_was_given_holds_for_its_turns(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_every_model();
    let gateway = form.start(Setup::new([&ollama])).await?;
    let id = made(gateway.as_ref(), r#"{"system":"be brief","model":"phi4:14b"}"#, &[]).await?;
    gateway.say_in(&id, "one").await?;
    assert_eq!(ollama.last_conversation(), ["system: be brief", "user: one"]);
    assert_eq!(last_model(&ollama), "phi4:14b");
    gateway
        .chat(json!({"message": "two", "session_id": id, "model": "llama3.2", "system": "be long"}))
        .await?;
    let said = ollama.last_conversation();
    assert_eq!((said.len(), said[0].as_str()), (4, "system: be long"));
    assert_eq!(last_model(&ollama), "llama3.2");
    gateway.say_in(&id, "three").await?;
    assert_eq!(ollama.last_conversation()[0], "system: be long");
    assert_eq!(last_model(&ollama), "phi4:14b");
    assert_eq!(gateway.get(&format!("/sessions/{id}")).await?.at("/system"), "be long");
    Ok(())
}

async fn what_a_session_was_given_holds_on_ollamas_surfaces_as_well(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.has_every_model();
    let gateway = form.start(Setup::new([&ollama])).await?;
    for path in OLLAMAS {
        let id = made(gateway.as_ref(), r#"{"system":"be brief","model":"phi4:14b"}"#, &[]).await?;
        for (turn, named) in [None, Some("llama3.2"), None].into_iter().enumerate() {
            let message = json!({"role": "user", "content": format!("{path} {turn}")});
            let mut body = json!({"max_tokens": 64, "messages": [message], "stream": false});
            if let Some(model) = named {
                body["model"] = model.into();
            }
            let reply = gateway.post_to(path, body, &[("x-paddock-session", &id)]).await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, "stored"), "{path}");
            let sent = surfaces::questions(&ollama).pop().context("nothing was asked")?;
            assert_eq!(sent.model(), named.unwrap_or("phi4:14b"), "{path}");
            let mut said = sent.messages();
            // Anthropic's system message is a member beside the messages.
            let system = sent.json()["system"].as_str().map(|text| format!("system: {text}"));
            assert_eq!(system.unwrap_or_else(|| said.remove(0)), "system: be brief", "{path}");
            assert_eq!(said.len(), 2 * turn + 1, "{path}");
        }
    }
    // Without a session that has one, Ollama says what is missing.
    let body = json!({"messages": [{"role": "user", "content": "one"}]});
    let reply = gateway.post_to(CHAT, body, &[("x-paddock-session", "new")]).await?;
    assert_eq!(reply.status, 400, "{}", reply.text());
    Ok(())
}

async fn a_session_is_shown_page_by_page(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let id = made(gateway.as_ref(), "", &[]).await?;
    let empty = gateway.get(&format!("/sessions/{id}")).await?;
    assert_eq!((&empty.json()["turns"], &empty.json()["next"]), (&json!([]), &json!(null)));
    for message in ["one", "two", "three", "four", "five"] {
        gateway.say_in(&id, message).await?;
    }
    let pages = pages(gateway.as_ref(), &id, 2).await?;
    assert_eq!(pages, [vec!["four", "five"], vec!["two", "three"], vec!["one"]]);
    let whole = gateway.get(&format!("/sessions/{id}")).await?;
    assert_eq!(whole.at("/turns/0/dialect"), "ollama");
    assert_eq!(whole.at("/turns/0/messages/1/content"), "echo of one #1");
    let head = ask(gateway.as_ref(), Method::HEAD, &format!("/sessions/{id}"), &[]).await?;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    let wrong = gateway.get(&format!("/sessions/{id}?limit=0")).await?;
    assert_eq!((wrong.outcome(), wrong.at("/error/param")), ((400, "wrong_type".into()), "limit".into()));
    Ok(())
}

/// The questions of a session from its newest page to its oldest, each page oldest first.
async fn pages(gateway: &dyn Gateway, id: &str, limit: usize) -> Result<Vec<Vec<String>>> {
    let (mut pages, mut before) = (Vec::new(), String::new());
    loop {
        let page = gateway.get(&format!("/sessions/{id}?limit={limit}{before}")).await?;
        ensure!(page.status == 200, "{} {}", page.status, page.text());
        pages.push(questions(&page));
        match page.at("/next") {
            next if next.is_empty() => return Ok(pages),
            next => before = format!("&before={next}"),
        }
    }
}

async fn pages_join_while_turns_are_added(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("HISTORY_MAX_MESSAGES", "1000")).await?;
    let id = made(gateway.as_ref(), "", &[]).await?;
    for turn in 0..6 {
        gateway.say_in(&id, &format!("before {turn}")).await?;
    }
    let adding = async {
        for turn in 0..12 {
            gateway.say_in(&id, &format!("meanwhile {turn}")).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let reading = join_all((0..4).map(|_| pages(gateway.as_ref(), &id, 2)));
    let (added, read) = futures::join!(adding, reading);
    added?;
    let whole: Vec<_> = pages(gateway.as_ref(), &id, 100).await?.concat();
    assert_eq!(whole.len(), 18);
    for pages in read {
        let shown: Vec<_> = pages?.into_iter().rev().flatten().collect();
        assert!(shown.len() >= 6 && whole.starts_with(&shown), "{shown:?} of {whole:?}");
    }
    Ok(())
}

async fn every_acknowledged_turn_is_there_to_be_read(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("HISTORY_MAX_MESSAGES", "4")).await?;
    let gateway = gateway.as_ref();
    gateway.chat(json!({"message": "first", "session_id": "s", "system": "be brief"})).await?;
    let client = async |client: usize| {
        for turn in 0..8 {
            let reply = gateway.say_in("s", &format!("{client} {turn}")).await?;
            ensure!(reply.header("x-session") == "stored", "{client} {turn}: {}", reply.text());
        }
        Ok(())
    };
    for sent in join_all((0..8).map(client)).await {
        sent?;
    }
    let mut expected: Vec<_> =
        (0..8).flat_map(|client| (0..8).map(move |turn| format!("{client} {turn}"))).collect();
    expected.push("first".to_owned());
    let mut found = questions(&gateway.get("/sessions/s?limit=100").await?);
    assert_eq!(found.first().map(String::as_str), Some("first"));
    let exported = gateway.get("/sessions/s/export").await?;
    assert_eq!(questions(&exported), found);
    found.sort();
    assert_eq!(found, expected);
    let (mut paged, mut path) = (Vec::new(), "/sessions/s?limit=30".to_owned());
    while !path.is_empty() {
        let page = gateway.get(&path).await?;
        assert_eq!(page.at("/system"), "be brief");
        paged.splice(..0, questions(&page));
        let next = page.at("/next");
        path = if next.is_empty() { next } else { format!("/sessions/s?limit=30&before={next}") };
    }
    assert_eq!(paged, questions(&exported));
    // A prompt has but the newest, and the system message all the same.
    let reply = gateway.say_in("s", "and now?").await?;
    let said = ollama.last_conversation();
    assert_eq!((said.len(), said[0].as_str()), (4, "system: be brief"));
    assert_eq!(reply.header("x-session-left-out"), "64");
    Ok(())
}

async fn a_session_that_its_first_turn_made_is_its_callers_as_well(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    gateway.say_in("my notes/é", "one").await?;
    let path = "/sessions/my%20notes%2F%C3%A9";
    let shown = gateway.get(path).await?;
    assert_eq!(
        (shown.at("/session_id"), questions(&shown)),
        ("my notes/é".to_owned(), vec!["one".to_owned()])
    );
    assert_eq!(gateway.get(&format!("{path}/export")).await?.status, 200);
    assert_eq!(ask(gateway.as_ref(), Method::DELETE, path, &[]).await?.status, 204);
    assert_eq!(gateway.get(path).await?.status, 404);
    for path in ["/sessions/%ff", &format!("/sessions/{}", "x".repeat(129))] {
        assert_eq!(gateway.get(path).await?.outcome(), (400, "invalid_session_id".to_owned()), "{path}");
    }
    Ok(())
}

async fn somebody_elses_session_is_as_one_that_never_was(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let id = made(gateway.as_ref(), r#"{"system":"secret"}"#, &[ANN]).await?;
    let paths = [format!("/sessions/{id}"), format!("/sessions/{id}/export")];
    for (path, caller) in paths.iter().flat_map(|path| [(path, &[BOB][..]), (path, &[])]) {
        let foreign = ask(gateway.as_ref(), Method::GET, path, caller).await?;
        let never = ask(gateway.as_ref(), Method::GET, &path.replace(&id, "never"), caller).await?;
        assert_eq!(foreign.outcome(), (404, "session_not_found".to_owned()));
        assert_eq!(foreign.text(), never.text());
        let mut foreign_headers = foreign.headers.clone();
        let mut never_headers = never.headers.clone();
        for name in ["x-request-id", "date"] {
            foreign_headers.remove(name);
            never_headers.remove(name);
        }
        assert_eq!(foreign_headers, never_headers);
    }
    let refused = ask(gateway.as_ref(), Method::DELETE, &paths[0], &[BOB]).await?;
    assert_eq!(refused.outcome(), (404, "session_not_found".to_owned()));
    // Whoever talks under that id has a session of his own, on any surface.
    let message = json!({"role": "user", "content": "what is the secret?"});
    for path in ["/chat"].into_iter().chain(OLLAMAS) {
        let body = match path {
            "/chat" => json!({"message": "what is the secret?"}),
            _ => json!({"model": "llama3.2", "max_tokens": 64, "messages": [message]}),
        };
        let headers = [("x-paddock-session", &*id), ("x-api-key", path)];
        assert_eq!(gateway.post_to(path, body, &headers).await?.status, 200, "{path}");
        let sent = surfaces::questions(&ollama).pop().context("nothing was asked")?;
        assert_eq!((sent.messages().len(), &sent.json()["system"]), (1, &json!(null)), "{path}");
    }
    let own = ask(gateway.as_ref(), Method::GET, &paths[0], &[ANN]).await?;
    assert_eq!((own.at("/system"), questions(&own).len()), ("secret".to_owned(), 0));
    Ok(())
}

async fn a_trusted_header_says_whose_a_session_is(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CALLER_HEADER", "x-user")).await?;
    let id = made(gateway.as_ref(), "", &[("x-user", "ann"), ANN]).await?;
    let path = format!("/sessions/{id}");
    assert_eq!(ask(gateway.as_ref(), Method::GET, &path, &[("x-user", "ann"), BOB]).await?.status, 200);
    assert_eq!(ask(gateway.as_ref(), Method::GET, &path, &[("x-user", "bob"), ANN]).await?.status, 404);
    let twice = ask(gateway.as_ref(), Method::GET, &path, &[("x-user", "ann"), ("x-user", "bob")]).await?;
    assert_eq!(twice.outcome(), (400, "ambiguous_caller".to_owned()));
    Ok(())
}

async fn api_keys_guard_sessions(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "ann")).await?;
    let refused = gateway.request(Method::POST, "/sessions", "", &[]).await?;
    assert_eq!(refused.outcome(), (401, "unauthorized".to_owned()));
    let id = made(gateway.as_ref(), "", &[ANN]).await?;
    assert_eq!(gateway.get(&format!("/sessions/{id}")).await?.status, 401);
    let wrong = ask(gateway.as_ref(), Method::PUT, &format!("/sessions/{id}"), &[ANN]).await?;
    assert_eq!((wrong.status.as_u16(), wrong.header("allow")), (405, "DELETE, GET, HEAD"));
    Ok(())
}

async fn a_session_that_is_deleted_is_forgotten(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let id = made(gateway.as_ref(), r#"{"system":"be brief"}"#, &[]).await?;
    gateway.say_in(&id, "one").await?;
    let path = format!("/sessions/{id}");
    let deleted = ask(gateway.as_ref(), Method::DELETE, &path, &[]).await?;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    for method in [Method::GET, Method::DELETE] {
        let gone = ask(gateway.as_ref(), method, &path, &[]).await?;
        assert_eq!(gone.outcome(), (404, "session_not_found".to_owned()));
    }
    gateway.say_in(&id, "two").await?;
    assert_eq!(ollama.last_conversation(), ["user: two"]);
    Ok(())
}

async fn a_turn_that_is_answered_while_its_session_is_deleted_brings_nothing_back(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let id = made(gateway.as_ref(), r#"{"system":"be brief"}"#, &[]).await?;
    gateway.say_in(&id, "one").await?;
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("late")?.behind(&gate));
    let turn = gateway.say_in(&id, "two");
    let deletion = async {
        ollama.wait_for_requests(CHAT, 2, PATIENCE).await?;
        let deleted = ask(gateway.as_ref(), Method::DELETE, &format!("/sessions/{id}"), &[]).await?;
        gate.open(1);
        Ok::<_, anyhow::Error>(deleted)
    };
    let (turn, deleted) = futures::join!(turn, deletion);
    let turn = turn?;
    assert_eq!((turn.status.as_u16(), turn.header("x-session")), (200, "unavailable"));
    assert_eq!(deleted?.status, 204);
    let gone = gateway.get(&format!("/sessions/{id}")).await?;
    assert_eq!(gone.outcome(), (404, "session_not_found".to_owned()));
    Ok(())
}

async fn a_turn_of_a_deleted_session_is_none_of_the_next_ones(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("SESSION_REQUIRED", "true")).await?;
    gateway.say_in("s", "one").await?;
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("late")?.behind(&gate));
    let late = gateway.say_in("s", "two");
    let others = async {
        ollama.wait_for_requests(CHAT, 2, PATIENCE).await?;
        ask(gateway.as_ref(), Method::DELETE, "/sessions/s", &[]).await?;
        gateway.pass(Duration::from_millis(5)).await;
        let next = gateway.say_in("s", "three").await?;
        gate.open(1);
        Ok::<_, anyhow::Error>(next)
    };
    let (late, next) = futures::join!(late, others);
    // What was deleted is no outage.
    assert_eq!((late?.header("x-session"), next?.header("x-session")), ("unavailable", "stored"));
    assert_eq!(questions(&gateway.get("/sessions/s").await?), ["three"]);
    Ok(())
}

async fn a_session_is_written_out_for_programs_and_for_people(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let id = made(gateway.as_ref(), r#"{"system":"be brief","model":"llama3.2"}"#, &[]).await?;
    let images = json!(["aGVsbG8="]);
    gateway.chat(json!({"message": "one", "session_id": id, "images": images})).await?;
    let path = format!("/sessions/{id}/export");
    let exported = gateway.get(&path).await?;
    assert_eq!(exported.header("content-type"), "application/json");
    assert_eq!(exported.header("content-disposition"), "attachment; filename=\"session.json\"");
    assert_eq!((exported.at("/session_id"), questions(&exported)), (id.clone(), vec!["one".to_owned()]));
    let asked = [gateway.get(&format!("{path}?format=markdown")).await?, {
        ask(gateway.as_ref(), Method::GET, &path, &[("accept", "text/markdown")]).await?
    }];
    for markdown in asked {
        assert_eq!(markdown.header("content-type"), "text/markdown; charset=utf-8");
        assert_eq!(markdown.header("content-disposition"), "attachment; filename=\"session.md\"");
        assert_eq!(
            markdown.text(),
            "# Session\n\nModel: llama3.2\n\n## System\n\nbe brief\n\n## User\n\none\n\n*Image: image/png, 5 bytes*\n\n\
             ## Assistant\n\necho of one #1\n"
        );
    }
    assert_eq!(gateway.get(&format!("{path}?format=pdf")).await?.outcome(), (400, "wrong_type".to_owned()));
    Ok(())
}

async fn a_sessions_own_time_to_live_holds_on_every_surface(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("SESSION_TTL", "1")).await?;
    let lasting = made(gateway.as_ref(), r#"{"ttl":3600}"#, &[]).await?;
    let brief = made(gateway.as_ref(), "", &[]).await?;
    for id in [&lasting, &brief] {
        gateway.say_in(id, "one").await?;
    }
    gateway.pass(Duration::from_millis(1100)).await;
    assert_eq!(gateway.get(&format!("/sessions/{brief}")).await?.status, 404);
    gateway.say_in(&lasting, "two").await?;
    assert_eq!(ollama.last_conversation().len(), 3);
    for (turn, path) in OLLAMAS.into_iter().enumerate() {
        let message = json!({"role": "user", "content": path});
        let body = json!({"model": "llama3.2", "max_tokens": 64, "messages": [message], "stream": false});
        gateway.post_to(path, body, &[("x-paddock-session", &lasting)]).await?;
        let sent = surfaces::questions(&ollama).pop().context("nothing was asked")?;
        assert_eq!(sent.messages().len(), 2 * turn + 5, "{path}");
    }
    gateway.pass(Duration::from_millis(1100)).await;
    let shown = gateway.get(&format!("/sessions/{lasting}")).await?;
    assert_eq!((shown.status.as_u16(), questions(&shown).len()), (200, 5));
    Ok(())
}

async fn a_reply_says_which_turn_of_its_session_it_is(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("HISTORY_MAX_MESSAGES", "2")).await?;
    let gateway = gateway.as_ref();
    let say = async |stream: bool, message: String| {
        gateway.chat(json!({"session_id": "s", "message": message, "stream": stream})).await
    };
    let mut turn = 0;
    for _ in 0..2 {
        for stream in [false, true] {
            turn += 1;
            let reply = say(stream, format!("message {turn}")).await?;
            assert_eq!(reply.header("x-session-turn"), turn.to_string(), "{stream}");
        }
        for path in OLLAMAS {
            turn += 1;
            let message = json!({"role": "user", "content": format!("{path} {turn}")});
            let body = json!({"model": "llama3.2", "max_tokens": 64, "messages": [message], "stream": false});
            let reply = gateway.post_to(path, body, &[("x-paddock-session", "s")]).await?;
            assert_eq!(reply.header("x-session-turn"), turn.to_string(), "{path}");
        }
    }
    // A repetition is the turn that it was.
    let headers = [("idempotency-key", "k"), ("x-paddock-session", "s")];
    for _ in 0..2 {
        let reply = gateway.post_to("/chat", json!({"message": "once"}), &headers).await?;
        assert_eq!(reply.header("x-session-turn"), (turn + 1).to_string());
    }
    // A history that was lost shows.
    assert_eq!(gateway.request(Method::DELETE, "/sessions/s", "", &[]).await?.status, 204);
    assert_eq!(say(true, "again".to_owned()).await?.header("x-session-turn"), "1");
    assert_eq!(gateway.say("of no session").await?.header("x-session-turn"), "");
    Ok(())
}

async fn a_time_to_live_is_no_longer_than_the_operator_allows(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("SESSION_TTL_MAX", "2h")).await?;
    for (ttl, status) in [("7200", 201), ("7201", 400), ("\"366d\"", 400)] {
        let made = gateway.request(Method::POST, "/sessions", format!("{{\"ttl\":{ttl}}}"), &[]).await?;
        assert_eq!(made.status, status, "{ttl}: {}", made.text());
    }
    Ok(())
}

on_every_store! {
    a_reply_says_which_turn_of_its_session_it_is,
    a_time_to_live_is_no_longer_than_the_operator_allows,
    a_session_is_made_with_an_id_that_cannot_be_guessed,
    what_a_session_was_given_holds_for_its_turns,
    what_a_session_was_given_holds_on_ollamas_surfaces_as_well,
    a_session_is_shown_page_by_page,
    pages_join_while_turns_are_added,
    every_acknowledged_turn_is_there_to_be_read,
    a_session_that_its_first_turn_made_is_its_callers_as_well,
    somebody_elses_session_is_as_one_that_never_was,
    a_trusted_header_says_whose_a_session_is,
    api_keys_guard_sessions,
    a_session_that_is_deleted_is_forgotten,
    a_turn_that_is_answered_while_its_session_is_deleted_brings_nothing_back,
    a_turn_of_a_deleted_session_is_none_of_the_next_ones,
    a_session_is_written_out_for_programs_and_for_people,
    a_sessions_own_time_to_live_holds_on_every_surface,
}
