//! Every surface that Ollama speaks, a question for any of them, and what an error of each must look like.

use serde_json::Value;

use crate::behaviors::prelude::*;

/// Every surface that takes a body, with the setting that limits it.
pub(crate) const QUESTIONS: [(&str, &str); 10] = [
    (CHAT, "API_BODY_LIMIT"),
    ("/api/generate", "API_BODY_LIMIT"),
    ("/api/embed", "API_BODY_LIMIT"),
    ("/api/embeddings", "API_BODY_LIMIT"),
    ("/api/show", "BODY_LIMIT"),
    ("/v1/chat/completions", "OPENAI_BODY_LIMIT"),
    ("/v1/completions", "OPENAI_BODY_LIMIT"),
    ("/v1/responses", "OPENAI_BODY_LIMIT"),
    ("/v1/embeddings", "OPENAI_BODY_LIMIT"),
    ("/v1/messages", "ANTHROPIC_BODY_LIMIT"),
];

/// A question that every surface understands.
pub(crate) fn question(model: &str) -> Value {
    json!({
        "model": model,
        "max_tokens": 64,
        "stream": false,
        "messages": [{"role": "user", "content": "hello"}],
        "prompt": "hello",
        "input": "hello",
    })
}

/// What Ollama was asked on behalf of clients, without what the service asks for itself.
pub(crate) fn questions(ollama: &FakeOllama) -> Vec<Recorded> {
    let is_own = |request: &Recorded| [TAGS, "/api/ps", "/api/version"].contains(&&*request.path);
    ollama.requests().into_iter().filter(|request| !is_own(request)).collect()
}

/// What an error says, which must have the shape of its surface.
pub(crate) fn told(path: &str, reply: &Reply) -> Result<String> {
    let (keys, words) = match path {
        "/v1/messages" => (vec!["error", "request_id", "type"], "/error/message"),
        _ if path == "/" || path.starts_with("/api/") => (vec!["error"], "/error"),
        _ => (vec!["error"], "/error/message"),
    };
    let body = reply.json();
    let found: Vec<_> = body.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    ensure!(found == keys, "{path}: {} {}", reply.status, reply.text());
    ensure!(reply.header("content-type") == "application/json", "{path}: {:?}", reply.headers);
    ensure!(reply.header("content-length") == reply.body.len().to_string(), "{path}: {:?}", reply.headers);
    ensure!(!reply.header("x-request-id").is_empty(), "{path}: {:?}", reply.headers);
    if path == "/v1/messages" {
        ensure!(reply.at("/type") == "error", "{}", reply.text());
        ensure!(reply.at("/request_id") == reply.header("x-request-id"), "{}", reply.text());
    }
    let words = reply.at(words);
    ensure!(!words.is_empty(), "{path}: {}", reply.text());
    Ok(words)
}
