//! How much of a session a model reads that no host has loaded: what its Modelfile sets, which a host is asked once.

use crate::behaviors::{prelude::*, surfaces};

const SHOW: &str = "/api/show";
/// The surfaces that have sessions.
const SURFACES: [&str; 4] = ["/chat", CHAT, "/v1/chat/completions", "/v1/messages"];
/// By what the stand-in counts, 900 tokens; with its answer a turn has some 1,830.
const LONG: usize = 6000;

/// Asks for one word in a session on a path.
async fn ask(gateway: &dyn Gateway, path: &str, text: &str) -> Result<Reply> {
    let body = if path == "/chat" {
        json!({"message": text})
    } else {
        json!({"model": "llama3.2", "max_tokens": 64, "stream": false, "messages": [{"role": "user", "content": text}]})
    };
    let reply = gateway.post_to(path, body, &[("x-paddock-session", path)]).await?;
    ensure!(reply.status == 200, "{path}: {} {}", reply.status, reply.text());
    Ok(reply)
}

/// How many turns are left out after two long ones and before a short one.
async fn left_out(gateway: &dyn Gateway, path: &str) -> Result<String> {
    for letter in ["a", "b"] {
        let reply = ask(gateway, path, &letter.repeat(LONG)).await?;
        assert_eq!(reply.header("x-session-left-out"), "", "{path}: one turn has room");
    }
    Ok(ask(gateway, path, "and now?").await?.header("x-session-left-out").to_owned())
}

async fn a_model_that_is_not_loaded_reads_what_its_modelfile_sets(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.reads(Some(8192), 16_384);
    let gateway = form.start(Setup::new([&ollama]).in_one_instance()).await?;
    for path in SURFACES {
        assert_eq!(left_out(gateway.as_ref(), path).await?, "", "{path}");
        let sent = surfaces::questions(&ollama).last().map(Recorded::messages).unwrap_or_default();
        assert_eq!(sent.len(), 5, "{path}");
    }
    assert_eq!(ollama.count(SHOW), 1, "it is asked once");
    Ok(())
}

async fn a_model_reads_no_more_than_it_was_trained_with(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.reads(Some(8192), 4400);
    let gateway = form.start(Setup::new([&ollama])).await?;
    assert_eq!(left_out(gateway.as_ref(), "/chat").await?, "1");
    let body = json!({"message": "and now?", "session_id": "/chat", "options": {"num_ctx": 100_000}});
    assert_eq!(gateway.chat(body).await?.header("x-session-left-out"), "1", "nor if the request wishes it");
    Ok(())
}

async fn nobody_is_asked_where_it_does_not_matter(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.reads(Some(8192), 16_384);
    let gateway = form.start(Setup::new([&ollama])).await?;
    // Without a session, with a short one, and with what the request wishes that every model reads.
    gateway.say(&"a".repeat(2 * LONG)).await?;
    for message in ["one", "two"] {
        gateway.say_in("short", message).await?;
    }
    let options = json!({"num_ctx": 500});
    for text in ["a".repeat(LONG), "two".to_owned()] {
        let body = json!({"message": text, "session_id": "wishing", "options": options});
        assert_eq!(gateway.chat(body).await?.status, 200);
    }
    assert_eq!(ollama.count(SHOW), 0);
    Ok(())
}

async fn a_model_that_is_loaded_reads_what_it_is_loaded_with(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.reads(Some(8192), 16_384);
    ollama.loads(&["llama3.2:latest"]);
    let gateway = form.start(Setup::new([&ollama])).await?;
    assert_eq!(left_out(gateway.as_ref(), "/chat").await?, "");
    assert_eq!(ollama.count(SHOW), 0);
    Ok(())
}

async fn a_host_that_cannot_tell_costs_no_turn(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.answers(SHOW, refusal(500)?);
    let gateway = form.start(Setup::new([&ollama])).await?;
    assert_eq!(left_out(gateway.as_ref(), "/chat").await?, "1", "the least of Ollama's defaults");
    assert!(ollama.count(SHOW) > 0);
    // Once it can, it is asked again.
    ollama.recover();
    ollama.reads(Some(8192), 16_384);
    assert_eq!(ask(gateway.as_ref(), "/chat", "and now?").await?.header("x-session-left-out"), "");
    Ok(())
}

async fn a_host_that_does_not_answer_in_time_costs_no_turn(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.answers(SHOW, Scripted::hang());
    let gateway = form.start(Setup::new([&ollama]).set("HEALTH_TIMEOUT", "1")).await?;
    for letter in ["a", "b"] {
        let asked = ollama.count(SHOW);
        let silence = async {
            if letter == "b" {
                ollama.wait_for_requests(SHOW, asked + 1, PATIENCE).await?;
                gateway.pass(Duration::from_secs(1)).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        let text = letter.repeat(LONG);
        let (reply, silence) = futures::join!(ask(gateway.as_ref(), "/chat", &text), silence);
        silence?;
        assert_eq!(reply?.header("x-session"), "stored");
    }
    Ok(())
}

on_every_form! {
    a_model_that_is_not_loaded_reads_what_its_modelfile_sets,
    a_model_reads_no_more_than_it_was_trained_with,
    nobody_is_asked_where_it_does_not_matter,
    a_model_that_is_loaded_reads_what_it_is_loaded_with,
    a_host_that_cannot_tell_costs_no_turn,
    a_host_that_does_not_answer_in_time_costs_no_turn,
}
