//! `/sessions`: made, shown, written out, deleted, and whose they are.

use crate::behaviors::prelude::*;

const ANN: (&str, &str) = ("x-api-key", "ann");
const BOB: (&str, &str) = ("authorization", "Bearer bob");

/// Makes a session; gives its id.
pub(super) async fn made(gateway: &dyn Gateway, body: &str, caller: &[(&str, &str)]) -> Result<String> {
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

async fn a_sessions_system_message_goes_ahead_on_ollamas_surfaces_as_well(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let id = made(gateway.as_ref(), r#"{"system":"be brief"}"#, &[]).await?;
    let body =
        json!({"model": "llama3.2", "messages": [{"role": "user", "content": "one"}], "stream": false});
    let reply = gateway.post_to(CHAT, body, &[("x-paddock-session", &id)]).await?;
    assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, "stored"));
    assert_eq!(ollama.last_conversation(), ["system: be brief", "user: one"]);
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
    let mut pages = Vec::new();
    let mut path = format!("/sessions/{id}?limit=2");
    loop {
        let page = gateway.get(&path).await?;
        ensure!(page.status == 200, "{} {}", page.status, page.text());
        pages.push(questions(&page));
        let next = page.at("/next");
        if next.is_empty() {
            break;
        }
        path = format!("/sessions/{id}?limit=2&before={next}");
    }
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
    assert_eq!(ask(gateway.as_ref(), Method::GET, &paths[0], &[ANN]).await?.at("/system"), "secret");
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
    assert_eq!((turn?.header("x-session"), deleted?.status.as_u16()), ("stored", 204));
    // It begins a session of its own under the same id.
    let shown = gateway.get(&format!("/sessions/{id}")).await?;
    assert_eq!((shown.at("/system"), questions(&shown)), (String::new(), vec!["two".to_owned()]));
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
    Ok(())
}

on_every_form! {
    a_session_is_made_with_an_id_that_cannot_be_guessed,
    what_a_session_was_given_holds_for_its_turns,
    a_sessions_system_message_goes_ahead_on_ollamas_surfaces_as_well,
    a_session_is_shown_page_by_page,
    every_acknowledged_turn_is_there_to_be_read,
    a_session_that_its_first_turn_made_is_its_callers_as_well,
    somebody_elses_session_is_as_one_that_never_was,
    a_trusted_header_says_whose_a_session_is,
    api_keys_guard_sessions,
    a_session_that_is_deleted_is_forgotten,
    a_turn_that_is_answered_while_its_session_is_deleted_brings_nothing_back,
    a_session_is_written_out_for_programs_and_for_people,
    a_sessions_own_time_to_live_holds_on_every_surface,
}
