//! Which hosts a request goes to: those that have the model, best the one that has it loaded and knows the session.

use std::collections::BTreeSet;

use futures::{FutureExt as _, future::select_all};

use crate::behaviors::prelude::*;

/// A question for a model on `/chat`; the host that answered it.
async fn answered_by(gateway: &dyn Gateway, model: &str, message: &str) -> Result<String> {
    let reply = gateway.chat(json!({"message": message, "model": model})).await?;
    ensure!(reply.status == 200, "{model}: {} {}", reply.status, reply.text());
    Ok(reply.header("x-paddock-host").to_owned())
}

async fn a_model_that_was_pulled_a_moment_ago_is_found(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    gateway.look_at_all_hosts().await?;
    second.has_models(&["llama3.2:latest", "qwen3:4b"]);
    assert_eq!(answered_by(gateway.as_ref(), "qwen3:4b", "hello").await?, "2");
    assert_eq!(first.count(CHAT), 0);
    Ok(())
}

async fn a_host_that_lost_a_model_is_asked_for_it_once_at_most(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    for host in [&first, &second] {
        host.has_models(&["llama3.2:latest", "qwen3:4b"]);
    }
    let gateway = form.start(Setup::new([&first, &second]).set("LB_POLICY", "round_robin")).await?;
    gateway.look_at_all_hosts().await?;
    for turn in 0..2 {
        answered_by(gateway.as_ref(), "qwen3:4b", &format!("before {turn}")).await?;
    }
    first.has_models(&["llama3.2:latest"]);
    let asked = first.count(CHAT);
    for turn in 0..8 {
        let message = format!("after {turn}");
        assert_eq!(answered_by(gateway.as_ref(), "qwen3:4b", &message).await?, "2");
        if turn == 2 {
            // Longer than what hosts said is taken for fresh. The next turn is the first host's.
            gateway.pass(Duration::from_millis(2_500)).await;
        }
    }
    assert!(first.count(CHAT) - asked <= 1, "{}", first.count(CHAT) - asked);
    Ok(())
}

async fn names_match_as_ollama_matches_them(form: &dyn Form) -> Result<()> {
    let (first, second) = (FakeOllama::start().await?, FakeOllama::start().await?);
    second.has_models(&["Qwen3:latest"]);
    let gateway = form.start(Setup::new([&first, &second])).await?;
    for (turn, name) in ["qwen3", "QWEN3:Latest", "library/qwen3", "registry.ollama.ai/library/Qwen3:latest"]
        .into_iter()
        .enumerate()
    {
        assert_eq!(answered_by(gateway.as_ref(), name, &format!("hello {turn}")).await?, "2", "{name}");
        // It goes upstream as it came.
        assert_eq!(second.chat_requests().last().map(Recorded::model).as_deref(), Some(name));
    }
    assert_eq!(first.count(CHAT), 0);
    Ok(())
}

async fn a_cloud_model_is_asked_of_a_host_though_none_lists_it(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    for host in &hosts {
        host.chats(Scripted::saying("from afar")?);
    }
    let gateway = form.start(Setup::new(&hosts)).await?;
    for name in ["kimi-k2:cloud", "gpt-oss:120b-cloud"] {
        answered_by(gateway.as_ref(), name, "hello").await?;
    }
    assert_eq!(hosts[0].count(CHAT) + hosts[1].count(CHAT), 2);
    Ok(())
}

async fn a_host_that_has_the_model_loaded_is_preferred(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    hosts[1].loads(&["llama3.2:latest"]);
    let gateway = form.start(Setup::new(&hosts)).await?;
    gateway.look_at_all_hosts().await?;
    for turn in 0..8 {
        assert_eq!(answered_by(gateway.as_ref(), "llama3.2", &format!("hello {turn}")).await?, "2");
    }
    Ok(())
}

