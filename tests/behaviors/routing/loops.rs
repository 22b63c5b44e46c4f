//! Requests that come back, because a host is no Ollama but leads back to the service.

use crate::behaviors::{prelude::*, surfaces};

const HOPS: &str = "x-paddock-hops";

/// The chain that a host was sent with what it was asked.
fn chain(request: &Recorded) -> String {
    request.headers.get(HOPS).and_then(|chain| chain.to_str().ok()).unwrap_or_default().to_owned()
}

async fn what_hosts_are_asked_has_the_mark_of_the_service_and_what_comes_back_is_refused(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("ALLOW_MODEL_MANAGEMENT", "true")).await?;
    assert_eq!(gateway.say("hello").await?.status, 200);
    gateway.get("/v1/models").await?;
    gateway.post_to("/api/show", json!({"model": "llama3.2"}), &[]).await?;
    gateway.request(Method::DELETE, "/api/delete", r#"{"model":"m"}"#, &[]).await?;
    let asked = ollama.requests();
    let own = chain(asked.first().context("nothing was asked")?);
    assert_eq!(own.len(), 16, "{own}");
    for request in &asked {
        assert_eq!(chain(request), own, "{} {}", request.method, request.path);
    }
    let count = ollama.requests().len();
    let foreign = format!("00000000000000aa, {own}");
    for header in [own.as_str(), &foreign] {
        for (path, _) in surfaces::QUESTIONS {
            let reply = gateway.post_to(path, surfaces::question("llama3.2"), &[(HOPS, header)]).await?;
            assert_eq!(reply.status, 508, "{path}");
            let words = surfaces::told(path, &reply)?;
            assert!(words.contains("OLLAMA_HOST"), "{words}");
        }
        let reply = gateway.chat_with(json!({"message": "hello"}), &[(HOPS, header)]).await?;
        assert_eq!(reply.outcome(), (508, "loop_detected".to_owned()));
        for path in [TAGS, "/api/ps", "/v1/models", "/api/version"] {
            assert_eq!(
                gateway.request(Method::GET, path, "", &[(HOPS, header)]).await?.status,
                508,
                "{path}"
            );
        }
    }
    let own_looks = |request: &&Recorded| [TAGS, "/api/ps", "/api/version"].contains(&&*request.path);
    let later = ollama.requests().into_iter().skip(count).collect::<Vec<_>>();
    assert_eq!(later.iter().filter(own_looks).count(), later.len(), "a request that came back went on");
    // Who asks how the service is, is no request that goes on.
    assert_eq!(gateway.request(Method::GET, "/livez", "", &[(HOPS, &own)]).await?.status, 200);
    Ok(())
}

async fn a_chain_of_eight_services_works_and_no_longer_one(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let marks = |count: usize| (1..=count).map(|mark| format!("{mark:016x}")).collect::<Vec<_>>().join(", ");
    let (seven, eight) = (marks(7), marks(8));
    let reply = gateway.chat_with(json!({"message": "hello"}), &[(HOPS, &seven)]).await?;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let passed_on = chain(ollama.chat_requests().first().context("no chat")?);
    assert!(
        passed_on.starts_with(&format!("{seven}, ")) && passed_on.len() == seven.len() + 18,
        "{passed_on}"
    );
    let reply = gateway.chat_with(json!({"message": "bye"}), &[(HOPS, &eight)]).await?;
    assert_eq!(reply.outcome(), (508, "loop_detected".to_owned()));
    // What is no mark counts for nothing and goes nowhere.
    let junk = [(HOPS, "secret words, and, others, of, any, kind, there, may, be, many")];
    assert_eq!(gateway.chat_with(json!({"message": "again"}), &junk).await?.status, 200);
    assert_eq!(chain(ollama.chat_requests().last().context("no chat")?).len(), 16);
    Ok(())
}

async fn a_host_that_leads_back_is_left_for_another_and_named_where_there_is_none(
    form: &dyn Form,
) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).set("LB_POLICY", "round_robin")).await?;
    hosts[0].chats(refusal(508)?);
    for turn in 0..4 {
        assert_eq!(gateway.say(&format!("hello {turn}")).await?.header("x-paddock-host"), "2");
    }
    hosts[1].chats(refusal(508)?);
    for path in [CHAT, "/v1/chat/completions", "/v1/messages"] {
        for host in &hosts {
            host.answers(path, refusal(508)?);
        }
        let reply = gateway.post_to(path, surfaces::question("llama3.2"), &[]).await?;
        assert_eq!(reply.status, 508, "{path}");
        surfaces::told(path, &reply)?;
    }
    Ok(())
}

on_every_form! {
    what_hosts_are_asked_has_the_mark_of_the_service_and_what_comes_back_is_refused,
    a_chain_of_eight_services_works_and_no_longer_one,
    a_host_that_leads_back_is_left_for_another_and_named_where_there_is_none,
}
