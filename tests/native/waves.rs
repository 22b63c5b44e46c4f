//! How often a request waits for Redis: what is sent together is one wave.

use std::time::Duration;

use anyhow::Result;
use paddock_tests::{
    gateway::{Form as _, Gateway, PATIENCE, Reply},
    ollama::{CHAT, FakeOllama, Gate, Scripted},
    redis_proxy::WaveProxy,
    redis_server::RedisServer,
    setup::Setup,
};
use serde_json::json;

/// As long as nothing is sent, a wave has ended. A machine under load may take as long between two commands of one wave;
/// what belongs together would then look like two, so that it is generous.
const QUIET: Duration = Duration::from_millis(500);

struct Scene {
    ollama: FakeOllama,
    proxy: WaveProxy,
    gateway: Box<dyn Gateway>,
    _redis: RedisServer,
}

/// A replica that has heard of its host and has a connection; nothing but requests asks Redis.
async fn scene() -> Result<Scene> {
    let ollama = FakeOllama::start().await?;
    let redis = RedisServer::start()?;
    let proxy = WaveProxy::start(&redis).await?;
    let setup = Setup::new([&ollama]).redis(&proxy.server()?);
    let setup =
        setup.set("REDIS_TIMEOUT", "60").set("REDIS_WRITE_TIMEOUT", "60").set("PROBE_INTERVAL", "600");
    let gateway = crate::REDIS.start(setup).await?;
    assert_eq!(gateway.say_in("s", "warm up").await?.header("x-session"), "stored");
    Ok(Scene { ollama, proxy, gateway, _redis: redis })
}

impl Scene {
    async fn chat(&self, session: &str, message: &str, headers: &[(&str, &str)]) -> Result<Reply> {
        self.gateway.chat_with(json!({"message": message, "session_id": session}), headers).await
    }
}

#[tokio::test]
async fn upstream_is_asked_after_two_waves_and_one_more_stores_everything() -> Result<()> {
    let scene = scene().await?;
    // A fresh answer is wanted: there is nobody whom the flight would have to be told of meanwhile.
    let fresh = [("cache-control", "no-cache")];
    for session in ["", "s"] {
        let gate = Gate::default();
        scene.ollama.next_chat(Scripted::saying("late")?.behind(&gate));
        let asked = scene.ollama.count(CHAT);
        let counting = async {
            let until_asked = scene.ollama.wait_for_requests(CHAT, asked + 1, PATIENCE);
            let (before, reached) = scene.proxy.waves(QUIET, until_asked).await;
            reached?;
            let open = async { gate.open(1) };
            let (after, ()) = scene.proxy.waves(QUIET, open).await;
            anyhow::Ok((before, after))
        };
        let message = format!("a question in '{session}'");
        let (reply, counted) = tokio::join!(scene.chat(session, &message, &fresh), counting);
        let (before, after) = counted?;
        assert_eq!(reply?.status, 200);
        assert!(before.len() <= 2, "{session:?}: {before:?}");
        assert_eq!(after.len(), 1, "{session:?}: {after:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_question_that_others_may_wait_for_needs_no_more() -> Result<()> {
    let scene = scene().await?;
    for session in ["", "s"] {
        let message = format!("a shared question in '{session}'");
        let asked = scene.ollama.count(CHAT);
        let gate = Gate::default();
        scene.ollama.next_chat(Scripted::saying("late")?.behind(&gate));
        let counting = async {
            let until_asked = scene.ollama.wait_for_requests(CHAT, asked + 1, PATIENCE);
            // What follows belongs to the flight.
            scene.proxy.hold();
            let mut before = 0;
            tokio::pin!(until_asked);
            loop {
                tokio::select! {
                    reached = &mut until_asked => {
                        reached?;
                        break;
                    }
                    wave = scene.proxy.wave(QUIET, PATIENCE) => before += usize::from(wave.is_some()),
                }
            }
            scene.proxy.release();
            gate.open(1);
            anyhow::Ok(before)
        };
        let (reply, before) = tokio::join!(scene.chat(session, &message, &[]), counting);
        assert_eq!(reply?.cache(), "miss", "{session:?}");
        let before = before?;
        assert!(before <= 2, "{session:?}: {before}");
    }
    // And what is in the cache takes one, where no history belongs to it.
    scene.chat("", "again", &[]).await?;
    let (waves, reply) = scene.proxy.waves(QUIET, scene.chat("", "again", &[])).await;
    let reply = reply?;
    assert_eq!((reply.cache(), waves.len()), ("hit", 1), "{waves:?}");
    Ok(())
}
