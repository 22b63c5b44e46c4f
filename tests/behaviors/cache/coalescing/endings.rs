//! How a flight ends for those who follow it in other replicas.

use super::{across_replicas::wait_for_audience, ask, hears, open, told};
use crate::behaviors::prelude::*;

/// Of an answer in one piece the largest that is kept, in bytes.
const KEPT: usize = 2 << 10;

/// Limits are such that a loaded machine changes nothing.
fn patient(ollama: &FakeOllama) -> Setup {
    Setup::new([ollama]).set("REDIS_TIMEOUT", "30").set("REDIS_WRITE_TIMEOUT", "30")
}

/// Replicas that have heard of their host.
async fn replicas<const N: usize>(form: &dyn Form, setup: &Setup) -> Result<[Box<dyn Gateway>; N]> {
    let mut replicas = Vec::new();
    for number in 0..N {
        let replica = form.start(setup.clone()).await?;
        replica.say(&format!("warm up {number}")).await?;
        replicas.push(replica);
    }
    replicas.try_into().ok().context("as many as were started")
}

/// What all get who ask for one whole answer, each of another replica. Upstream answers once all others follow the first.
async fn together(
    (ollama, setup): (&FakeOllama, &Setup),
    replicas: &[Box<dyn Gateway>],
    (path, text): (&str, &str),
    answer: Scripted,
) -> Result<Vec<Reply>> {
    let (asked, gate) = (ollama.count(CHAT), Gate::default());
    ollama.next_chat(answer.behind(&gate));
    let (first, others) = replicas.split_first().context("no replica")?;
    let follow = async {
        ollama.wait_for_requests(CHAT, asked + 1, PATIENCE).await?;
        let open = async {
            wait_for_audience(setup, others.len()).await?;
            gate.open(1);
            anyhow::Ok(())
        };
        let asking = join_all(others.iter().map(|replica| ask(&**replica, path, text)));
        let (replies, opened) = futures::join!(asking, open);
        opened?;
        replies.into_iter().collect::<Result<Vec<_>>>()
    };
    let (first, others) = futures::join!(ask(&**first, path, text), follow);
    let mut replies = vec![first?];
    replies.extend(others?);
    Ok(replies)
}

async fn a_failure_is_everybodys_in_every_replica(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = patient(&ollama);
    let replicas: [_; 3] = replicas(form, &setup).await?;
    for path in ["/chat", CHAT] {
        for status in [400, 500] {
            let asked = ollama.count(CHAT);
            let question = (path, &*format!("refused with {status}"));
            let replies = together((&ollama, &setup), &replicas, question, refusal(status)?).await?;
            let first = &replies[0];
            assert!(!first.status.is_success() && first.text().contains("error"), "{path}: {}", first.text());
            for reply in &replies {
                assert_eq!((reply.status, reply.text()), (first.status, first.text()), "{path} {status}");
                assert_eq!(reply.header("content-type"), first.header("content-type"), "{path} {status}");
            }
            assert_eq!(ollama.count(CHAT), asked + 1, "{path} {status}");
            // A failure is not kept.
            assert_eq!(ask(&*replicas[1], path, question.1).await?.cache(), "miss", "{path} {status}");
        }
    }
    Ok(())
}

/// What a leader and its follower in another replica are told: each hears the beginning before the gate opens.
async fn heard_by_both(
    [one, two]: [&dyn Gateway; 2],
    path: &str,
    question: &str,
    gate: &Gate,
) -> Result<(String, String)> {
    let mut leader = open(one, path, question).await?;
    let mut first = hears(&mut leader, "{").await?;
    let mut follower = open(two, path, question).await?;
    let mut second = hears(&mut follower, "{").await?;
    gate.open(10_000);
    first.push_str(&leader.rest().await?.text());
    second.push_str(&follower.rest().await?.text());
    Ok((first, second))
}

async fn what_breaks_off_breaks_off_in_every_replica(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = patient(&ollama);
    let [one, two] = replicas(form, &setup).await?;
    for path in ["/chat", CHAT] {
        for broken in [Scripted::crashed_in_stream()?, Scripted::unfinished(End::Clean)?] {
            let (asked, gate) = (ollama.count(CHAT), Gate::default());
            let question = format!("broken after {asked}");
            ollama.next_chat(broken.gated(&gate));
            let (first, second) = heard_by_both([&*one, &*two], path, &question, &gate).await?;
            assert!(first.contains("error"), "{path}: {first}");
            assert_eq!(told(&second), told(&first), "{path}");
            assert_eq!(ollama.count(CHAT), asked + 1, "{path}");
        }
    }
    Ok(())
}

