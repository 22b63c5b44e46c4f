//! Connections of the native server: kept, pipelined, slow, broken.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use paddock_tests::{
    gateway::{HostShim, PATIENCE},
    http_client::{self, Payload},
    ollama::{CHAT, FakeOllama, Scripted},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

async fn start(ollama: &FakeOllama, more: &[(&str, &str)]) -> Result<HostShim> {
    let own = [("OLLAMA_HOST".to_owned(), ollama.url())];
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let settings: std::collections::BTreeMap<_, _> = own.into_iter().chain(more).collect();
    HostShim::start(&settings).await
}

fn chat(message: &str) -> String {
    let body = json!({ "message": message }).to_string();
    format!("POST /chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Reads until the text holds `wanted` so many times.
async fn read_until(connection: &mut TcpStream, wanted: &str, times: usize) -> Result<String> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while text.matches(wanted).count() < times {
        let read = tokio::time::timeout(PATIENCE, connection.read(&mut buffer)).await??;
        anyhow::ensure!(read > 0, "the connection ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    Ok(text)
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_upstream_too() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("CACHE_ENABLED", "false")]).await?;
    let mut connection = TcpStream::connect(shim.address()).await?;
    for number in 0..10 {
        connection.write_all(chat(&format!("question {number}")).as_bytes()).await?;
        read_until(&mut connection, &format!("echo of question {number}"), 1).await?;
    }
    assert_eq!(ollama.count(CHAT), 10);
    // Two may be looks at what it has, one at the start and one in the background; and a chat may come before the
    // connection of the last one is free.
    assert!(ollama.connections() <= 6, "{} connections to Ollama for 10 chats", ollama.connections());
    Ok(())
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[]).await?;
    let mut connection = TcpStream::connect(shim.address()).await?;
    let requests = ["one", "two", "three"].map(chat).concat();
    connection.write_all(requests.as_bytes()).await?;
    let text = read_until(&mut connection, "echo of ", 3).await?;
    let place = |word: &str| text.find(&format!("echo of {word}"));
    assert!(place("one") < place("two") && place("two") < place("three"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_let_go() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("CLIENT_TIMEOUT", "300ms")]).await?;
    for unfinished in
        ["POST /chat HTT", "POST /chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{\"mess"]
    {
        let mut connection = TcpStream::connect(shim.address()).await?;
        connection.write_all(unfinished.as_bytes()).await?;
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, connection.read_to_end(&mut answer)).await??;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.contains(" 408 "), "{unfinished:?}: {answer}");
    }
    assert_eq!(ollama.count(CHAT), 0);
    Ok(())
}

