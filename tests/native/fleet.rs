//! Hosts that are asked in the background: what they say is known before a request pays for it.

use std::time::{Duration, Instant};

use anyhow::Result;
use paddock_tests::{
    gateway::Form,
    ollama::{CHAT, FakeOllama, Scripted, TAGS},
    prometheus::Scrape,
    setup::Setup,
};

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

async fn a_frozen_host_is_out_of_rotation_until_it_goes_on(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let setup = Setup::new(&hosts).set("LB_POLICY", "round_robin").set("HEALTH_TIMEOUT", "1");
    let gateway = form.start(setup).await?;
    gateway.until_fleet(|fleet| fleet["hosts"][0]["state"] == "up").await?;
    for path in [TAGS, "/api/ps", "/api/version", CHAT] {
        hosts[0].answers(path, Scripted::hang());
    }
    let frozen = Instant::now();
    let fleet = gateway.until_fleet(|fleet| fleet["hosts"][0]["state"] == "down").await?;
    assert_eq!(fleet["hosts"][0]["breaker"]["cause"], "silent");
    assert!(frozen.elapsed() < Duration::from_secs(15), "{:?}", frozen.elapsed());
    for turn in 0..4 {
        assert_eq!(gateway.say(&format!("hello {turn}")).await?.header("x-paddock-host"), "2");
    }
    hosts[0].recover();
    gateway.until_fleet(|fleet| fleet["hosts"][0]["state"] == "up").await?;
    Ok(())
}

async fn a_host_that_takes_long_for_its_list_is_known_all_the_same(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.lists(Scripted::recorded("04-tags")?.after(Duration::from_millis(2200)));
    let gateway = form.start(Setup::new([&ollama]).set("HEALTH_TIMEOUT", "1")).await?;
    let fleet = gateway.until_fleet(|fleet| fleet["hosts"][0]["state"] != "unknown").await?;
    assert_eq!(fleet["hosts"][0]["state"], "up");
    Ok(())
}

on_every_form! {
    a_dead_host_is_out_of_rotation_before_a_request_pays_for_it,
    a_model_that_was_loaded_elsewhere_is_known_to_be,
    a_frozen_host_is_out_of_rotation_until_it_goes_on,
    a_host_that_takes_long_for_its_list_is_known_all_the_same,
}
