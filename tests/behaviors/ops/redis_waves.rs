//! How often a request waits for Redis: what is sent together is one wave.

use paddock_tests::{redis_proxy::WaveProxy, redis_server::RedisServer};

use crate::behaviors::{prelude::*, sessions::routes};

/// As long as nothing is sent, a wave has ended. A machine under load may take as long between two commands of one wave;
/// what belongs together would then look like two, so that it is generous.
const QUIET: Duration = Duration::from_millis(500);

struct Scene {
    ollama: FakeOllama,
    proxy: WaveProxy,
    gateway: Box<dyn Gateway>,
    _redis: RedisServer,
}

/// A replica on which nothing but requests asks Redis.
async fn started(form: &dyn Form) -> Result<Scene> {
    let ollama = FakeOllama::start().await?;
    let redis = RedisServer::start()?;
    let proxy = WaveProxy::start(&redis).await?;
    let setup = Setup::new([&ollama]).redis(&proxy.server()?).in_one_instance().rarely_probes();
    let gateway = form.start(setup.set("REDIS_TIMEOUT", "60").set("REDIS_WRITE_TIMEOUT", "60")).await?;
    Ok(Scene { ollama, proxy, gateway, _redis: redis })
}

/// One that has heard of its host and has a connection.
async fn scene(form: &dyn Form) -> Result<Scene> {
    let scene = started(form).await?;
    assert_eq!(scene.gateway.say_in("s", "warm up").await?.header("x-session"), "stored");
    // What the first answer taught of the host is noted beside it.
    while scene.proxy.wave(QUIET, QUIET).await.is_some() {}
    Ok(scene)
}

/// Whether somebody waits for a command. What hosts have is kept, and by whom they are asked next decided, in the
/// background.
fn is_waited_for(command: &str) -> bool {
    !command.ends_with("{fleet}:1:inventory") && !command.ends_with("{fleet}:1:refresh")
}

/// The waves that a request waits for.
fn waited_for(waves: Vec<Vec<String>>) -> Vec<Vec<String>> {
    waves.into_iter().filter(|wave| wave.iter().any(|command| is_waited_for(command))).collect()
}

impl Scene {
    async fn chat(&self, session: &str, message: &str, headers: &[(&str, &str)]) -> Result<Reply> {
        self.gateway.chat_with(json!({"message": message, "session_id": session}), headers).await
    }

    /// The waves before upstream is asked, and those of what belongs to the answer.
    async fn waves(&self, session: &str, message: &str) -> Result<(Vec<Vec<String>>, Vec<Vec<String>>)> {
        // A fresh answer is wanted: there is nobody whom the flight would have to be told of meanwhile.
        let fresh = [("cache-control", "no-cache")];
        let gate = Gate::default();
        self.ollama.next_chat(Scripted::saying("late")?.behind(&gate));
        let asked = self.ollama.count(CHAT);
        let counting = async {
            let until_asked = self.ollama.wait_for_requests(CHAT, asked + 1, PATIENCE);
            let (before, reached) = self.proxy.waves(QUIET, until_asked).await;
            reached?;
            let open = async { gate.open(1) };
            let (after, ()) = self.proxy.waves(QUIET, open).await;
            anyhow::Ok((waited_for(before), waited_for(after)))
        };
        let (reply, counted) = futures::join!(self.chat(session, message, &fresh), counting);
        ensure!(reply?.status == 200, "no answer");
        counted
    }
}

async fn upstream_is_asked_after_two_waves_and_one_more_stores_and_counts_everything(
    form: &dyn Form,
) -> Result<()> {
    let scene = scene(form).await?;
    for session in ["", "s"] {
        let (before, after) = scene.waves(session, &format!("a question in '{session}'")).await?;
        assert!(before.len() <= 2, "{session:?}: {before:?}");
        assert_eq!(after.len(), 1, "{session:?}: {after:?}");
        assert!(after[0].iter().any(|command| command.contains(":answer:")), "{after:?}");
    }
    Ok(())
}

/// What was never used knows no host and has no connection.
async fn the_first_request_of_all_waits_no_more_often(form: &dyn Form) -> Result<()> {
    let scene = started(form).await?;
    let (before, _) = scene.waves("s", "the first question").await?;
    assert!(before.len() <= 2, "{before:?}");
    Ok(())
}

async fn a_question_that_others_may_wait_for_needs_no_more(form: &dyn Form) -> Result<()> {
    let scene = scene(form).await?;
    for session in ["", "s"] {
        let message = format!("a shared question in '{session}'");
        let asked = scene.ollama.count(CHAT);
        let gate = Gate::default();
        scene.ollama.next_chat(Scripted::saying("late")?.behind(&gate));
        let counting = async {
            let until_asked = scene.ollama.wait_for_requests(CHAT, asked + 1, PATIENCE);
            // What follows belongs to the flight.
            scene.proxy.hold();
            let mut before = Vec::new();
            tokio::pin!(until_asked);
            loop {
                tokio::select! {
                    reached = &mut until_asked => {
                        reached?;
                        break;
                    }
                    wave = scene.proxy.wave(QUIET, PATIENCE) => before.extend(wave),
                }
            }
            scene.proxy.release();
            gate.open(1);
            anyhow::Ok(waited_for(before))
        };
        let (reply, before) = futures::join!(scene.chat(session, &message, &[]), counting);
        assert_eq!(reply?.cache(), "miss", "{session:?}");
        let before = before?;
        assert!(before.len() <= 2, "{session:?}: {before:?}");
    }
    Ok(())
}

/// It is not known whose answers were forgotten before the session says which model it is.
async fn a_session_that_names_its_model_waits_no_more_often(form: &dyn Form) -> Result<()> {
    let scene = scene(form).await?;
    let made = json!({"model": "llama3.2:latest"}).to_string();
    let id = routes::made(scene.gateway.as_ref(), &made, &[]).await?;
    scene.chat(&id, "warm up", &[]).await?;
    let (before, _) = scene.waves(&id, "a question to the model of the session").await?;
    assert!(before.len() <= 2, "{before:?}");
    Ok(())
}

/// Where no history belongs to the question. Counters that are in Redis, too, are added to when the answer is there.
async fn what_is_in_the_cache_takes_one_wave(form: &dyn Form) -> Result<()> {
    let scene = scene(form).await?;
    scene.chat("", "again", &[]).await?;
    let (waves, reply) = scene.proxy.waves(QUIET, scene.chat("", "again", &[])).await;
    assert_eq!(reply?.cache(), "hit");
    let is_counting = |command: &String| command.ends_with("{metrics}:1:counters");
    let waves = waited_for(waves);
    let asking = waves.iter().filter(|wave| !wave.iter().all(is_counting)).count();
    assert!(asking == 1 && waves.len() <= 2, "{waves:?}");
    Ok(())
}

over_redis! {
    upstream_is_asked_after_two_waves_and_one_more_stores_and_counts_everything,
    the_first_request_of_all_waits_no_more_often,
    a_question_that_others_may_wait_for_needs_no_more,
    a_session_that_names_its_model_waits_no_more_often,
    what_is_in_the_cache_takes_one_wave,
}