/// Sends pieces, one every so often, until the connection is closed; gives what was answered.
async fn trickle(shim: &HostShim, begin: &str, piece: &str, pause: Duration) -> Result<String> {
    let (mut reader, mut writer) = TcpStream::connect(shim.address()).await?.into_split();
    writer.write_all(begin.as_bytes()).await?;
    let piece = piece.to_owned();
    let sending = tokio::spawn(async move {
        while writer.write_all(piece.as_bytes()).await.is_ok() {
            tokio::time::sleep(pause).await;
        }
    });
    let mut answer = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..read]);
        }
    };
    let ended = tokio::time::timeout(PATIENCE, read).await;
    sending.abort();
    ended?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_head_that_never_ends_is_let_go_after_ten_seconds_whatever_still_comes() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("CLIENT_TIMEOUT", "300")]).await?;
    let started = std::time::Instant::now();
    let begin = "POST /chat HTTP/1.1\r\nx: ";
    let later = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n{begin}");
    let pause = Duration::from_millis(500);
    let answers = tokio::join!(trickle(&shim, begin, "x", pause), trickle(&shim, &later, "x", pause));
    assert!(answers.0?.is_empty() && answers.1?.contains("alive"));
    assert!(started.elapsed() > Duration::from_secs(9), "{:?}", started.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_is_told_at_once_and_never_to_send() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("API_KEYS", "alpha")]).await?;
    for (key, status) in [("beta", "401"), ("alpha", "200")] {
        let mut connection = TcpStream::connect(shim.address()).await?;
        let body = r#"{"message":"hello"}"#;
        let head = format!(
            "POST /chat HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all(head.as_bytes()).await?;
        if status == "200" {
            read_until(&mut connection, "HTTP/1.1 100 Continue\r\n\r\n", 1).await?;
            connection.write_all(body.as_bytes()).await?;
            read_until(&mut connection, "HTTP/1.1 200 OK", 1).await?;
            continue;
        }
        // It ends by itself: the client never sends what it asked about.
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, connection.read_to_string(&mut answer)).await??;
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close"), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_of_one_byte_a_second_is_refused_and_a_slow_one_is_not() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("CLIENT_TIMEOUT", "300")]).await?;
    let head =
        |length: usize| format!("POST /chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
    let message = format!("{{\"message\":\"{}\"}}", "x".repeat(26 << 10));
    let slow = async {
        let mut connection = TcpStream::connect(shim.address()).await?;
        connection.write_all(head(message.len()).as_bytes()).await?;
        for piece in message.as_bytes().chunks(1 << 10) {
            connection.write_all(piece).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        read_until(&mut connection, "\"session_id\"", 1).await
    };
    let begin = head(1 << 20);
    let (slower, slow) = tokio::join!(trickle(&shim, &begin, "x", Duration::from_secs(1)), slow);
    let slower = slower?;
    assert!(slower.contains(" 408 ") && slower.contains("incomplete_body"), "{slower}");
    assert!(slower.contains("connection: close"), "{slower}");
    assert!(slow?.contains(" 200 "));
    Ok(())
}

#[tokio::test]
async fn an_upload_that_stalls_makes_room_for_another() -> Result<()> {
    const LENGTH: usize = 900 << 10;
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("MEMORY_BUDGET", "2MiB"), ("CLIENT_TIMEOUT", "300")]).await?;
    let mut stalled = TcpStream::connect(shim.address()).await?;
    let head = format!("POST /chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: {LENGTH}\r\n\r\n");
    stalled.write_all(&[head.as_bytes(), &vec![b' '; LENGTH - 1]].concat()).await?;
    let (message, deadline) = ("x".repeat(LENGTH), tokio::time::Instant::now() + PATIENCE);
    let body = json!({ "message": message }).to_string();
    let (mut refused, mut has_room) = (0, false);
    while !has_room {
        anyhow::ensure!(tokio::time::Instant::now() < deadline, "refused {refused} times");
        let request = http::Request::post("/chat").body(Payload::from(body.clone()))?;
        let reply = http_client::send(shim.address(), request).await?;
        has_room = reply.status == 200;
        anyhow::ensure!(has_room || reply.status == 503, "{}", reply.text());
        refused += usize::from(!has_room);
    }
    // Whoever has not come on for two seconds makes room, and is told why.
    assert!(refused > 0);
    let told = read_until(&mut stalled, "}}", 1).await?;
    assert!(told.contains(" 503 ") && told.contains("MEMORY_BUDGET"), "{told}");
    Ok(())
}

