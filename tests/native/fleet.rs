//! Hosts that are asked in the background: what they say is known before a request pays for it.

use std::time::{Duration, Instant};

use anyhow::Result;
use paddock_tests::{gateway::Form, ollama::FakeOllama, prometheus::Scrape, setup::Setup};

/// How long a dead host may be in rotation.
const SOON: Duration = Duration::from_secs(5);

async fn a_dead_host_is_out_of_rotation_before_a_request_pays_for_it(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).set("LB_POLICY", "round_robin")).await?;
    let until = async |state: &str| {
        let started = Instant::now();
        gateway.until_fleet(|fleet| fleet["hosts"][0]["state"] == state).await?;
        anyhow::Ok(started.elapsed())
    };
    until("up").await?;
    hosts[0].refuse().await;
    let gone = until("down").await?;
    assert!(gone < SOON, "{gone:?}");
    for turn in 0..6 {
        assert_eq!(gateway.say(&format!("hello {turn}")).await?.header("x-paddock-host"), "2");
    }
    let (dead, well) = (hosts[0].url(), hosts[1].url());
    let scrape = Scrape::of(gateway.as_ref()).await?;
    let attempts = |labels: &[(&str, &str)]| scrape.count("paddock_upstream_attempts_total", labels);
    assert_eq!((attempts(&[("host", &dead)]), attempts(&[("host", &well), ("outcome", "ok")])), (0, 6));
    hosts[0].accept().await?;
    let back = until("up").await?;
    assert!(back < SOON, "{back:?}");
    let mut seen = String::new();
    for turn in 0..2 {
        seen.push_str(gateway.say(&format!("again {turn}")).await?.header("x-paddock-host"));
    }
    assert!(["12", "21"].contains(&&*seen), "{seen}");
    Ok(())
}

async fn a_model_that_was_loaded_elsewhere_is_known_to_be(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    hosts[2].loads(&["llama3.2:latest"]);
    gateway.until_fleet(|fleet| fleet["hosts"][2]["loaded"][0]["name"] == "llama3.2:latest").await?;
    for turn in 0..4 {
        assert_eq!(gateway.say(&format!("hello {turn}")).await?.header("x-paddock-host"), "3");
    }
    Ok(())
}

on_every_form! {
    a_dead_host_is_out_of_rotation_before_a_request_pays_for_it,
    a_model_that_was_loaded_elsewhere_is_known_to_be,
}
