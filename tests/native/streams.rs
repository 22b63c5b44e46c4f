//! Streams of the native server: many at once, clients that stop reading, and clients that send nothing more.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures::future::{join_all, try_join_all};
use paddock_tests::{
    gateway::{HostShim, PATIENCE, Streamed},
    http_client,
    ollama::{CHAT, FakeOllama, Gate, Scripted},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How many streams are open at once.
const STREAMS: usize = 200;
/// The memory that a stream may take, in bytes. Some 60 kB were measured.
const STREAM_MEMORY: usize = 1 << 20;

async fn start(ollama: &FakeOllama, more: &[(&str, &str)]) -> Result<HostShim> {
    let own = [("OLLAMA_HOST".to_owned(), ollama.url())];
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let settings: BTreeMap<_, _> = own.into_iter().chain(more).collect();
    HostShim::start(&settings).await
}

async fn open(shim: &HostShim, message: &str) -> Result<Streamed> {
    let body = json!({"message": message, "stream": true}).to_string();
    http_client::open(shim.address(), http::Request::post("/chat").body(body.into())?).await
}

/// The memory of a process that is in use now, in bytes.
fn resident(shim: &HostShim) -> Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", shim.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no resident memory")?;
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}

#[tokio::test]
async fn two_hundred_streams_at_once_all_complete_and_each_is_its_own() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("HOST_PARALLEL", "200")]).await?;
    open(&shim, "warm up").await?.rest().await?;
    let before = resident(&shim)?;
    let gate = Gate::default();
    for number in 0..STREAMS {
        ollama.next_chat(Scripted::saying(&format!("answer number {number} comes in pieces"))?.gated(&gate));
    }
    let messages: Vec<_> = (0..STREAMS).map(|number| format!("question {number}")).collect();
    let mut streams = try_join_all(messages.iter().map(|message| open(&shim, message))).await?;
    for first in join_all(streams.iter_mut().map(Streamed::next_event)).await {
        ensure!(first?.context("no event")?.1.contains("answer "));
    }
    // Every one is in the middle of its answer now.
    assert_eq!(ollama.open_requests(), STREAMS);
    let each = resident(&shim)?.saturating_sub(before) / STREAMS;
    assert!(each < STREAM_MEMORY, "{each} bytes a stream");
    gate.open(STREAMS * 6);
    let mut said: Vec<_> = join_all(streams.into_iter().map(Streamed::rest))
        .await
        .into_iter()
        .map(|reply| anyhow::Ok(reply?.text()))
        .collect::<Result<_>>()?;
    for text in &said {
        assert!(text.contains("event: done") && text.contains("\"pieces\""), "{text}");
    }
    let numbers = |text: &String| text.split("\"delta\":\"").nth(2).unwrap_or_default().to_owned();
    said = said.iter().map(numbers).collect();
    said.sort_unstable();
    said.dedup();
    assert_eq!(said.len(), STREAMS);
    ollama.wait_for_rest(PATIENCE).await
}

/// A stream that is more than all buffers hold, to a client that has sent its question and will read nothing.
async fn stuck(shim: &HostShim) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(shim.address()).await?;
    let body = json!({"message": "hello", "stream": true}).to_string();
    let head = format!("POST /chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    connection.write_all(format!("{head}{body}").as_bytes()).await?;
    Ok(connection)
}

#[tokio::test]
async fn a_client_that_reads_nothing_for_too_long_is_given_up() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("CLIENT_TIMEOUT", "500ms")]).await?;
    let mut flood = Scripted::saying(&"word ".repeat(4000))?;
    let end = flood.pieces.pop();
    flood.pieces = flood.pieces.iter().cycle().take(400_000).cloned().collect();
    flood.pieces.extend(end);
    ollama.next_chat(flood);
    let mut connection = stuck(&shim).await?;
    ollama.wait_for_given_up(1, PATIENCE).await?;
    let outcome = shim.wait_for_log(|line| {
        let is_it = line.get("message")? == "request";
        is_it.then(|| line.get("outcome")?.as_str().map(str::to_owned)).flatten()
    });
    assert_eq!(outcome.await?, "client_closed");
    // Its connection is closed, not kept for whatever it may read one day.
    let mut rest = vec![0; 1 << 20];
    let closed = async { while connection.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(PATIENCE, closed).await?;
    // Others are not disturbed.
    ensure!(open(&shim, "another").await?.rest().await?.text().contains("event: done"));
    Ok(())
}

/// Asks as `nc -N` does: after the question it says that it will send nothing more, and reads on.
async fn ask_and_end(shim: &HostShim, request: &str) -> Result<TcpStream> {
    let mut connection = TcpStream::connect(shim.address()).await?;
    connection.write_all(request.as_bytes()).await?;
    connection.shutdown().await?;
    Ok(connection)
}

fn request(version: &str, body: &serde_json::Value) -> String {
    let body = body.to_string();
    format!("POST /chat {version}\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_client_that_sends_nothing_more_gets_its_whole_answer() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.loads(&["llama3.2:latest"]);
    let shim = start(&ollama, &[]).await?;
    for (index, stream) in [false, true].into_iter().enumerate() {
        let gate = Gate::default();
        ollama
            .next_chat(Scripted::saying("late but whole")?.behind(&gate).slowly(Duration::from_millis(100)));
        let question =
            request("HTTP/1.1", &json!({"message": "hello", "stream": stream, "system": stream.to_string()}));
        let mut connection = ask_and_end(&shim, &question).await?;
        ollama.wait_for_requests(CHAT, index + 1, PATIENCE).await?;
        // Long enough for whoever takes it for departed.
        assert!(ollama.wait_for_given_up(1, Duration::from_millis(500)).await.is_err());
        gate.open(1);
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, connection.read_to_string(&mut answer)).await??;
        assert!(answer.contains("HTTP/1.1 200 OK\r\n") && answer.contains("whole"), "{answer}");
        assert!(answer.contains(if stream { "event: done" } else { "late but whole" }), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_closes_is_told_from_one_that_only_sends_nothing_more() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    ollama.loads(&["llama3.2:latest"]);
    let shim = start(&ollama, &[]).await?;
    for (index, version) in ["HTTP/1.1", "HTTP/1.0"].into_iter().enumerate() {
        ollama.next_chat(Scripted::hang());
        let question = request(version, &json!({"message": "hello"}));
        let connection = if version == "HTTP/1.1" {
            ask_and_end(&shim, &question).await?
        } else {
            // Clients of old get no interim response: the end of their sending is the end.
            let mut connection = TcpStream::connect(shim.address()).await?;
            connection.write_all(question.as_bytes()).await?;
            connection
        };
        ollama.wait_for_requests(CHAT, index + 1, PATIENCE).await?;
        drop(connection);
        ollama.wait_for_given_up(index + 1, Duration::from_secs(1)).await?;
    }
    Ok(())
}
