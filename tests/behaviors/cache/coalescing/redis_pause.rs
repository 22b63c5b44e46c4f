//! Redis goes away while replicas follow a flight.

use std::sync::Arc;

use paddock_tests::redis_server::RedisServer;

use super::{hears, open};
use crate::behaviors::prelude::*;

/// So long a pause is met by the limits of the commands, and short beside the time for which a lead is held.
const PAUSE: Duration = Duration::from_millis(400);

async fn a_short_pause_of_redis_breaks_off_nobodys_stream(form: &dyn Form) -> Result<()> {
    let (redis, ollama) = (Arc::new(RedisServer::start()?), FakeOllama::start().await?);
    let setup = Setup::new([&ollama]).redis(&redis).set("REDIS_TIMEOUT", "10").in_one_instance();
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup).await?);
    one.say("warm up").await?;
    let asked = ollama.count(CHAT);
    let gate = Gate::default();
    ollama.next_chat(Scripted::saying("one two three four")?.gated(&gate));
    let mut leader = open(&*one, CHAT, "paused").await?;
    hears(&mut leader, "one ").await?;
    let mut follower = open(&*two, CHAT, "paused").await?;
    hears(&mut follower, "one ").await?;
    redis.pause()?;
    gate.open(1);
    hears(&mut leader, "two ").await?;
    tokio::time::sleep(PAUSE).await;
    redis.resume()?;
    gate.open(100);
    for reply in [leader, follower] {
        let rest = reply.rest().await?.text();
        assert!(rest.contains("four") && rest.contains("\"done\":true"), "{rest}");
    }
    assert_eq!(ollama.count(CHAT), asked + 1);
    Ok(())
}

over_redis! {
    a_short_pause_of_redis_breaks_off_nobodys_stream,
}
