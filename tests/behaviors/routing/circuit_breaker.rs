//! Hosts that fail, hang or flap: they are avoided while another is left, tried again later, and cost no request.

use serde_json::Value;

use paddock_tests::prometheus::Scrape;

use crate::behaviors::prelude::*;

/// The shortest time for which a host is avoided.
const SHORTEST_WAIT: u128 = 800;

/// The first request begins at the first host.
fn by_turns(hosts: &[FakeOllama]) -> Setup {
    Setup::new(hosts).set("LB_POLICY", "round_robin")
}

async fn pair() -> Result<[FakeOllama; 2]> {
    Ok([FakeOllama::start().await?, FakeOllama::start().await?])
}

/// Two hosts that have the model loaded, of which the first has proved it and the second, too.
async fn proved(form: &dyn Form, hung_after: &str) -> Result<([FakeOllama; 2], Box<dyn Gateway>)> {
    let hosts = pair().await?;
    for host in &hosts {
        host.loads(&["llama3.2:latest"]);
    }
    let gateway = form.start(by_turns(&hosts).set("HUNG_AFTER", hung_after)).await?;
    for (turn, host) in ["1", "2"].into_iter().enumerate() {
        assert_eq!(gateway.say(&format!("proof {turn}")).await?.header("x-paddock-host"), host);
    }
    Ok((hosts, gateway))
}

