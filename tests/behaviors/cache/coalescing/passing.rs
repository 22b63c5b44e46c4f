//! Whole answers that pass as they come, because they are longer than may be kept: no other replica can have them.

use http::{HeaderMap, StatusCode, header};
use paddock_tests::{
    ollama::{Pause, Piece},
    redis_commands::Connection,
    redis_server::RedisServer,
};

use super::across_replicas::wait_for_audience;
use crate::behaviors::prelude::*;

const EMBED: &str = "/v1/embeddings";

/// An embedding of so many pieces of 64 KiB; what follows the second one waits for the gate.
fn embedding(pieces: usize, gate: &Gate) -> Result<Scripted> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/json".parse()?);
    let begin = br#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0"#.to_vec();
    let middle = std::iter::repeat_n(b",0.12345".repeat(8 << 10), pieces);
    let said = [begin].into_iter().chain(middle).chain([br#"]}],"model":"llama3.2"}"#.to_vec()]);
    let mut pieces: Vec<_> = said.map(|bytes| Piece { after: Pause::NONE, bytes: bytes.into() }).collect();
    pieces[3].after = Pause::At(gate.clone());
    Ok(Scripted { head_after: Pause::NONE, status: StatusCode::OK, headers, pieces, end: End::Clean })
}

/// Waits until the leader has renewed its lead twice: then it knows who follows.
async fn wait_for_renewals(setup: &Setup) -> Result<()> {
    let redis = Connection::open(&*RedisServer::shared()?).await?;
    let (started, mut last, mut renewals) = (Instant::now(), i64::MAX, 0);
    while renewals < 2 {
        ensure!(started.elapsed() < PATIENCE, "nobody leads");
        for flight in redis.run(&["KEYS", &format!("{}:*:flight:*", setup.prefix())]).await? {
            let left: i64 = redis.run(&["PTTL", &flight]).await?.concat().parse()?;
            renewals += usize::from(left > last);
            last = left;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn a_long_answer_keeps_the_pace_of_its_own_client_while_another_replica_waits(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = Setup::new([&ollama]).set("CACHE_MODE", "all").set("CACHE_MAX_ENTRY", "4096");
    let (one, two) = (form.start(setup.clone()).await?, form.start(setup.clone()).await?);
    one.say("warm up").await?;
    two.say("warm up").await?;
    let gate = Gate::default();
    let scripted = embedding(400, &gate)?;
    let expected: Vec<u8> = scripted.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
    ollama.answers(EMBED, scripted);
    let question = json!({"model": "llama3.2", "input": "a long batch"});
    let mut leader = one.open_post(EMBED, question.clone(), &[]).await?;
    let mut heard = leader.next().await?.context("ended")?.to_vec();
    let others = async {
        wait_for_audience(&setup, 1).await?;
        wait_for_renewals(&setup).await?;
        gate.open(2);
        // More comes than all buffers hold, while the own client reads nothing.
        wait_for_renewals(&setup).await?;
        while let Some(piece) = leader.next().await? {
            heard.extend_from_slice(&piece);
        }
        anyhow::Ok(())
    };
    let (follower, others) = futures::join!(two.post_to(EMBED, question, &[]), others);
    others?;
    assert!(heard == expected, "{} of {} bytes", heard.len(), expected.len());
    let follower = follower?;
    assert_eq!(follower.status, 200);
    assert!(follower.body == expected, "{} of {} bytes", follower.body.len(), expected.len());
    assert_eq!(ollama.count(EMBED), 2, "there is nothing that could be shared");
    Ok(())
}

over_redis! {
    a_long_answer_keeps_the_pace_of_its_own_client_while_another_replica_waits,
}