#[tokio::test]
async fn clients_that_connect_while_the_service_is_busy_need_not_try_again() -> Result<()> {
    const CLIENTS: usize = 400;
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[]).await?;
    // The kernel may allow less.
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn")?.trim().parse::<usize>()?;
    shim.pause()?;
    // Connections beyond those that may wait would not come about before it goes on.
    let clients = (0..CLIENTS.min(most)).map(|_| TcpStream::connect(shim.address()));
    let connected = tokio::time::timeout(PATIENCE, futures::future::try_join_all(clients)).await;
    shim.resume()?;
    let mut clients = connected??;
    let last = clients.last_mut().context("no client")?;
    last.write_all(chat("hello").as_bytes()).await?;
    read_until(last, "echo of hello", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_client_that_reads_no_whole_reply_is_given_up_too() -> Result<()> {
    const LENGTH: usize = 8 << 20;
    let ollama = FakeOllama::start().await?;
    ollama.next_chat(Scripted::saying(&"x".repeat(LENGTH))?);
    let shim = start(&ollama, &[("CLIENT_TIMEOUT", "500ms")]).await?;
    let mut connection = TcpStream::connect(shim.address()).await?;
    connection.write_all(chat("hello").as_bytes()).await?;
    shim.wait_for_log(|line| (line["route"] == "/chat").then_some(())).await?;
    // The client's silence is the test's input, not a wait for something.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (mut received, mut buffer) = (0, vec![0; 1 << 16]);
    let rest = async {
        while let Ok(read @ 1..) = connection.read(&mut buffer).await {
            received += read;
        }
    };
    tokio::time::timeout(PATIENCE, rest).await?;
    assert!(received < LENGTH, "the whole reply was kept for it");
    Ok(())
}

#[tokio::test]
async fn idle_connections_make_room_and_busy_ones_do_not() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[("MAX_CONNECTIONS", "2")]).await?;
    let mut first = TcpStream::connect(shim.address()).await?;
    first.write_all(chat("first").as_bytes()).await?;
    read_until(&mut first, "echo of first", 1).await?;
    let mut second = TcpStream::connect(shim.address()).await?;
    second.write_all(chat("second").as_bytes()).await?;
    read_until(&mut second, "echo of second", 1).await?;
    // The third takes the place of the first, which was idle for longest.
    ollama.chats(Scripted::hang());
    let mut third = TcpStream::connect(shim.address()).await?;
    third.write_all(chat("third").as_bytes()).await?;
    ollama.wait_for_requests(CHAT, 3, PATIENCE).await?;
    assert_eq!(tokio::time::timeout(PATIENCE, first.read(&mut [0; 16])).await?.unwrap_or(0), 0);
    second.write_all(chat("fourth").as_bytes()).await?;
    ollama.wait_for_requests(CHAT, 4, PATIENCE).await?;
    // Both are busy now.
    for path in ["/chat", "/api/chat", "/v1/messages"] {
        let request = http::Request::post(path).body("{}".into())?;
        let reply = http_client::send(shim.address(), request).await?;
        assert_eq!((reply.status.as_u16(), reply.header("connection")), (503, "close"), "{path}");
        assert!(reply.text().contains("MAX_CONNECTIONS") && !reply.header("retry-after").is_empty());
    }
    shim.wait_for_log(|line| line["message"].as_str()?.contains("no room").then_some(())).await?;
    let lines = shim.logs().lines().filter(|line| line.contains("no room for a connection")).count();
    assert_eq!(lines, 1, "{}", shim.logs());
    drop(second);
    ollama.wait_for_given_up(1, PATIENCE).await?;
    let request = http::Request::get("/livez").body("".into())?;
    assert_eq!(http_client::send(shim.address(), request).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn the_limit_of_descriptors_is_raised_at_the_start() -> Result<()> {
    let settings = std::collections::BTreeMap::new();
    let own = HostShim::command(&settings)?;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -S -n 100; exec \"$0\""]).arg(own.get_program()).env_clear();
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let shim = HostShim::spawn(&mut command).await?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", shim.id()))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert!(numbers[0] == numbers[1] && numbers[0] != "100", "{line}");
    Ok(())
}

#[tokio::test]
async fn what_is_no_http_does_not_disturb_others() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[]).await?;
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01"[..], b"GET\r\n\r\n", b"\r\n\r\n\0\0", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut connection = TcpStream::connect(shim.address()).await?;
        connection.write_all(garbage).await?;
        drop(connection);
    }
    let mut connection = TcpStream::connect(shim.address()).await?;
    connection.write_all(chat("hello").as_bytes()).await?;
    read_until(&mut connection, "echo of hello", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_reply_does_not_wait_for_acknowledgements() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let shim = start(&ollama, &[]).await?;
    let mut connection = TcpStream::connect(shim.address()).await?;
    // Without TCP_NODELAY each costs 40 ms. The fastest of many is compared, for the machine may be loaded.
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let started = std::time::Instant::now();
        connection.write_all(chat("hello").as_bytes()).await?;
        read_until(&mut connection, "\"session_id\"", 1).await?;
        fastest = fastest.min(started.elapsed());
    }
    assert!(fastest < Duration::from_millis(35), "{fastest:?}");
    Ok(())
}
