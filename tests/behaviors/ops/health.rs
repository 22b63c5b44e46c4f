//! `GET /health` and `GET /livez`.

use http::StatusCode;

use crate::behaviors::{prelude::*, surfaces};

/// The body of `/health`, with Redis where the form has one.
fn health(form: &dyn Form, status: &str, hosts: &[(&FakeOllama, bool)]) -> serde_json::Value {
    let hosts: serde_json::Map<_, _> = hosts.iter().map(|(host, up)| (host.url(), (*up).into())).collect();
    let mut body = json!({"status": status, "ollama": hosts});
    if form.has_redis() {
        body["redis"] = true.into();
    }
    body
}

async fn a_fleet_that_answers_is_healthy(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    let reply = gateway.get("/health").await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json(), health(form, "healthy", &[(&hosts[0], true), (&hosts[1], true)]));
    assert_eq!(reply.header("content-type"), "application/json");
    Ok(())
}

async fn one_host_that_answers_is_enough_for_200(form: &dyn Form) -> Result<()> {
    let (well, ill) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let gateway = form.start(Setup::new([&well, &ill]).set("HEALTH_TIMEOUT", "1")).await?;
    for fault in
        [Scripted::hang(), Scripted::unfinished(End::Hang)?, refusal(500)?, Scripted::saying("no list")?]
    {
        ill.lists(fault);
        let (started, expected) = (Instant::now(), health(form, "degraded", &[(&well, true), (&ill, false)]));
        // A look that ended a moment ago, before the fault, is told once more.
        loop {
            let reply = gateway.get("/health").await?;
            assert_eq!(reply.status, 200);
            if reply.json() == expected {
                break;
            }
            ensure!(started.elapsed() < Duration::from_secs(10), "{}", reply.text());
            gateway.pass(Duration::from_millis(100)).await;
        }
    }
    ill.refuse().await;
    assert_eq!(gateway.get("/health").await?.at("/status"), "degraded");
    ill.accept().await?;
    ill.recover();
    assert_eq!(gateway.get("/health").await?.at("/status"), "healthy");
    Ok(())
}

async fn only_what_answers_as_ollama_does_is_healthy(form: &dyn Form) -> Result<()> {
    let (well, other) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let gateway = form.start(Setup::new([&well, &other])).await?;
    let page = Scripted::proxy(StatusCode::OK);
    let missing = Scripted::proxy(StatusCode::NOT_FOUND);
    let other_json = Scripted::recorded("07-chat")?;
    for (kind, answers) in [
        ("a web server that answers anything", [&page, &page, &page]),
        ("another service", [&other_json, &other_json, &other_json]),
        ("a web server", [&missing, &missing, &missing]),
        ("a web server with a page for everybody", [&missing, &page, &page]),
    ] {
        for (path, answer) in [TAGS, "/api/version", "/v1/models"].into_iter().zip(answers) {
            other.answers(path, answer.clone());
        }
        let reply = gateway.get("/health").await?;
        assert_eq!(reply.json(), health(form, "degraded", &[(&well, true), (&other, false)]), "{kind}");
    }
    // Whoever speaks OpenAI's protocol alone is asked for any model.
    other.recover();
    other.answers(TAGS, missing.clone());
    other.answers("/api/version", missing.clone());
    let reply = gateway.get("/health").await?;
    assert_eq!(reply.json(), health(form, "healthy", &[(&well, true), (&other, true)]));
    // So is one that has the list, and does not give it now or not to us.
    for status in [401, 403, 429, 503] {
        other.answers("/v1/models", Scripted::proxy(StatusCode::from_u16(status)?));
        let reply = gateway.get("/health").await?;
        assert_eq!(reply.json(), health(form, "healthy", &[(&well, true), (&other, true)]), "{status}");
    }
    // Whoever tells a version as Ollama does is asked for no other list.
    other.recover();
    other.answers(TAGS, missing);
    let asked = other.count("/v1/models");
    let reply = gateway.get("/health").await?;
    assert_eq!(reply.json(), health(form, "healthy", &[(&well, true), (&other, true)]));
    assert_eq!(other.count("/v1/models"), asked);
    Ok(())
}

async fn all_questions_of_a_look_have_one_limit(form: &dyn Form) -> Result<()> {
    let (well, other) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let late = Scripted::proxy(StatusCode::NOT_FOUND).after(Duration::from_millis(1_200));
    other.lists(late.clone());
    other.answers("/api/version", late);
    let gateway = form.start(Setup::new([&well, &other]).set("HEALTH_TIMEOUT", "2")).await?;
    let reply = gateway.get("/health").await?;
    assert_eq!(reply.json(), health(form, "degraded", &[(&well, true), (&other, false)]));
    Ok(())
}

