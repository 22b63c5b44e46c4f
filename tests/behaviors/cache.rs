//! Answers that were given before, or are being given: which are kept, whom they answer, and when they are forgotten.

mod cache_control;
mod coalescing;
mod freshness;
mod hits;
mod idempotency;
mod kept;
mod keys;
mod modes;
pub(super) mod purging;

use serde_json::Value;

use crate::behaviors::prelude::*;

/// The surfaces whose answers can come in pieces.
const SPOKEN: [&str; 5] = [CHAT, "/api/generate", "/v1/chat/completions", "/v1/completions", "/v1/messages"];
/// Those that embed.
const EMBEDDING: [&str; 3] = ["/api/embed", "/api/embeddings", "/v1/embeddings"];
/// Those that a conversation comes by.
const CONVERSATIONS: [&str; 4] = ["/chat", CHAT, "/v1/chat/completions", "/v1/messages"];

/// A question that every surface understands, with more in it.
fn asking(stream: bool, more: &Value) -> Value {
    let mut body = json!({
        "model": "llama3.2", "max_tokens": 64, "stream": stream, "message": "one two three",
        "messages": [{"role": "user", "content": "one two three"}], "prompt": "one two three", "input": "one two three",
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

/// The same with a seed, wherever a surface looks for one.
fn seeded(stream: bool) -> Value {
    // Anthropic's protocol knows no seed.
    asking(stream, &json!({"seed": 7, "temperature": 0, "options": {"seed": 7}}))
}

async fn ask(gateway: &dyn Gateway, path: &str, body: &Value) -> Result<Reply> {
    let reply = gateway.post_to(path, body.clone(), &[]).await?;
    ensure!(reply.status == 200, "{path}: {} {}", reply.status, reply.text());
    Ok(reply)
}

/// What the cache did for a body.
async fn cached(gateway: &dyn Gateway, path: &str, body: &Value) -> Result<String> {
    Ok(ask(gateway, path, body).await?.cache().to_owned())
}

/// What the model said, in any form of any protocol.
fn words(path: &str, reply: &Reply) -> String {
    let text = reply.text();
    let lines = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    let places: &[&str] = match path {
        "/chat" => &["/response", "/delta"],
        CHAT => &["/message/content"],
        "/api/generate" => &["/response"],
        "/v1/messages" => &["/content/0/text", "/delta/text"],
        "/v1/responses" => &["/output/0/content/0/text", "/delta"],
        _ => &["/choices/0/message/content", "/choices/0/delta/content", "/choices/0/text"],
    };
    let objects = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    objects
        .flat_map(|object| {
            places
                .iter()
                .filter_map(|place| object.pointer(place)?.as_str().map(str::to_owned))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A recorded answer in one piece with another body.
fn whole(recorded: &str, body: &Value) -> Result<Scripted> {
    let mut scripted = Scripted::recorded(recorded)?.in_pieces_of(usize::MAX);
    scripted.pieces.first_mut().context("no piece")?.bytes = body.to_string().into();
    // The length is told anew.
    Ok(scripted.ending_after(1, End::Clean))
}
