//! Clients that read slowly, or not at all: they hold upstream back.

use paddock_tests::ollama::Piece;

use crate::behaviors::prelude::*;

/// What a model would say in all, in bytes.
const OFFERED: usize = 200 << 20;
/// What is read of it at most while nobody reads, in bytes. Over sockets that is what the machine's buffers hold on both
/// sides of the gateway: 9 MB were measured natively and 10 MB on Spin; in memory a few lines.
const HELD: usize = 32 << 20;

/// A stream of many lines.
fn flood(pieces: usize) -> Result<Scripted> {
    let mut scripted = Scripted::saying("word")?;
    let text = "word ".repeat(3270);
    let mut line = Scripted::saying("x")?.pieces.remove(0);
    line.bytes = String::from_utf8_lossy(&line.bytes).replace("\"x\"", &format!("\"{text}\"")).into();
    let piece: Piece = line;
    let end = scripted.pieces.pop();
    scripted.pieces = vec![piece; pieces];
    scripted.pieces.extend(end);
    Ok(scripted)
}

async fn a_client_that_reads_nothing_holds_upstream_back(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let scripted = flood(OFFERED / (16 << 10))?;
    let offered: usize = scripted.pieces.iter().map(|piece| piece.bytes.len()).sum();
    assert!(offered >= OFFERED);
    ollama.chats(scripted);
    let body = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]});
    let reply = gateway.open_post(CHAT, body, &[]).await?;
    let written = ollama.written_until_held().await;
    assert!(written < HELD, "{written} of {offered} bytes were read for a client that reads nothing");
    assert_eq!(ollama.open_requests(), 1);
    drop(reply);
    ollama.wait_for_given_up(1, PATIENCE).await
}

async fn a_slow_reader_gets_everything(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    // More than all buffers hold.
    let scripted = flood(2500)?;
    let said: usize = scripted.pieces.iter().map(|piece| piece.bytes.len()).sum();
    ollama.chats(scripted);
    let body = json!({"model": "llama3.2", "messages": [{"role": "user", "content": "hello"}]});
    let mut reply = gateway.open_post(CHAT, body, &[]).await?;
    let (mut read, mut pieces) = (0, 0);
    while let Some(piece) = reply.next().await? {
        read += piece.len();
        pieces += 1;
        if pieces % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(read, said);
    Ok(())
}

on_every_form! {
    a_client_that_reads_nothing_holds_upstream_back,
    a_slow_reader_gets_everything,
}
