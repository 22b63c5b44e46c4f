//! Paths that are nearly right: Ollama's redirects, and refusals that name the right path.

use crate::behaviors::{prelude::*, surfaces};

async fn a_path_with_slashes_too_many_moves_to_the_right_one(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let question = surfaces::question("llama3.2").to_string();
    for (method, path, status, location) in [
        (Method::POST, "/api/chat/", 307, "/api/chat"),
        (Method::POST, "/api//chat", 307, "/api/chat"),
        (Method::POST, "/v1/chat/completions/", 307, "/v1/chat/completions"),
        (Method::POST, "/v1//messages?beta=true", 307, "/v1/messages?beta=true"),
        (Method::GET, "/v1/models/", 301, "/v1/models"),
        (Method::GET, "/api/tags//?x=//evil.example", 301, "/api/tags?x=//evil.example"),
        (Method::HEAD, "/api/tags/", 307, "/api/tags"),
    ] {
        let moved = gateway.request(method.clone(), path, question.clone(), &[]).await?;
        let found = (moved.status.as_u16(), moved.header("location"));
        assert_eq!(found, (status, location), "{method} {path}: {}", moved.text());
        let followed = gateway.request(method.clone(), location, question.clone(), &[]).await?;
        assert_eq!(followed.status, 200, "{method} {path}: {}", followed.text());
    }
    assert_eq!(ollama.count("/api/chat/") + ollama.count("/api//chat"), 0);
    Ok(())
}

async fn two_slashes_at_the_beginning_lead_to_no_other_server(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (method, path, status, location) in [
        (Method::POST, "//api/chat", 307, "/api/chat"),
        (Method::GET, "//v1/models", 301, "/v1/models"),
        (Method::GET, "//v1/models/llama3.2", 301, "/v1/models/llama3.2"),
        (Method::GET, "//evil.example", 404, ""),
        (Method::GET, "//evil.example/", 404, ""),
        (Method::GET, "//evil.example//api/tags", 404, ""),
        (Method::GET, "/\\evil.example/", 404, ""),
    ] {
        let moved = gateway.request(method.clone(), path, "", &[]).await?;
        assert_eq!((moved.status.as_u16(), moved.header("location")), (status, location), "{path}");
    }
    let unknown = gateway.request(Method::POST, "//api/chats", "{}", &[]).await?;
    assert!(surfaces::told("/api/chat", &unknown)?.contains("/api/chat"), "{}", unknown.text());
    Ok(())
}

async fn a_wrong_path_is_404_in_the_shape_of_its_clients_and_names_the_right_one(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (path, shape, right) in [
        ("/v1/v1/messages", "/v1/messages", "/v1/messages"),
        ("/v1/messages/v1/messages", "/v1/messages", "/v1/messages"),
        ("/api/messages", "/v1/messages", "/v1/messages"),
        ("/v1/api/chat", "/api/chat", "/api/chat"),
        ("/api/api/generate", "/api/generate", "/api/generate"),
        ("/v1/v1/chat/completions", "/v1/chat/completions", "/v1/chat/completions"),
        ("/api/chat/completions", "/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/models", "/v1/models", "/v1/models"),
        ("/v1/nothing", "/v1/models", "/openapi.json"),
        ("/api/nothing", "/api/chat", "/openapi.json"),
    ] {
        for method in [Method::GET, Method::POST] {
            let reply = gateway.request(method, path, "{}", &[]).await?;
            assert_eq!(reply.status, 404, "{path}");
            let words = surfaces::told(shape, &reply)?;
            assert!(words.contains(right), "{path}: {words}");
        }
    }
    Ok(())
}

async fn without_a_key_a_path_tells_nothing(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    for path in ["/api/chat/", "/v1/v1/messages", "/v1/nothing", "/api//tags"] {
        let reply = gateway.request(Method::POST, path, "{}", &[]).await?;
        assert_eq!((reply.status.as_u16(), reply.header("location")), (401, ""), "{path}");
    }
    let moved = gateway.request(Method::POST, "/api/chat/", "{}", &[("x-api-key", "alpha")]).await?;
    assert_eq!((moved.status.as_u16(), moved.header("location")), (307, "/api/chat"));
    Ok(())
}

on_every_form! {
    a_path_with_slashes_too_many_moves_to_the_right_one,
    two_slashes_at_the_beginning_lead_to_no_other_server,
    a_wrong_path_is_404_in_the_shape_of_its_clients_and_names_the_right_one,
    without_a_key_a_path_tells_nothing,
}
