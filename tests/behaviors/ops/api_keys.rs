//! Who may come in.

use crate::behaviors::prelude::*;

async fn a_key_opens_the_service_in_any_of_three_headers(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha, beta")).await?;
    for headers in [
        [("authorization", "Bearer alpha")],
        [("authorization", "bearer beta")],
        [("x-api-key", "beta")],
        [("api-key", "alpha")],
    ] {
        let reply = gateway.chat_with(json!({"message": "hello"}), &headers).await?;
        assert_eq!(reply.status, 200, "{headers:?}");
    }
    Ok(())
}

/// `any:alpha`, as a browser sends a password.
const PASSWORD: (&str, &str) = ("authorization", "Basic YW55OmFscGhh");

async fn the_key_that_opens_is_the_caller_by_whatever_header_it_came(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha,beta")).await?;
    let session = json!({"message": "hello", "session_id": "s"});
    assert_eq!(gateway.chat_with(session, &[("authorization", "Bearer alpha")]).await?.status, 200);
    for headers in [
        &[("authorization", "Bearer alpha")][..],
        &[("authorization", "BEARER   alpha")],
        &[PASSWORD],
        &[("x-api-key", "alpha")],
        &[("api-key", "alpha")],
        // What else is sent with the key makes nobody else of its caller.
        &[("authorization", "Bearer one"), ("x-api-key", "alpha")],
        &[("authorization", "Bearer two"), ("x-api-key", "alpha")],
    ] {
        let shown = gateway.request(Method::GET, "/sessions/s", "", headers).await?;
        assert_eq!(shown.status, 200, "{headers:?}");
    }
    let other = [("authorization", "Bearer beta"), ("x-api-key", "alpha")];
    assert_eq!(gateway.request(Method::GET, "/sessions/s", "", &other).await?.status, 404);
    Ok(())
}

async fn a_password_asks_and_neither_deletes_nor_changes_models(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("API_KEYS", "alpha").set("ALLOW_MODEL_MANAGEMENT", "true");
    let gateway = form.start(setup).await?;
    assert_eq!(gateway.chat_with(json!({"message": "hello"}), &[PASSWORD]).await?.status, 200);
    for (method, path) in [
        (Method::DELETE, "/sessions/s"),
        (Method::DELETE, "/cache"),
        (Method::DELETE, "/api/delete"),
        (Method::POST, "/api/pull"),
        (Method::POST, "/api/copy"),
        (Method::POST, "/api/push"),
    ] {
        let reply = gateway.request(method.clone(), path, r#"{"model":"m"}"#, &[PASSWORD]).await?;
        assert_eq!(
            (reply.status.as_u16(), reply.header("www-authenticate")),
            (401, "Bearer"),
            "{method} {path}"
        );
    }
    assert_eq!(ollama.count("/api/pull"), 0);
    Ok(())
}

async fn the_admin_token_is_one_key_whatever_it_holds(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("ADMIN_TOKEN", "z,9f86")).await?;
    for (header, status) in [
        (("x-api-key", "z"), 403),
        (("authorization", "Bearer 9f86"), 403),
        (("api-key", "z,9f86"), 403),
        (("x-api-key", "z,9f86"), 204),
        (("authorization", "Bearer z,9f86"), 204),
    ] {
        let reply = gateway.request(Method::DELETE, "/cache", "", &[header]).await?;
        assert_eq!(reply.status, status, "{header:?}");
    }
    Ok(())
}

async fn without_a_valid_key_nothing_is_asked_and_nothing_is_told(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha,beta")).await?;
    for headers in [
        &[][..],
        &[("authorization", "alpha")],
        &[("authorization", "Basic alpha")],
        &[("authorization", "Bearer alph")],
        &[("authorization", "Bearer alpha,beta")],
        &[("x-api-key", "")],
        &[("x-api-key", "ALPHA")],
    ] {
        // The key comes before everything else: what is wrong with the body is nobody's business.
        for body in [json!({"message": "hello"}), json!({})] {
            let reply = gateway.chat_with(body, headers).await?;
            assert_eq!(reply.outcome(), (401, "unauthorized".to_owned()), "{headers:?}");
            assert_eq!(reply.header("www-authenticate"), "Bearer");
            assert_eq!(reply.at("/error/type"), "authentication_error");
        }
    }
    assert_eq!(ollama.count(CHAT), 0);
    Ok(())
}

async fn ollamas_clients_find_a_server_without_a_key_and_make_no_host_work(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha").rarely_probes()).await?;
    let keyed = [("x-api-key", "alpha")];
    // Whatever asks first makes the service look at its hosts.
    assert_eq!(gateway.chat_with(json!({"message": "hello"}), &keyed).await?.status, 200);
    let looks = || ollama.requests().len();
    let version = gateway.request(Method::GET, "/api/version", "", &keyed).await?.json();
    let before = looks();
    for headers in [&[][..], &[("x-api-key", "beta")], &[("authorization", "Bearer x")]] {
        let banner = gateway.request(Method::GET, "/", "", headers).await?;
        assert_eq!((banner.status.as_u16(), &*banner.text()), (200, "Ollama is running"));
        let reply = gateway.request(Method::GET, "/api/version", "", headers).await?;
        assert_eq!((reply.status.as_u16(), reply.json()), (200, version.clone()), "{headers:?}");
        assert_eq!(reply.header("content-type"), "application/json", "{headers:?}");
        for path in ["/", "/api/version"] {
            let head = gateway.request(Method::HEAD, path, "", headers).await?;
            assert_eq!((head.status.as_u16(), head.body.len()), (200, 0), "{path}");
        }
        for (method, path) in
            [(Method::POST, "/api/version"), (Method::POST, "/"), (Method::GET, "/api/tags")]
        {
            assert_eq!(gateway.request(method, path, "", headers).await?.status, 401, "{path}");
        }
    }
    assert_eq!(looks(), before, "a client without a key had a host asked");
    Ok(())
}

async fn a_version_that_is_not_known_is_not_asked_for_without_a_key(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.refuse().await;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    let reply = gateway.get("/api/version").await?;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.at("/error").contains("version"), "{}", reply.text());
    Ok(())
}

async fn probes_and_scrapers_need_no_key(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("API_KEYS", "alpha")).await?;
    for path in ["/health", "/livez", "/metrics"] {
        assert_eq!(gateway.get(path).await?.status, 200, "{path}");
    }
    Ok(())
}

on_every_form! {
    a_key_opens_the_service_in_any_of_three_headers,
    the_key_that_opens_is_the_caller_by_whatever_header_it_came,
    a_password_asks_and_neither_deletes_nor_changes_models,
    the_admin_token_is_one_key_whatever_it_holds,
    without_a_valid_key_nothing_is_asked_and_nothing_is_told,
    ollamas_clients_find_a_server_without_a_key_and_make_no_host_work,
    a_version_that_is_not_known_is_not_asked_for_without_a_key,
    probes_and_scrapers_need_no_key,
}
