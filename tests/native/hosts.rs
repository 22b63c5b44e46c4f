//! Connections to hosts: closed while idle, made within their own limits.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use http::{Method, Request};
use paddock_tests::{
    gateway::{HostShim, PATIENCE},
    http_client::{self, Payload, Reply},
    ollama::FakeOllama,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A proxy before a host that closes each connection on which a chat was answered once the next one comes, as a proxy does
/// with connections that were idle for too long.
struct ClosingProxy {
    address: SocketAddr,
    closed: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl ClosingProxy {
    async fn start(host: &FakeOllama) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let closed = Arc::new(AtomicUsize::default());
        let (count, target) = (Arc::clone(&closed), host.url().replace("http://", ""));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (count, target) = (Arc::clone(&count), target.clone());
                connections.spawn(async move {
                    if let Ok(true) = pass(client, &target).await {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Ok(Self { address, closed, _task: task })
    }
}

/// Passes on what comes until the second chat; gives whether there was one.
async fn pass(mut client: TcpStream, target: &str) -> Result<bool> {
    let mut host = TcpStream::connect(target).await?;
    let (mut asked, mut answered, mut chats) = (vec![0; 16 << 10], vec![0; 16 << 10], 0);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read? {
                0 => return Ok(false),
                read => {
                    let bytes = asked.get(..read).unwrap_or_default();
                    chats += usize::from(bytes.starts_with(b"POST /api/chat"));
                    if chats > 1 {
                        return Ok(true);
                    }
                    host.write_all(bytes).await?;
                }
            },
            read = host.read(&mut answered) => match read? {
                0 => return Ok(false),
                read => client.write_all(answered.get(..read).unwrap_or_default()).await?,
            },
        }
    }
}

async fn start(settings: &[(&str, &str)]) -> Result<HostShim> {
    let settings: BTreeMap<_, _> =
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HostShim::start(&settings).await
}

async fn ask(shim: &HostShim, method: Method, path: &str, body: String) -> Result<Reply> {
    let request = Request::builder().method(method).uri(path).body(Payload::from(body))?;
    http_client::send(shim.address(), request).await
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_nobody_a_request() -> Result<()> {
    let ollama = FakeOllama::start().await?;
    let proxy = ClosingProxy::start(&ollama).await?;
    let shim = start(&[
        ("OLLAMA_HOST", &format!("http://{}", proxy.address)),
        ("CACHE_ENABLED", "false"),
        ("PROBE_INTERVAL", "1h"),
    ])
    .await?;
    let chats = 12;
    for number in 0..chats {
        let body = json!({ "message": format!("question {number}") }).to_string();
        let reply = ask(&shim, Method::POST, "/chat", body).await?;
        assert_eq!(reply.status, 200, "{number}: {}", reply.text());
    }
    assert_eq!(ollama.count(paddock_tests::ollama::CHAT), chats, "each was answered once");
    assert!(proxy.closed.load(Ordering::SeqCst) > 0, "no connection was used twice");
    let fleet = ask(&shim, Method::GET, "/fleet", String::new()).await?.json();
    assert_eq!((&fleet["hosts"][0]["state"], &fleet["retries"]["retries"]), (&json!("up"), &json!(0)));
    Ok(())
}

#[tokio::test]
async fn each_limit_of_a_call_is_its_own() -> Result<()> {
    // It takes connections and says nothing: a TLS connection is never made, and a plain one has no head.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let address = silent.local_addr()?;
    let _held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            held.push(connection);
        }
    });
    let long = "40";
    for (scheme, path, limit) in [
        ("https", "/health", "PROBE_CONNECT_TIMEOUT"),
        ("https", "/api/tags", "PROBE_CONNECT_TIMEOUT"),
        ("https", "/chat", "CONNECT_TIMEOUT"),
        ("http", "/chat", "FIRST_BYTE_TIMEOUT"),
        ("http", "/health", "HEALTH_TIMEOUT"),
    ] {
        let host = format!("{scheme}://{address}");
        let mut settings = vec![("OLLAMA_HOST", &*host), ("PROBE_INTERVAL", "1h"), ("HUNG_AFTER", long)];
        for name in [
            "CONNECT_TIMEOUT",
            "PROBE_CONNECT_TIMEOUT",
            "FIRST_BYTE_TIMEOUT",
            "TOTAL_TIMEOUT",
            "HEALTH_TIMEOUT",
        ] {
            // A request first has its host looked at.
            let is_short = name == limit
                || path == "/chat" && name == "PROBE_CONNECT_TIMEOUT"
                || path == "/chat" && name == "HEALTH_TIMEOUT";
            settings.push((name, if is_short { "300ms" } else { long }));
        }
        let shim = start(&settings).await?;
        let (method, body) = if path == "/chat" {
            (Method::POST, json!({ "message": "hello", "stream": true }).to_string())
        } else {
            (Method::GET, String::new())
        };
        let begun = Instant::now();
        let reply = ask(&shim, method, path, body).await?;
        assert!(begun.elapsed() < Duration::from_secs(15), "{scheme} {path} {limit}: {:?}", begun.elapsed());
        assert!(reply.status.as_u16() >= 502, "{path}: {}", reply.text());
    }
    Ok(())
}

/// The address of a port that nobody listens on for now.
async fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

#[tokio::test]
async fn an_own_address_is_refused_at_the_start() -> Result<()> {
    for (listen, host) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "http://localhost"),
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "http://127.0.0.1"),
        ("0.0.0.0", "dns+http://localhost"),
    ] {
        let port = free_address().await?.port();
        let settings = BTreeMap::from([
            ("LISTEN".to_owned(), format!("{listen}:{port}")),
            ("OLLAMA_HOSTS".to_owned(), format!("127.0.0.1:9,{host}:{port}")),
        ]);
        let mut command = tokio::process::Command::from(HostShim::command(&settings)?);
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{host}");
        assert!(words.contains("OLLAMA_HOSTS") && words.contains("LISTEN"), "{host}: {words}");
    }
    Ok(())
}

#[tokio::test]
async fn two_services_that_point_at_each_other_make_no_storm() -> Result<()> {
    let addresses = [free_address().await?, free_address().await?];
    let mut shims = Vec::new();
    for (own, other) in [(0, 1), (1, 0)] {
        let (own, other) = (addresses[own].to_string(), format!("http://{}", addresses[other]));
        shims.push(start(&[("LISTEN", &own), ("OLLAMA_HOST", &other), ("PROBE_INTERVAL", "200ms")]).await?);
    }
    for path in ["/api/chat", "/v1/chat/completions"] {
        let body = json!({ "model": "m", "messages": [] }).to_string();
        let reply = ask(&shims[0], Method::POST, path, body).await?;
        assert_eq!(reply.status, 508, "{path}: {}", reply.text());
    }
    let reply = ask(&shims[0], Method::GET, "/api/tags", String::new()).await?;
    assert_eq!(reply.status, 508, "{}", reply.text());
    let chain = shims[0]
        .wait_for_log(|line| {
            let detail = (line["outcome"] == "loop_detected").then(|| line["detail"].as_str())??;
            detail.contains(", ").then(|| detail.to_owned())
        })
        .await?;
    assert_eq!(chain.split(", ").count(), 3, "there, back, and here again: {chain}");
    assert_eq!(ask(&shims[0], Method::GET, "/health", String::new()).await?.status, 503);
    let requests = shims.iter().map(|shim| shim.logs().matches("\"outcome\"").count()).sum::<usize>();
    assert!(requests < 400, "{requests} requests within a moment");
    Ok(())
}
