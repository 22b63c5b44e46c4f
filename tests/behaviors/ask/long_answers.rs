//! Whole answers and sessions' streams of any length: they pass as they come, and only what may be kept is kept.

use http::{HeaderMap, StatusCode, header};
use paddock_tests::ollama::{Pause, Piece};
use serde_json::Value;

use crate::behaviors::prelude::*;

const EMBED: &str = "/v1/embeddings";
/// The length of the pieces of a long answer.
const PIECE: usize = 64 << 10;

/// A whole answer of these pieces, with or without its length in the head.
fn whole(pieces: impl IntoIterator<Item = Vec<u8>>, is_sized: bool) -> Result<Scripted> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/json".parse()?);
    let pieces = pieces.into_iter().map(|bytes| Piece { after: Pause::NONE, bytes: bytes.into() });
    let pieces: Vec<_> = pieces.collect();
    if is_sized {
        let length: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(Scripted { head_after: Pause::NONE, status: StatusCode::OK, headers, pieces, end: End::Clean })
}

/// An embedding of so many bytes, in pieces.
fn embedding(bytes: usize, is_sized: bool) -> Result<Scripted> {
    let begin = br#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0"#.to_vec();
    let end = br#"]}],"model":"llama3.2"}"#.to_vec();
    let numbers = b",0.12345".repeat(PIECE / 8);
    let middle = std::iter::repeat_n(numbers, bytes / PIECE);
    whole([begin].into_iter().chain(middle).chain([end]), is_sized)
}

fn said(scripted: &Scripted) -> Vec<u8> {
    scripted.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect()
}

fn question(input: &str) -> Value {
    json!({"model": "llama3.2", "input": input})
}

async fn assert_nobody_is_blamed(gateway: &dyn Gateway) -> Result<()> {
    let fleet = gateway.until_fleet(|_| true).await?;
    for host in fleet["hosts"].as_array().context("no hosts")? {
        assert_eq!(host["breaker"]["state"], "closed", "{host}");
        for lane in host["lanes"].as_array().context("no lanes")? {
            assert_eq!(lane["breaker"]["state"], "closed", "{host}");
        }
    }
    Ok(())
}

async fn a_whole_answer_of_any_length_passes_and_is_asked_for_once(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    for (asked, is_sized) in [true, false].into_iter().enumerate() {
        let scripted = embedding(66 << 20, is_sized)?;
        let expected = said(&scripted);
        for host in &hosts {
            host.answers(EMBED, scripted.clone());
        }
        let reply = gateway.post_to(EMBED, question("a long batch"), &[]).await?;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/json"));
        let length = if is_sized { expected.len().to_string() } else { String::new() };
        assert_eq!(reply.header("content-length"), length);
        assert!(reply.body == expected, "{} of {} bytes", reply.body.len(), expected.len());
        assert_eq!(hosts.iter().map(|host| host.count(EMBED)).sum::<usize>(), asked + 1, "it is not kept");
        assert_nobody_is_blamed(gateway.as_ref()).await?;
    }
    Ok(())
}

async fn a_long_whole_answer_passes_as_it_comes(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let (gate, scripted) = (Gate::default(), embedding(8 * PIECE, false)?);
    let expected = said(&scripted);
    let mut gated = scripted;
    gated.pieces[5].after = Pause::At(gate.clone());
    ollama.next(EMBED, gated);
    let mut reply = gateway.open_post(EMBED, question("a batch"), &[]).await?;
    let mut read = Vec::new();
    // The rest is said only after the beginning was read: whatever waits for the whole waits for ever.
    while read.len() < 3 * PIECE {
        read.extend_from_slice(&reply.next().await?.context("ended")?);
    }
    gate.open(1);
    read.extend_from_slice(&reply.rest().await?.body);
    assert!(read == expected, "{} of {} bytes", read.len(), expected.len());
    Ok(())
}

