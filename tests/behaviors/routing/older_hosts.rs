//! Hosts of an older version, which do not have every path.

use http::{StatusCode, header};
use paddock_tests::ollama::{Pause, Piece};

use crate::behaviors::{
    prelude::*,
    surfaces::{question, told},
};

/// Paths that came with some version.
const NEW: [&str; 4] = ["/api/embed", "/v1/chat/completions", "/v1/responses", "/v1/messages"];

/// The host tells this version.
fn is_version(ollama: &FakeOllama, version: &str) {
    let bytes = json!({"version": version}).to_string().into();
    let pieces = vec![Piece { after: Pause::NONE, bytes }];
    let told = Scripted { pieces, ..Scripted::proxy(StatusCode::OK) };
    let told = told.with_header(header::CONTENT_TYPE, "application/json").ending_after(1, End::Clean);
    ollama.answers("/api/version", told);
}

/// What Ollama says of a path that it does not have.
fn no_route() -> Result<Scripted> {
    Scripted::recorded("77-e-notfound-path")
}

async fn a_path_that_an_older_host_lacks_is_asked_of_another_and_costs_it_no_model(
    form: &dyn Form,
) -> Result<()> {
    let (old, new) = (FakeOllama::start().await?, FakeOllama::start().await?);
    is_version(&old, "0.1.20");
    for path in NEW {
        old.answers(path, no_route()?);
    }
    let setup = Setup::new([&old, &new]).set("LB_POLICY", "round_robin").set("CACHE_ENABLED", "false");
    let gateway = form.start(setup).await?;
    for path in NEW {
        for _ in 0..4 {
            let reply = gateway.post_to(path, question("llama3.2"), &[]).await?;
            assert_eq!((reply.status.as_u16(), reply.header("x-paddock-host")), (200, "2"), "{path}");
        }
        assert_eq!(old.count(path), 1, "{path} was asked again");
    }
    // It still has the model, and the other paths.
    for turn in 0..4 {
        gateway.say(&format!("hello {turn}")).await?;
    }
    assert_eq!((old.count(CHAT), new.count(CHAT)), (2, 2));
    Ok(())
}

async fn where_no_host_has_a_path_the_words_say_which_one_needs_an_upgrade(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    for path in NEW {
        is_version(&ollama, "0.1.20");
        ollama.answers(path, no_route()?);
        let gateway = form.start(Setup::new([&ollama])).await?;
        for _ in 0..3 {
            let reply = gateway.post_to(path, question("llama3.2"), &[]).await?;
            assert_eq!(reply.status, 404, "{path}: {}", reply.text());
            let words = told(path, &reply)?;
            assert_eq!(words, format!("host 1 (Ollama 0.1.20) does not have {path}: upgrade it"));
        }
        assert_eq!(ollama.count(path), 1, "{path} was asked again");
        // It is asked again once it has been upgraded.
        ollama.recover();
        is_version(&ollama, "0.33.0");
        let reply = gateway.post_to(path, question("llama3.2"), &[]).await?;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
    }
    Ok(())
}

/// Ollama finds no route for a name with a slash in a path, which says nothing of other names.
async fn a_name_that_no_path_can_have_takes_the_path_from_no_other(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    for host in &hosts {
        is_version(host, "0.33.0");
        host.has_models(&["llama3.2:latest", "me/qwen3:4b"]);
        host.answers("/v1/models/me/qwen3:4b", no_route()?);
    }
    let gateway = form.start(Setup::new(&hosts)).await?;
    for _ in 0..2 {
        let reply = gateway.get("/v1/models/me/qwen3:4b").await?;
        assert_eq!(reply.status, 404, "{}", reply.text());
        let reply = gateway.get("/v1/models/llama3.2").await?;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    Ok(())
}

async fn whatever_answers_for_a_host_that_is_away_proves_nothing_about_it(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).rarely_probes()).await?;
    assert_eq!(gateway.post_to("/api/embed", question("llama3.2"), &[]).await?.status, 200);
    for path in ["/api/embed", "/api/version", TAGS] {
        ollama.answers(path, no_route()?);
    }
    let mut away = question("llama3.2");
    away["input"] = "away".into();
    assert_eq!(gateway.post_to("/api/embed", away.clone(), &[]).await?.status, 404);
    ollama.recover();
    let reply = gateway.post_to("/api/embed", away, &[]).await?;
    assert_eq!(reply.status, 200, "{}", reply.text());
    Ok(())
}

async fn a_change_that_an_older_host_does_not_know_names_it(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    hosts[0].answers("/api/copy", no_route()?);
    let reply =
        gateway.post_to("/api/copy", json!({"source": "llama3.2", "destination": "mine"}), &[]).await?;
    let words = told("/api/copy", &reply)?;
    assert!(words.contains("host 1 does not have /api/copy: upgrade it"), "{words}");
    assert_eq!(hosts[1].count("/api/copy"), 1);
    Ok(())
}

on_every_form! {
    a_path_that_an_older_host_lacks_is_asked_of_another_and_costs_it_no_model,
    where_no_host_has_a_path_the_words_say_which_one_needs_an_upgrade,
    a_name_that_no_path_can_have_takes_the_path_from_no_other,
    whatever_answers_for_a_host_that_is_away_proves_nothing_about_it,
    a_change_that_an_older_host_does_not_know_names_it,
}
