//! A client that leaves while it waits.

use crate::behaviors::prelude::*;

/// Asks, and leaves once Ollama was asked.
async fn ask_and_leave(gateway: &dyn Gateway, ollama: &FakeOllama, message: &str) -> Result<()> {
    let asked = ollama.count(CHAT);
    let mut chat = Box::pin(gateway.say_in("s", message));
    tokio::select! {
        reply = &mut chat => bail!("answered although nobody did: {:?}", reply?.text()),
        asked = ollama.wait_for_requests(CHAT, asked + 1, PATIENCE) => asked,
    }
}

async fn a_client_that_leaves_takes_its_upstream_request_with_it(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.loads(&["llama3.2:latest"]);
    let gateway = form.start(Setup::new([&ollama])).await?;
    let silent = [Scripted::hang(), Scripted::unfinished(End::Hang)?];
    for (index, silent) in silent.into_iter().enumerate() {
        ollama.chats(silent);
        ask_and_leave(gateway.as_ref(), &ollama, "hello").await?;
        ollama.wait_for_given_up(index + 1, Duration::from_secs(1)).await?;
    }
    assert_eq!(ollama.open_requests(), 0);
    Ok(())
}

async fn what_a_client_did_not_wait_for_is_not_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    ollama.next_chat(Scripted::unfinished(End::Hang)?);
    ask_and_leave(gateway.as_ref(), &ollama, "hello").await?;
    ollama.wait_for_given_up(1, PATIENCE).await?;
    let reply = gateway.say_in("s", "hello").await?;
    assert_eq!(reply.cache(), "miss");
    assert_eq!(ollama.last_conversation(), ["user: hello"]);
    Ok(())
}

async fn no_other_host_is_asked_for_a_client_that_left(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    first.loads(&["llama3.2:latest"]);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    first.chats(Scripted::hang());
    ask_and_leave(gateway.as_ref(), &first, "hello").await?;
    first.wait_for_given_up(1, PATIENCE).await?;
    // Whatever happens now happened before the answer to this.
    gateway.say("another").await?;
    assert_eq!((first.count(CHAT), second.count(CHAT)), (1, 1));
    Ok(())
}

where_leaving_is_seen! {
    a_client_that_leaves_takes_its_upstream_request_with_it,
    what_a_client_did_not_wait_for_is_not_kept,
    no_other_host_is_asked_for_a_client_that_left,
}