async fn a_long_whole_answer_that_may_be_kept_is_kept(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama]).set("CACHE_MODE", "all")).await?;
    let scripted = embedding(4 * PIECE, false)?;
    ollama.answers(EMBED, scripted.clone());
    let all = join_all((0..3).map(|_| gateway.post_to(EMBED, question("a batch"), &[]))).await;
    for reply in all {
        assert_eq!(reply?.body, said(&scripted));
    }
    let asked = ollama.count(EMBED);
    let again = gateway.post_to(EMBED, question("a batch"), &[]).await?;
    assert_eq!((again.cache(), &*again.body), ("hit", &*said(&scripted)));
    assert_eq!(ollama.count(EMBED), asked);
    Ok(())
}

async fn a_long_whole_answer_that_breaks_off_is_never_taken_for_the_whole(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    for is_sized in [true, false] {
        for end in [End::Cut, End::Reset, End::Clean] {
            // A length that is not reached is a cut.
            if is_sized && end == End::Clean {
                continue;
            }
            let gateway = form.start(Setup::new(&hosts).set("CACHE_MODE", "all")).await?;
            let scripted = embedding(8 * PIECE, is_sized)?;
            let (gate, mut cut) = (Gate::default(), scripted.clone());
            cut.pieces.truncate(6);
            cut.pieces[5].after = Pause::At(gate.clone());
            cut.end = end;
            for host in &hosts {
                host.answers(EMBED, cut.clone());
            }
            let asked: usize = hosts.iter().map(|host| host.count(EMBED)).sum();
            let mut reply = gateway.open_post(EMBED, question("a batch"), &[]).await?;
            assert_eq!(reply.status, 200);
            reply.next().await?.context("ended")?;
            gate.open(1);
            assert!(reply.rest().await.is_err(), "{is_sized} {end:?}");
            let asked = hosts.iter().map(|host| host.count(EMBED)).sum::<usize>() - asked;
            assert_eq!(asked, 1, "{is_sized} {end:?}: another host was asked");
            for host in &hosts {
                host.answers(EMBED, scripted.clone());
            }
            let again = gateway.post_to(EMBED, question("a batch"), &[]).await?;
            assert_eq!((again.cache(), &*again.body), ("miss", &*said(&scripted)), "{is_sized} {end:?}");
        }
    }
    Ok(())
}

/// The lines of a chat that says this many mebibytes.
fn long_stream(mebibytes: usize) -> Result<Scripted> {
    let mut scripted = Scripted::saying("well said")?;
    let last = scripted.pieces.pop().context("no last line")?;
    let text = "0123456789abcdef".repeat(1 << 16);
    let message = json!({"role": "assistant", "content": text});
    let line = json!({"model": "llama3.2", "message": message, "done": false}).to_string() + "\n";
    let piece = Piece { after: Pause::NONE, bytes: line.into() };
    scripted.pieces.extend(std::iter::repeat_n(piece, mebibytes));
    scripted.pieces.push(last);
    Ok(scripted)
}

fn chat(message: &str, stream: bool) -> Value {
    json!({"model": "llama3.2", "messages": [{"role": "user", "content": message}], "stream": stream})
}

async fn a_sessions_stream_goes_on_beyond_what_a_turn_may_have_and_says_that_it_is_not_stored(
    form: &dyn Form,
) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    let scripted = long_stream(17)?;
    ollama.next_chat(scripted.clone());
    let headers = [("x-paddock-session", "s")];
    let reply = gateway.post_to(CHAT, chat("hello", true), &headers).await?;
    let (expected, read) = (said(&scripted), reply.body.to_vec());
    let told = b",\"session\":\"unavailable\"}\n";
    let end = expected.len() - 2;
    assert!(read.starts_with(&expected[..end]) && read[end..] == *told, "{} bytes", read.len());
    ollama.next_chat(scripted);
    let accept = [("accept", "application/x-ndjson")];
    let reply = gateway.post_to("/chat", json!({"message": "hello", "session_id": "s"}), &accept).await?;
    let text = reply.text();
    let done: Value = serde_json::from_str(text.lines().last().unwrap_or_default())?;
    assert_eq!((&done["event"], &done["session"]), (&json!("done"), &json!("unavailable")));
    assert!(text.len() > 17 << 20);
    gateway.say_in("s", "again").await?;
    assert_eq!(ollama.last_conversation(), ["user: again"]);
    Ok(())
}