async fn a_whole_answer_that_is_not_kept_is_handed_over(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = patient(&ollama).set("CACHE_MAX_ENTRY", KEPT.to_string());
    let replicas: [_; 3] = replicas(form, &setup).await?;
    let long = words(KEPT * 3 / 2);
    for path in ["/chat", CHAT] {
        for said in ["", &*long] {
            let asked = ollama.count(CHAT);
            let question = (path, &*format!("say {} bytes", said.len()));
            let answer = match path {
                CHAT => Scripted::single("llama3.2", said, 1)?,
                _ => Scripted::saying(said)?,
            };
            let replies = together((&ollama, &setup), &replicas, question, answer).await?;
            for reply in &replies {
                let text = reply.text();
                assert!(reply.status == 200 && text.contains(said), "{path}: {} {text}", reply.status);
                assert_eq!(text, replies[0].text(), "{path}");
                assert_eq!(reply.header("content-type"), replies[0].header("content-type"), "{path}");
            }
            let found: Vec<_> = replies.iter().map(Reply::cache).collect();
            assert_eq!(found, ["miss", "coalesced", "coalesced"], "{path}");
            assert_eq!(ollama.count(CHAT), asked + 1, "{path}");
            assert_eq!(ask(&*replicas[1], path, question.1).await?.cache(), "miss", "{path}");
        }
    }
    Ok(())
}

async fn of_what_is_too_large_to_hand_over_one_asks_at_a_time(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = patient(&ollama).set("CACHE_MAX_ENTRY", KEPT.to_string());
    let replicas: [_; 3] = replicas(form, &setup).await?;
    let (long, asked) = (words(KEPT * 4), ollama.count(CHAT));
    ollama.chats(Scripted::saying(&long)?);
    let question = ("/chat", "say very much");
    let replies = together((&ollama, &setup), &replicas, question, Scripted::saying(&long)?).await?;
    for reply in &replies {
        assert_eq!((reply.status.as_u16(), reply.response()), (200, long.clone()));
    }
    assert_eq!(ollama.count(CHAT), asked + replicas.len());
    Ok(())
}

async fn what_repeats_itself_ends_the_same_in_every_replica(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = patient(&ollama);
    let [one, two] = replicas(form, &setup).await?;
    for path in ["/chat", CHAT] {
        let (asked, gate) = (ollama.count(CHAT), Gate::default());
        let question = format!("laugh after {asked}");
        let mut repeating = Scripted::saying("ha ".repeat(31).trim_end())?;
        repeating.pieces.pop();
        ollama.next_chat(repeating.gated(&gate));
        let (first, second) = heard_by_both([&*one, &*two], path, &question, &gate).await?;
        assert!(!first.contains("error"), "{path}: {first}");
        assert_eq!(told(&second), told(&first), "{path}");
        assert_eq!(ollama.count(CHAT), asked + 1, "{path}");
    }
    Ok(())
}

async fn a_whole_answer_that_is_too_long_to_wait_for_is_the_same_in_every_replica(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let setup = patient(&ollama).set("CACHE_MAX_ENTRY", "64KiB");
    let replicas: [_; 3] = replicas(form, &setup).await?;
    let answer = Scripted::single("llama3.2", &words(3 << 20), 1)?.in_pieces_of(1 << 16);
    let said: Vec<_> = answer.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
    ollama.chats(answer.clone());
    let replies = together((&ollama, &setup), &replicas, (CHAT, "say very much"), answer).await?;
    for reply in replies {
        assert!(reply.status == 200 && reply.body == said, "{} {} bytes", reply.status, reply.body.len());
    }
    Ok(())
}

/// Text of about as many bytes that compressing makes hardly smaller.
fn words(bytes: usize) -> String {
    let number = |number: u32| number.wrapping_mul(2_654_435_761).rotate_left(7).wrapping_mul(40_503);
    let words: Vec<_> = (1..).map(|at| format!("{:08x}", number(at))).take(bytes / 9).collect();
    words.join(" ")
}

over_redis! {
    a_failure_is_everybodys_in_every_replica,
    what_breaks_off_breaks_off_in_every_replica,
    a_whole_answer_that_is_not_kept_is_handed_over,
    of_what_is_too_large_to_hand_over_one_asks_at_a_time,
    what_repeats_itself_ends_the_same_in_every_replica,
    a_whole_answer_that_is_too_long_to_wait_for_is_the_same_in_every_replica,
}