async fn hosts_are_asked_at_the_same_time(form: &dyn Form) -> Result<()> {
    let mut hosts = Vec::new();
    for _ in 0..6 {
        let host = FakeOllama::start().await?;
        host.lists(Scripted::hang());
        hosts.push(host);
    }
    let gateway = form.start(Setup::new(&hosts).set("HEALTH_TIMEOUT", "2")).await?;
    let started = Instant::now();
    assert_eq!(gateway.get("/health").await?.status, 503);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    Ok(())
}

async fn without_any_host_health_is_503(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    hosts[0].refuse().await;
    hosts[1].lists(refusal(503)?);
    let gateway = form.start(Setup::new(&hosts)).await?;
    let reply = gateway.get("/health").await?;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json(), health(form, "degraded", &[(&hosts[0], false), (&hosts[1], false)]));
    Ok(())
}

async fn a_setting_keeps_the_200_when_no_host_answers(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.refuse().await;
    let gateway = form.start(Setup::new([&ollama]).set("HEALTH_ALWAYS_200", "true")).await?;
    let reply = gateway.get("/health").await?;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json(), health(form, "degraded", &[(&ollama, false)]));
    Ok(())
}

async fn where_keys_are_set_health_names_hosts_to_a_key_alone(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    hosts[1].refuse().await;
    let setup = Setup::new(&hosts).set("API_KEYS", "alpha").set("ADMIN_TOKEN", "omega");
    let gateway = form.start(setup).await?;
    let named = health(form, "degraded", &[(&hosts[0], true), (&hosts[1], false)]);
    let mut anonymous = named.clone();
    anonymous["ollama"] = json!({"host1": true, "host2": false});
    for (headers, expected) in [
        (&[][..], &anonymous),
        (&[("authorization", "Bearer other")], &anonymous),
        (&[("x-api-key", "")], &anonymous),
        (&[("authorization", "Bearer alpha")], &named),
        (&[("x-api-key", "alpha")], &named),
        (&[("authorization", "Bearer omega")], &named),
    ] {
        let reply = gateway.request(Method::GET, "/health", "", headers).await?;
        assert_eq!((reply.status.as_u16(), &reply.json()), (200, expected), "{headers:?}");
    }
    hosts[0].refuse().await;
    let reply = gateway.get("/health").await?;
    assert_eq!((reply.status.as_u16(), reply.at("/status")), (503, "degraded".to_owned()));
    Ok(())
}

async fn liveness_asks_nobody(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.lists(Scripted::hang());
    ollama.chats(Scripted::hang());
    let gateway = form.start(Setup::new([&ollama])).await?;
    for _ in 0..5 {
        let reply = gateway.get("/livez").await?;
        assert_eq!((reply.status.as_u16(), reply.json()), (200, json!({"status": "alive"})));
    }
    // The native binary asks in the background what there is.
    assert_eq!(surfaces::questions(&ollama).len(), 0);
    Ok(())
}

async fn questions_to_hosts_are_shared_and_not_one_for_each_request(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    // On Spin each instance has looks of its own: one answers chats, another tells how hosts are.
    let gateway = form.start(Setup::new([&ollama]).rarely_probes().in_one_instance()).await?;
    let gateway = gateway.as_ref();
    for round in 0..10 {
        let health = futures::future::join_all((0..10).map(|_| gateway.get("/health")));
        let missing = futures::future::join_all((0..10).map(async |number| {
            gateway.chat(json!({"message": "hello", "model": format!("nosuch-{round}-{number}")})).await
        }));
        let (health, missing) = futures::join!(health, missing);
        for reply in health {
            assert_eq!(reply?.status, 200);
        }
        for reply in missing {
            assert_eq!(reply?.status, 404);
        }
    }
    let asked = ollama.count("/api/tags");
    assert!(asked <= 100, "{asked} looks for 200 requests");
    // What is there a moment later is found all the same.
    gateway.pass(Duration::from_millis(1100)).await;
    ollama.has_models(&["llama3.2:latest", "late:latest"]);
    assert_eq!(gateway.chat(json!({"message": "hello", "model": "late"})).await?.status, 200);
    Ok(())
}

on_every_form! {
    questions_to_hosts_are_shared_and_not_one_for_each_request,
    a_fleet_that_answers_is_healthy,
    one_host_that_answers_is_enough_for_200,
    hosts_are_asked_at_the_same_time,
    only_what_answers_as_ollama_does_is_healthy,
    without_any_host_health_is_503,
    a_setting_keeps_the_200_when_no_host_answers,
    where_keys_are_set_health_names_hosts_to_a_key_alone,
    liveness_asks_nobody,
}

/// Where time passes by hand, a look takes none.
mod looks_that_take_time {
    use super::all_questions_of_a_look_have_one_limit;

    over_http! {
        all_questions_of_a_look_have_one_limit,
    }
}