async fn a_limit_of_our_own_is_named_and_nobody_is_blamed(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    for host in &hosts {
        host.chats(long_stream(17)?);
    }
    let reply = gateway.chat(json!({"message": "hello"})).await?;
    assert_eq!(reply.outcome(), (502, "answer_too_long".to_owned()));
    assert!(reply.text().contains("longer than 16777216 bytes"), "{}", reply.text());
    assert_eq!(hosts.iter().map(|host| host.count(CHAT)).sum::<usize>(), 1);
    assert_nobody_is_blamed(gateway.as_ref()).await
}

async fn an_event_that_is_longer_than_one_may_be_is_no_hosts_fault(form: &dyn Form) -> Result<()> {
    let hosts = [FakeOllama::start().await?, FakeOllama::start().await?];
    let gateway = form.start(Setup::new(&hosts)).await?;
    let long = Scripted::single("llama3.2", &"0123456789abcdef".repeat(17 << 16), 10)?.in_pieces_of(PIECE);
    let mut late = Scripted::saying("hi there")?;
    late.pieces.truncate(1);
    late.pieces.extend(long.pieces.iter().cloned());
    for (asked, (scripted, status)) in [(long, 502), (late, 200)].into_iter().enumerate() {
        for host in &hosts {
            host.chats(scripted.clone());
        }
        let reply = gateway.post_to(CHAT, chat("hello", true), &[]).await?;
        assert_eq!(reply.status, status, "{}", reply.text());
        assert!(reply.text().contains("longer than 16777216 bytes"), "{}", reply.text());
        assert_eq!(hosts.iter().map(|host| host.count(CHAT)).sum::<usize>(), asked + 1);
        assert_nobody_is_blamed(gateway.as_ref()).await?;
    }
    Ok(())
}

async fn a_sessions_long_whole_answer_is_a_turn_as_long_as_one_may_be(form: &dyn Form) -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let gateway = form.start(Setup::new([&ollama])).await?;
    for (session, mebibytes, status) in [("short", 2, "stored"), ("long", 17, "unavailable")] {
        let text = "0123456789abcdef".repeat(mebibytes << 16);
        let scripted = Scripted::single("llama3.2", &text, 10)?.in_pieces_of(PIECE);
        ollama.next_chat(scripted.clone());
        let headers = [("x-paddock-session", session)];
        let reply = gateway.post_to(CHAT, chat("hello", false), &headers).await?;
        assert_eq!((reply.status.as_u16(), reply.header("x-session")), (200, status), "{session}");
        assert!(reply.body == said(&scripted), "{session}: {} bytes", reply.body.len());
        let page = gateway.get(&format!("/sessions/{session}")).await?;
        assert_eq!(page.status, if status == "stored" { 200 } else { 404 }, "{session}");
    }
    Ok(())
}

on_every_form! {
    a_whole_answer_of_any_length_passes_and_is_asked_for_once,
    a_long_whole_answer_passes_as_it_comes,
    a_long_whole_answer_that_may_be_kept_is_kept,
    a_long_whole_answer_that_breaks_off_is_never_taken_for_the_whole,
    a_sessions_stream_goes_on_beyond_what_a_turn_may_have_and_says_that_it_is_not_stored,
    a_limit_of_our_own_is_named_and_nobody_is_blamed,
    an_event_that_is_longer_than_one_may_be_is_no_hosts_fault,
    a_sessions_long_whole_answer_is_a_turn_as_long_as_one_may_be,
}
