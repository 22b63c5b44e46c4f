//! What no form may ever log.

use crate::behaviors::prelude::*;

/// The log, once it tells of so many chats: a process writes it a little later than it replies.
async fn log_of(gateway: &dyn Gateway, chats: usize) -> Result<String> {
    let started = Instant::now();
    loop {
        let logs = gateway.logs();
        let told = logs.lines().filter(|line| line.contains("\"route\":\"/chat\"")).count();
        if told >= chats {
            assert_eq!(told, chats, "a request is told twice:\n{logs}");
            return Ok(logs);
        }
        ensure!(started.elapsed() < PATIENCE, "{told} of {chats} chats are in the log:\n{logs}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn every_chat_is_logged_once_under_the_id_that_its_reply_carries(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let mut replies = vec![gateway.say("hello").await?, gateway.say("hello").await?];
    replies.push(gateway.chat(json!({})).await?);
    ollama.next_chat(refusal(503)?);
    replies.push(gateway.chat(json!({"message": "busy"})).await?);
    let logs = log_of(gateway.as_ref(), replies.len()).await?;
    for reply in replies {
        let id = reply.header("x-request-id");
        let is_its_own = |line: &&str| line.contains(id) && line.contains("\"route\"");
        let line = logs.lines().find(is_its_own).unwrap_or_default();
        assert!(line.contains(&format!("\"status\":{}", reply.status.as_u16())), "{id}: {line}");
    }
    Ok(())
}

async fn neither_content_nor_credentials_are_ever_logged(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "key-hunter2")).await?;
    let credentials = [("authorization", "Bearer key-hunter2")];
    let body = json!({"message": "message-hunter2", "session_id": "session-hunter2"});
    assert_eq!(gateway.chat_with(body.clone(), &credentials).await?.status, 200);
    assert_eq!(gateway.chat_with(body.clone(), &[("x-api-key", "wrong-hunter2")]).await?.status, 401);
    for failure in [
        refusal(500)?,
        refusal(400)?,
        Scripted::with_line("{\"error\": \"words of hunter2\"}\n")?,
        Scripted::with_line("no JSON of hunter2\n")?,
    ] {
        ollama.next_chat(failure);
        gateway.chat_with(json!({"message": "another hunter2"}), &credentials).await?;
    }
    gateway.post("{\"message\": hunter2}", &credentials).await?;
    gateway.request(Method::GET, "/chat?key=hunter2", "", &credentials).await?;
    gateway.request(Method::GET, "/hunter2?key=hunter2", "", &credentials).await?;
    let logs = log_of(gateway.as_ref(), 8).await?;
    assert!(!logs.contains("hunter2"), "{logs}");
    Ok(())
}

async fn a_line_is_short_whatever_a_client_sends(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let method = Method::from_bytes(&b"M".repeat(60_000))?;
    let (path, long) = (format!("/{}", "p".repeat(5_000)), "i".repeat(5_000));
    let headers = [("x-request-id", &*long), ("user-agent", &long), ("x-api-key", &long)];
    // A host that refuses such a request by itself has nothing to log either.
    drop(gateway.request(method, &path, "", &headers).await);
    gateway.request(Method::GET, &path, "", &headers).await?;
    gateway.say("hello").await?;
    let logs = log_of(gateway.as_ref(), 1).await?;
    let longest = logs.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 2_000, "{longest} bytes");
    Ok(())
}

on_every_form! {
    every_chat_is_logged_once_under_the_id_that_its_reply_carries,
    neither_content_nor_credentials_are_ever_logged,
    a_line_is_short_whatever_a_client_sends,
}
