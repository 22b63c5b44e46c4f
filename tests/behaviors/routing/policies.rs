//! Whose turn it is by the policy that is set: round robin, with weights, or by chance.

use crate::behaviors::prelude::*;

async fn hosts_take_turns(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).set("LB_POLICY", "round_robin")).await?;
    let mut seen = Vec::new();
    for turn in 0..7 {
        seen.push(gateway.say(&format!("hello {turn}")).await?.header("x-paddock-host").to_owned());
    }
    assert_eq!(seen, ["1", "2", "3", "1", "2", "3", "1"]);
    Ok(())
}

async fn by_chance_every_host_is_asked_in_no_fixed_order(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts).set("LB_POLICY", "random")).await?;
    let mut seen = String::new();
    for turn in 0..48 {
        seen.push_str(gateway.say(&format!("hello {turn}")).await?.header("x-paddock-host"));
    }
    // One in 2^40 runs has none of these by chance.
    assert!(seen.contains('1') && seen.contains('2'), "{seen}");
    assert!(seen.contains("11") || seen.contains("22"), "{seen}");
    Ok(())
}

async fn turns_go_by_weight(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let setup = Setup::new(&hosts).weights(&[2, 1]).set("LB_POLICY", "round_robin");
    let gateway = form.start(setup).await?;
    let mut seen = Vec::new();
    for turn in 0..6 {
        seen.push(gateway.say(&format!("hello {turn}")).await?.header("x-paddock-host").to_owned());
    }
    assert_eq!(seen, ["1", "1", "2", "1", "1", "2"]);
    Ok(())
}

on_every_form! {
    hosts_take_turns,
    turns_go_by_weight,
    by_chance_every_host_is_asked_in_no_fixed_order,
}
