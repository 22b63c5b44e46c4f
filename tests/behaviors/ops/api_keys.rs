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
    without_a_valid_key_nothing_is_asked_and_nothing_is_told,
    probes_and_scrapers_need_no_key,
}