async fn what_needs_other_options_makes_one_host_load_and_no_more(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    for host in &hosts {
        host.loads(&["llama3.2:latest"]);
    }
    let gateway = form.start(Setup::new(&hosts)).await?;
    gateway.look_at_all_hosts().await?;
    let long =
        |turn: usize| gateway.chat(json!({"message": format!("long {turn}"), "options": {"num_ctx": 16384}}));
    // Loading takes longer than what makes no difference.
    let gate = Gate::default();
    for host in &hosts {
        host.next_chat(Scripted::saying("loaded")?.behind(&gate));
    }
    let load = async {
        select_all(hosts.each_ref().map(|host| host.wait_for_requests(CHAT, 1, PATIENCE).boxed())).await.0?;
        gateway.pass(Duration::from_millis(800)).await;
        gate.open(hosts.len());
        anyhow::Ok(())
    };
    let (reply, loaded) = futures::join!(long(0), load);
    loaded?;
    let mut with_options = BTreeSet::from([reply?.header("x-paddock-host").to_owned()]);
    for turn in 1..8 {
        with_options.insert(long(turn).await?.header("x-paddock-host").to_owned());
        let usual = answered_by(gateway.as_ref(), "llama3.2", &format!("short {turn}")).await?;
        assert!(!with_options.contains(&usual), "{usual} must load the model again");
    }
    assert_eq!(with_options.len(), 1, "{with_options:?}");
    Ok(())
}

async fn the_turns_of_a_session_go_to_one_host(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    for policy in ["affinity", "auto"] {
        for host in &hosts {
            host.recover();
            host.loads(&["llama3.2:latest"]);
        }
        let gateway = form.start(Setup::new(&hosts).set("LB_POLICY", policy)).await?;
        gateway.look_at_all_hosts().await?;
        let mut used = BTreeSet::new();
        for session in 0..24 {
            let first = gateway.say_in(&format!("{policy} {session}"), "hello").await?;
            used.insert(first.header("x-paddock-host").to_owned());
        }
        // One in 3^23 runs has all on one host by chance.
        assert!(used.len() > 1, "{policy}: {used:?}");
        // Answers that keep a host busy for a while, each turn right behind the end of the one before.
        for host in &hosts {
            host.chats(Scripted::saying("one two")?.slowly(Duration::from_millis(100)));
        }
        for session in 0..2 {
            let mut seen = BTreeSet::new();
            for turn in 0..3 {
                let body = json!({
                    "model": "llama3.2", "messages": [{"role": "user", "content": format!("turn {turn}")}],
                });
                let session = format!("{policy} slow {session}");
                let reply = gateway.post_to(CHAT, body, &[("x-paddock-session", &session)]).await?;
                assert_eq!(reply.status, 200);
                seen.insert(reply.header("x-paddock-host").to_owned());
            }
            assert_eq!(seen.len(), 1, "{policy}: {seen:?}");
        }
    }
    Ok(())
}

async fn a_drained_host_gets_nothing_even_when_no_other_works(form: &dyn Form) -> Result<()> {
    let (drained, other) = (FakeOllama::start().await?, FakeOllama::start().await?);
    drained.loads(&["llama3.2:latest"]);
    for policy in ["auto", "round_robin", "random", "least_outstanding", "p2c", "affinity"] {
        let setup = Setup::new([&drained, &other]).weights(&[0, 1]).set("LB_POLICY", policy);
        let gateway = form.start(setup).await?;
        for turn in 0..4 {
            assert_eq!(answered_by(gateway.as_ref(), "llama3.2", &format!("{policy} {turn}")).await?, "2");
        }
        other.next_chat(refusal(503)?);
        let reply = gateway.chat(json!({"message": "nobody"})).await?;
        assert_eq!(reply.outcome(), (503, "upstream_busy".to_owned()), "{policy}");
    }
    // What it alone has is not to be had.
    drained.has_models(&["llama3.2:latest", "qwen3:4b"]);
    let gateway = form.start(Setup::new([&drained, &other]).weights(&[0, 1])).await?;
    let reply = gateway.chat(json!({"message": "hello", "model": "qwen3:4b"})).await?;
    assert_eq!(reply.outcome(), (503, "model_unavailable".to_owned()));
    assert!(reply.at("/error/message").contains("drained"), "{}", reply.text());
    assert_eq!(drained.count(CHAT), 0);
    Ok(())
}

on_every_form! {
    a_model_that_was_pulled_a_moment_ago_is_found,
    a_host_that_lost_a_model_is_asked_for_it_once_at_most,
    names_match_as_ollama_matches_them,
    a_cloud_model_is_asked_of_a_host_though_none_lists_it,
    a_host_that_has_the_model_loaded_is_preferred,
    what_needs_other_options_makes_one_host_load_and_no_more,
    the_turns_of_a_session_go_to_one_host,
    a_drained_host_gets_nothing_even_when_no_other_works,
}