/// How a host stands for the model that requests ask unless they name one: its state, else that of the model there, and why.
fn standing(fleet: &Value, place: usize) -> (&str, &str) {
    let host = &fleet["hosts"][place];
    let state = host["state"].as_str().unwrap_or_default();
    if let Some(cause) = host["breaker"]["cause"].as_str() {
        return (state, cause);
    }
    let lanes = host["lanes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let breaker = lanes.iter().find(|lane| lane["name"] == "llama3.2:latest").map(|lane| &lane["breaker"]);
    match breaker.and_then(|breaker| Some((breaker["state"].as_str()?, breaker["cause"].as_str()?))) {
        Some(("open", cause)) => ("down", cause),
        Some((_, cause)) => ("trial", cause),
        None => (state, ""),
    }
}

async fn fleet(gateway: &dyn Gateway) -> Result<Value> {
    gateway.until_fleet(|_| true).await
}

/// The host that answers.
async fn answered_by(gateway: &dyn Gateway, message: &str) -> Result<String> {
    Ok(gateway.say(message).await?.header("x-paddock-host").to_owned())
}

async fn avoids_and_tries_again(form: &dyn Form, fault: Scripted, cause: &str) -> Result<()> {
    let hosts = pair().await?;
    let gateway = form.start(by_turns(&hosts)).await?;
    hosts[0].chats(fault);
    let started = Instant::now();
    for turn in 0..4 {
        assert_eq!(answered_by(gateway.as_ref(), &format!("{cause} {turn}")).await?, "2", "{cause}");
    }
    let trials = usize::try_from(started.elapsed().as_millis() / SHORTEST_WAIT)?;
    let asked = hosts[0].count(CHAT);
    assert!((1..=1 + trials).contains(&asked), "{cause}: {asked}");
    let found = fleet(gateway.as_ref()).await?;
    assert_eq!(standing(&found, 0).1, cause);
    assert_eq!(standing(&found, 1), ("up", ""), "{cause}");
    hosts[0].recover();
    let started = Instant::now();
    for turn in 0.. {
        if answered_by(gateway.as_ref(), &format!("{cause} again {turn}")).await? == "1" {
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "{cause}: not tried again");
        gateway.pass(Duration::from_millis(250)).await;
    }
    assert_eq!(standing(&fleet(gateway.as_ref()).await?, 0), ("up", ""), "{cause}");
    Ok(())
}

async fn a_host_that_fails_is_avoided_and_tried_again_after_its_wait(form: &dyn Form) -> Result<()> {
    let faults = [
        (refusal(503)?, "busy"),
        (refusal(429)?, "busy"),
        (refusal(502)?, "protocol"),
        (refusal(504)?, "timeout"),
        (Scripted::unfinished(End::Reset)?, "protocol"),
        (Scripted::cut()?, "protocol"),
    ];
    let all = faults.map(|(fault, cause)| avoids_and_tries_again(form, fault, cause));
    join_all(all).await.into_iter().collect()
}

async fn the_wait_that_a_host_asks_for_is_kept(form: &dyn Form) -> Result<()> {
    let hosts = pair().await?;
    let gateway = form.start(by_turns(&hosts)).await?;
    hosts[0].chats(refusal(429)?.with_header(http::header::RETRY_AFTER, "50"));
    for turn in 0..4 {
        assert_eq!(answered_by(gateway.as_ref(), &format!("hello {turn}")).await?, "2");
        // Twice is longer than any first wait of our own.
        gateway.pass(Duration::from_millis(700)).await;
    }
    assert_eq!(hosts[0].count(CHAT), 1);
    assert_eq!(standing(&fleet(gateway.as_ref()).await?, 0), ("down", "busy"));
    Ok(())
}

/// What one model's answers do keeps its own requests from the host, and no others.
async fn what_one_model_does_keeps_no_other_from_its_host(form: &dyn Form) -> Result<()> {
    let wait = |fault: Scripted| fault.with_header(http::header::RETRY_AFTER, "3600");
    for (ill, fault) in [
        ("qwen3:4b", wait(refusal(429)?)),
        ("qwen3:4b", wait(refusal(502)?)),
        ("qwen3:4b", wait(refusal(503)?)),
        ("qwen3:4b", wait(refusal(504)?)),
        ("qwen3:4b", refusal(500)?),
        ("qwen3:4b", Scripted::unfinished(End::Reset)?),
        ("gpt-oss:120b-cloud", wait(refusal(429)?)),
    ] {
        let hosts = pair().await?;
        for host in &hosts {
            host.has_models(&["llama3.2:latest", "qwen3:4b", "gpt-oss:120b-cloud"]);
        }
        let gateway = form.start(by_turns(&hosts)).await?;
        hosts[0].next_chat(fault);
        let reply = gateway.chat(json!({"message": "ill", "model": ill})).await?;
        assert_eq!((reply.status.as_u16(), reply.header("x-paddock-host")), (200, "2"), "{ill}");
        let mut seen = String::new();
        for turn in 0..4 {
            seen.push_str(&answered_by(gateway.as_ref(), &format!("well {turn}")).await?);
        }
        assert!(["1212", "2121"].contains(&&*seen), "{ill}: {seen}");
        let found = fleet(gateway.as_ref()).await?;
        assert_eq!(standing(&found, 0), ("up", ""), "{ill}");
        let explain = [("x-paddock-explain", "1")];
        let reply = gateway.chat_with(json!({"message": "ill again", "model": ill}), &explain).await?;
        let route = reply.header("x-paddock-route");
        assert!(route.contains("host 1: breaker of the model "), "{ill}: {route}");
    }
    Ok(())
}

/// Nothing is loaded for a model that runs in the cloud, so nothing is seen through for a client that left.
async fn a_request_to_the_cloud_ends_with_its_client_and_is_no_cold_start(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    ollama.has_models(&["gpt-oss:120b-cloud"]);
    let message = json!({"message": "hello", "model": "gpt-oss:120b-cloud"});
    ollama.next_chat(Scripted::hang());
    let asked = ollama.wait_for_requests(CHAT, 1, PATIENCE);
    {
        let mut leaving = std::pin::pin!(gateway.chat(message.clone()));
        let mut asked = std::pin::pin!(asked);
        // The client leaves once its request has come to the host.
        let first = futures::future::select(leaving.as_mut(), asked.as_mut()).await;
        ensure!(matches!(first, futures::future::Either::Right((Ok(()), _))), "it was answered");
    }
    ollama.wait_for_given_up(1, PATIENCE).await?;
    assert_eq!(gateway.chat(message).await?.status, 200);
    assert_eq!(Scrape::of(gateway.as_ref()).await?.count("paddock_cold_starts_total", &[]), 0);
    Ok(())
}

async fn a_host_that_is_away_behind_a_gateway_is_left_for_every_model(form: &dyn Form) -> Result<()> {
    let hosts = pair().await?;
    let gateway = form.start(by_turns(&hosts)).await?;
    gateway.look_at_all_hosts().await?;
    for path in ["/api/tags", "/api/ps", "/api/version", CHAT] {
        hosts[0].answers(path, refusal(502)?);
    }
    let until = async |state: &str| {
        let started = Instant::now();
        for turn in 0.. {
            gateway.say(&format!("{state} {turn}")).await?;
            let found = fleet(gateway.as_ref()).await?;
            if found["hosts"][0]["state"] == state {
                return Ok(found);
            }
            ensure!(started.elapsed() < PATIENCE, "{found}");
            gateway.pass(Duration::from_millis(500)).await;
        }
        bail!("no turn is left")
    };
    assert_eq!(until("down").await?["hosts"][0]["breaker"]["cause"], "gateway");
    hosts[0].recover();
    until("up").await?;
    Ok(())
}

async fn what_is_the_requests_own_fault_opens_no_breaker(form: &dyn Form) -> Result<()> {
    let hosts = pair().await?;
    let gateway = form.start(by_turns(&hosts)).await?;
    // A wrong option makes every Ollama fail in the same way.
    for (status, expected) in [(400, 400), (501, 501), (403, 403), (500, 502)] {
        for host in &hosts {
            host.chats(refusal(status)?);
        }
        for turn in 0..3 {
            let reply = gateway.chat(json!({"message": format!("{status} {turn}")})).await?;
            assert_eq!(reply.status, expected, "{status}");
        }
        let found = fleet(gateway.as_ref()).await?;
        for place in 0..2 {
            assert_eq!(standing(&found, place), ("up", ""), "{status}");
        }
    }
    Ok(())
}

async fn a_host_that_fails_what_another_answers_is_avoided(form: &dyn Form) -> Result<()> {
    for fault in [refusal(500)?, Scripted::crashed_in_stream()?] {
        let hosts = pair().await?;
        let gateway = form.start(by_turns(&hosts)).await?;
        hosts[0].chats(fault);
        assert_eq!(answered_by(gateway.as_ref(), "hello").await?, "2");
        assert_eq!(hosts[0].count(CHAT), 1);
        assert_eq!(standing(&fleet(gateway.as_ref()).await?, 0), ("down", "failed"));
    }
    Ok(())
}

async fn a_host_that_hangs_on_a_model_that_it_answered_before_is_left(form: &dyn Form) -> Result<()> {
    let (hosts, gateway) = proved(form, "1").await?;
    hosts[0].chats(Scripted::hang());
    let pass = async {
        hosts[0].wait_for_requests(CHAT, 2, PATIENCE).await?;
        gateway.pass(Duration::from_millis(1_100)).await;
        anyhow::Ok(())
    };
    let (answer, passed) = futures::join!(answered_by(gateway.as_ref(), "hello"), pass);
    passed?;
    assert_eq!(answer?, "2");
    let found = fleet(gateway.as_ref()).await?;
    assert_eq!((standing(&found, 0), standing(&found, 1)), (("down", "hung"), ("up", "")));
    for turn in 0..2 {
        assert_eq!(answered_by(gateway.as_ref(), &format!("hello {turn}")).await?, "2");
    }
    // Whoever left it also hung up.
    hosts[0].wait_for_given_up(1, PATIENCE).await
}

async fn a_host_that_never_answered_is_waited_for(form: &dyn Form) -> Result<()> {
    let hosts = pair().await?;
    for host in &hosts {
        host.loads(&["llama3.2:latest"]);
    }
    let gateway = form.start(by_turns(&hosts).set("HUNG_AFTER", "500ms")).await?;
    let gate = Gate::default();
    hosts[0].next_chat(Scripted::saying("at last")?.behind(&gate));
    let pass = async {
        hosts[0].wait_for_requests(CHAT, 1, PATIENCE).await?;
        for _ in 0..4 {
            gateway.pass(Duration::from_millis(500)).await;
        }
        // Whatever could happen happened before this was answered.
        assert_eq!(answered_by(gateway.as_ref(), "another").await?, "2");
        assert_eq!((hosts[0].count(CHAT), hosts[1].count(CHAT)), (1, 1));
        gate.open(1);
        anyhow::Ok(())
    };
    let (reply, passed) = futures::join!(gateway.say("hello"), pass);
    passed?;
    let reply = reply?;
    assert_eq!((reply.header("x-paddock-host"), &*reply.response()), ("1", "at last"));
    Ok(())
}

async fn a_slow_host_that_completes_other_requests_is_no_hung_one(form: &dyn Form) -> Result<()> {
    let (hosts, gateway) = proved(form, "2").await?;
    let gate = Gate::default();
    hosts[0].next_chat(Scripted::saying("slow but sure")?.behind(&gate));
    let work = async {
        hosts[0].wait_for_requests(CHAT, 2, PATIENCE).await?;
        for turn in 0..6 {
            gateway.pass(Duration::from_millis(600)).await;
            for host in ["2", "1"] {
                assert_eq!(answered_by(gateway.as_ref(), &format!("{turn} {host}")).await?, host);
            }
        }
        gate.open(1);
        anyhow::Ok(())
    };
    let (reply, worked) = futures::join!(gateway.say("slow"), work);
    worked?;
    let reply = reply?;
    assert_eq!((reply.header("x-paddock-host"), &*reply.response()), ("1", "slow but sure"));
    assert_eq!(standing(&fleet(gateway.as_ref()).await?, 0), ("up", ""));
    Ok(())
}

async fn with_only_broken_hosts_left_they_are_tried(form: &dyn Form) -> Result<()> {
    let hosts = pair().await?;
    hosts[0].has_models(&["llama3.2:latest", "qwen3:4b"]);
    let wait = |fault: Scripted| fault.with_header(http::header::RETRY_AFTER, "50");
    let gateway = form.start(by_turns(&hosts)).await?;
    for host in &hosts {
        host.next_chat(wait(refusal(503)?));
    }
    let reply = gateway.chat(json!({"message": "hello"})).await?;
    assert_eq!(reply.outcome(), (503, "upstream_busy".to_owned()));
    let found = fleet(gateway.as_ref()).await?;
    assert_eq!((standing(&found, 0), standing(&found, 1)), (("down", "busy"), ("down", "busy")));
    // Both are well again, and nobody knows: whoever asks finds out, however long they said to wait.
    assert_eq!(gateway.say("well again").await?.status, 200);
    // The one that broke is the only one that has this model.
    hosts[0].next_chat(wait(refusal(503)?));
    for status in [503, 200, 200] {
        let reply = gateway.chat(json!({"message": format!("{status}"), "model": "qwen3:4b"})).await?;
        assert_eq!(reply.status, status);
    }
    Ok(())
}

async fn a_host_that_flaps_costs_no_request(form: &dyn Form) -> Result<()> {
    let hosts = pair().await?;
    let gateway = form.start(by_turns(&hosts)).await?;
    for turn in 0..20 {
        match turn % 8 {
            0 => hosts[0].chats(refusal(503)?),
            2 => hosts[0].chats(Scripted::unfinished(End::Reset)?),
            4 => hosts[0].chats(refusal(500)?),
            6 => hosts[0].refuse().await,
            _ => {
                hosts[0].accept().await?;
                hosts[0].recover();
            }
        }
        gateway.say(&format!("hello {turn}")).await?;
        gateway.pass(Duration::from_millis(300)).await;
    }
    Ok(())
}

async fn what_asks_no_model_does_not_wait_for_a_silent_host(form: &dyn Form) -> Result<()> {
    let hosts = pair().await?;
    let gateway = form.start(by_turns(&hosts).set("HUNG_AFTER", "500ms")).await?;
    gateway.say("hello").await?;
    for path in ["/api/show", "/v1/models/llama3.2", "/api/version"] {
        hosts[0].answers(path, Scripted::hang());
    }
    for turn in 0..2 {
        let body = json!({"model": "llama3.2"});
        for (method, path, body) in [
            (Method::POST, "/api/show", body.to_string()),
            (Method::GET, "/v1/models/llama3.2", String::new()),
            (Method::GET, "/api/version", String::new()),
        ] {
            let started = Instant::now();
            let asked = hosts[0].count(path);
            let silence = async {
                // Every other request begins at the host that answers.
                if hosts[0].wait_for_requests(path, asked + 1, Duration::from_secs(1)).await.is_ok() {
                    gateway.pass(Duration::from_secs(1)).await;
                }
            };
            let (reply, ()) = futures::join!(gateway.request(method, path, body, &[]), silence);
            let reply = reply?;
            assert_eq!(reply.status, 200, "{turn} {path}: {}", reply.text());
            assert!(started.elapsed() < Duration::from_secs(8), "{path}: {:?}", started.elapsed());
        }
    }
    assert_ne!(standing(&fleet(gateway.as_ref()).await?, 0).0, "down", "nothing was proved of its models");
    Ok(())
}

on_every_form! {
    what_asks_no_model_does_not_wait_for_a_silent_host,
    a_host_that_fails_is_avoided_and_tried_again_after_its_wait,
    the_wait_that_a_host_asks_for_is_kept,
    what_one_model_does_keeps_no_other_from_its_host,
    a_host_that_is_away_behind_a_gateway_is_left_for_every_model,
    what_is_the_requests_own_fault_opens_no_breaker,
    a_host_that_fails_what_another_answers_is_avoided,
    a_host_that_hangs_on_a_model_that_it_answered_before_is_left,
    a_host_that_never_answered_is_waited_for,
    a_slow_host_that_completes_other_requests_is_no_hung_one,
    with_only_broken_hosts_left_they_are_tried,
    a_host_that_flaps_costs_no_request,
}

mod of_clients_that_leave {
    use super::a_request_to_the_cloud_ends_with_its_client_and_is_no_cold_start;

    where_leaving_is_seen! {
        a_request_to_the_cloud_ends_with_its_client_and_is_no_cold_start,
    }
}
