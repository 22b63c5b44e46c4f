//! Under which names the service may be addressed, against web pages that have their own name lead here.

use crate::behaviors::{prelude::*, surfaces};

async fn a_name_that_is_not_allowed_is_refused_before_anything_else(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama])
        .set("ALLOWED_HOSTS", "ai.example.com,*.b.example")
        .set("API_KEYS", "alpha")
        .set("ALLOW_MODEL_MANAGEMENT", "true");
    let gateway = form.start(setup).await?;
    let own = ("origin", "http://evil.example:8000");
    let preflight = ("access-control-request-method", "POST");
    for (method, path) in [
        ("POST", "/chat"),
        ("POST", CHAT),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/messages"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/pull"),
        ("GET", "/api/tags"),
        ("GET", "/"),
        ("GET", "/sessions/s"),
        ("DELETE", "/cache"),
        ("GET", "/fleet"),
        ("GET", "/health"),
        ("GET", "/livez"),
        ("GET", "/metrics"),
        ("OPTIONS", "/chat"),
    ] {
        for headers in [&[][..], &[own], &[own, preflight], &[("x-api-key", "alpha")]] {
            let headers = [&[("host", "evil.example:8000")], headers].concat();
            let body = if method == "GET" { "" } else { r#"{"message":"hello","model":"m"}"# };
            let reply = gateway.request(method.parse()?, path, body, &headers).await?;
            assert_eq!(reply.status, 403, "{method} {path}");
            let words = surfaces::told(path, &reply)?;
            assert!(words.contains("ALLOWED_HOSTS") && !words.contains("evil"), "{path}: {words}");
            assert_eq!(reply.header("access-control-allow-origin"), "", "{path}");
        }
    }
    assert!(surfaces::questions(&ollama).is_empty());
    let reply = gateway.chat_with(json!({"message": "hello"}), &[("host", "evil.example")]).await?;
    assert_eq!(reply.outcome(), (403, "host_not_allowed".to_owned()));
    Ok(())
}

async fn addresses_local_names_and_those_of_the_setting_are_answered(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway =
        form.start(Setup::new([&ollama]).set("ALLOWED_HOSTS", "ai.example.com,*.b.example")).await?;
    for (host, status) in [
        ("127.0.0.1:8000", 200),
        ("10.1.2.3", 200),
        ("[::1]:8000", 200),
        ("localhost:8000", 200),
        ("LOCALHOST", 200),
        ("nas.local", 200),
        ("host.docker.internal", 200),
        ("AI.example.com:8443", 200),
        ("x.y.b.example", 200),
        ("b.example", 403),
        ("example.com", 403),
        ("localhost.example.com", 403),
    ] {
        for path in ["/api/tags", "/livez", "/health", "/metrics"] {
            let reply = gateway.request(Method::GET, path, "", &[("host", host)]).await?;
            assert_eq!(reply.status, status, "{path} at {host}");
        }
    }
    Ok(())
}

on_every_form! {
    a_name_that_is_not_allowed_is_refused_before_anything_else,
    addresses_local_names_and_those_of_the_setting_are_answered,
}
