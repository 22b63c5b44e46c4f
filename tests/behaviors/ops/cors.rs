//! Which web pages may ask, and what their browsers are told.

use crate::behaviors::{prelude::*, surfaces};

const EVIL: (&str, &str) = ("origin", "http://evil.example");

/// Paths of every kind, each with a method that it has.
const PATHS: [(&str, &str); 14] = [
    ("POST", "/chat"),
    ("POST", CHAT),
    ("POST", "/api/generate"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/messages"),
    ("POST", "/api/pull"),
    ("DELETE", "/api/delete"),
    ("GET", "/api/tags"),
    ("GET", "/v1/models"),
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/metrics"),
    ("GET", "/api/nosuch"),
];

/// Whether the reply lets a page of this origin read it, and keeps caches from giving it to another.
#[track_caller]
fn check_welcome(reply: &Reply, origin: &str, path: &str) {
    assert_eq!(reply.header("access-control-allow-origin"), origin, "{path}");
    let vary: Vec<_> = reply.headers.get_all("vary").iter().filter_map(|value| value.to_str().ok()).collect();
    assert!(vary.iter().any(|name| name.eq_ignore_ascii_case("origin")), "{path}: {vary:?}");
    let exposed = reply.header("access-control-expose-headers");
    assert!(exposed.contains("X-Request-Id") && exposed.contains("X-Session"), "{path}: {exposed}");
    assert_eq!(reply.header("access-control-allow-credentials"), "", "{path}");
}

async fn a_page_of_another_origin_is_refused_before_anything_else(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("API_KEYS", "alpha").set("API_BODY_LIMIT", "1KiB");
    let gateway = form.start(setup).await?;
    let long = "x".repeat(2048);
    for (method, path) in PATHS {
        for (body, key) in [("{", "alpha"), (&*long, "beta"), ("{\"message\":\"hello\"}", "alpha")] {
            let headers = [EVIL, ("x-api-key", key), ("content-encoding", "gzip")];
            let body = if method == "GET" { "" } else { body }.to_owned();
            let reply = gateway.request(method.parse()?, path, body, &headers).await?;
            assert_eq!(reply.status, 403, "{path}");
            let words = surfaces::told(path, &reply)?;
            assert!(words.contains("CORS_ALLOW_ORIGINS"), "{path}: {words}");
            assert_eq!(reply.header("access-control-allow-origin"), "", "{path}");
        }
        for method in ["PUT", "OPTIONS"] {
            let headers = [EVIL, ("access-control-request-method", "POST")];
            let reply = gateway.request(method.parse()?, path, "", &headers).await?;
            assert_eq!(reply.status, 403, "{method} {path}");
            assert_eq!(reply.header("access-control-allow-methods"), "", "{path}");
        }
    }
    assert!(surfaces::questions(&ollama).is_empty());
    Ok(())
}

/// Whether a page of each origin may ask.
async fn check_origins(gateway: &dyn Gateway, cases: &[(&str, bool)]) -> Result<()> {
    for (origin, is_welcome) in cases {
        for path in ["/chat", CHAT, "/v1/chat/completions", "/v1/messages"] {
            let mut body = surfaces::question("llama3.2");
            body["message"] = "hello".into();
            let reply = gateway.post_to(path, body, &[("origin", origin)]).await?;
            assert_eq!(reply.status, if *is_welcome { 200 } else { 403 }, "{origin} {path}");
            if *is_welcome {
                check_welcome(&reply, origin, path);
            }
        }
    }
    Ok(())
}

async fn pages_of_this_machine_may_ask(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let cases = [
        ("http://localhost", true),
        ("http://localhost:3000", true),
        ("https://127.0.0.1:8443", true),
        ("http://0.0.0.0:1", true),
        ("app://obsidian.md", true),
        ("vscode-webview://1a2b", true),
        ("http://localhost.evil.example", false),
        ("http://evil.example", false),
        ("null", false),
    ];
    check_origins(gateway.as_ref(), &cases).await
}

async fn pages_of_the_services_own_origin_may_ask(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("ALLOWED_HOSTS", "ai.example.com")).await?;
    for (host, origin, status) in [
        ("ai.example.com", "http://ai.example.com", 200),
        ("ai.example.com", "https://ai.example.com", 200),
        ("ai.example.com:8000", "http://ai.example.com:8000", 200),
        ("ai.example.com:8000", "http://ai.example.com", 403),
        ("ai.example.com", "http://ai.example.com.evil.example", 403),
    ] {
        let reply =
            gateway.request(Method::GET, "/api/tags", "", &[("host", host), ("origin", origin)]).await?;
        assert_eq!(reply.status, status, "{origin} at {host}");
    }
    Ok(())
}

async fn pages_of_the_setting_may_ask(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let list = "https://app.example.com, https://*.b.example";
    let named = form.start(Setup::new([&ollama]).set("CORS_ALLOW_ORIGINS", list)).await?;
    let cases = [
        ("https://app.example.com", true),
        ("https://x.y.b.example", true),
        ("http://localhost:3000", true),
        ("http://app.example.com", false),
        ("https://app.example.com:444", false),
        ("https://b.example", false),
        ("https://other.example.com", false),
    ];
    check_origins(named.as_ref(), &cases).await?;
    let every = form.start(Setup::new([&ollama]).set("CORS_ALLOW_ORIGINS", "*")).await?;
    check_origins(every.as_ref(), &[("https://anywhere.example", true), ("null", true)]).await
}

async fn a_browser_that_asks_first_is_answered_without_a_key(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    let origin = "http://localhost:3000";
    for (_, path) in PATHS {
        let asked = [("origin", origin), ("access-control-request-method", "POST")];
        let reply = gateway.request(Method::OPTIONS, path, "", &asked).await?;
        assert_eq!((reply.status.as_u16(), &*reply.text()), (204, ""), "{path}");
        check_welcome(&reply, origin, path);
        assert!(reply.header("access-control-allow-methods").contains("DELETE"), "{path}");
        assert_eq!(reply.header("access-control-max-age"), "43200", "{path}");
        let allowed = reply.header("access-control-allow-headers");
        for name in ["Authorization", "Content-Type", "X-Api-Key", "X-Paddock-Session"] {
            assert!(allowed.contains(name), "{path}: {allowed}");
        }
        let wanted = ("access-control-request-headers", "anthropic-version,x-stainless-os");
        let reply = gateway.request(Method::OPTIONS, path, "", &[&asked[..], &[wanted]].concat()).await?;
        assert_eq!(reply.header("access-control-allow-headers"), wanted.1, "{path}");
    }
    assert!(surfaces::questions(&ollama).is_empty());
    // Whoever is no browser asks nothing first.
    let reply = gateway.request(Method::OPTIONS, CHAT, "", &[("x-api-key", "alpha")]).await?;
    assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, "POST"));
    Ok(())
}

async fn a_page_can_read_every_reply_that_is_meant_for_it(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    let origin = ("origin", "http://localhost:3000");
    let key = ("x-api-key", "alpha");
    for (path, _) in surfaces::QUESTIONS.into_iter().chain([("/chat", "")]) {
        for stream in [false, true] {
            let mut body = surfaces::question("llama3.2");
            body["stream"] = stream.into();
            body["message"] = "hello".into();
            let reply = gateway.post_to(path, body.clone(), &[origin, key]).await?;
            assert_eq!(reply.status, 200, "{path}");
            check_welcome(&reply, origin.1, path);
            let refused = gateway.post_to(path, body.clone(), &[origin]).await?;
            assert_eq!(refused.status, 401, "{path}");
            check_welcome(&refused, origin.1, path);
            body["model"] = "mistral".into();
            let missing = gateway.post_to(path, body, &[origin, key]).await?;
            assert_eq!(missing.status, 404, "{path}");
            check_welcome(&missing, origin.1, path);
        }
    }
    for (_, path) in PATHS {
        let reply = gateway.request(Method::GET, path, "", &[origin, key]).await?;
        check_welcome(&reply, origin.1, path);
        let nobodys = gateway.request(Method::GET, path, "", &[key]).await?;
        assert_eq!(nobodys.header("access-control-allow-origin"), "", "{path}");
    }
    Ok(())
}

async fn a_page_of_another_origin_administers_nothing_whatever_it_knows(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama])
        .set("ADMIN_TOKEN", "root")
        .set("ALLOW_MODEL_MANAGEMENT", "true")
        .set("ALLOWED_HOSTS", "ai.example.com")
        .set("CORS_ALLOW_ORIGINS", "https://app.example.com");
    let gateway = form.start(setup).await?;
    let body = r#"{"model":"m","source":"m","destination":"n"}"#;
    let token = ("authorization", "Bearer root");
    let (own, host) = (("origin", "http://ai.example.com"), ("host", "ai.example.com"));
    for origin in ["https://app.example.com", "http://localhost:3000", "app://obsidian.md"] {
        for (method, path) in [
            (Method::POST, "/api/pull"),
            (Method::POST, "/api/create"),
            (Method::POST, "/api/copy"),
            (Method::DELETE, "/api/delete"),
            (Method::DELETE, "/cache"),
            (Method::GET, "/fleet"),
        ] {
            let body = if method == Method::GET { "" } else { body };
            let reply = gateway.request(method.clone(), path, body, &[("origin", origin), token]).await?;
            assert_eq!(reply.status, 403, "{method} {path} from {origin}");
            assert!(surfaces::told(path, &reply)?.contains("administer"), "{path}: {}", reply.text());
            check_welcome(&reply, origin, path);
        }
        let asked = [("origin", origin), token, ("x-paddock-explain", "1")];
        let reply = gateway.chat_with(json!({"message": origin}), &asked).await?;
        assert_eq!((reply.status.as_u16(), reply.header("x-paddock-route")), (200, ""), "{origin}");
    }
    assert!(surfaces::questions(&ollama).iter().all(|asked| asked.path == CHAT));
    let reply = gateway.request(Method::DELETE, "/cache", "", &[own, host, token]).await?;
    assert_eq!(reply.status, 204);
    assert_eq!(gateway.request(Method::GET, "/fleet", "", &[own, host, token]).await?.status, 200);
    Ok(())
}

on_every_form! {
    a_page_of_another_origin_administers_nothing_whatever_it_knows,
    a_page_of_another_origin_is_refused_before_anything_else,
    pages_of_this_machine_may_ask,
    pages_of_the_services_own_origin_may_ask,
    pages_of_the_setting_may_ask,
    a_browser_that_asks_first_is_answered_without_a_key,
    a_page_can_read_every_reply_that_is_meant_for_it,
}
