//! A soak: what asks for most memory, all of it at once and for a while, under the memory limit that the manifest for
//! Kubernetes sets. Nothing is killed, honest requests are answered, and the service says that it lives.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{FutureExt as _, future::try_join_all};
use http::{Method, Request};
use paddock_tests::{
    artifacts::workspace,
    gateway::{HostShim, Payload},
    http_client,
    memory_limit::MemoryLimit,
    ollama::{CHAT, FakeOllama, Scripted},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long the soak takes.
const TIME: Duration = Duration::from_secs(40);
/// Clients that send the largest bodies, one after the other.
const LARGE: usize = 8;
/// Bytes of images in each of these.
const IMAGE: usize = 18 << 20;
/// Clients that begin to send a large body and stop in the middle.
const IDLE_UPLOADS: usize = 40;
/// Clients that ask for a large whole answer and never read it.
const NON_READERS: usize = 60;
/// Bytes of that answer.
const ANSWER: usize = 4 << 20;
/// Clients that send half a head.
const HALF_HEADS: usize = 300;
/// How long `/livez` may take, as a kubelet waits for it.
const ALIVE: Duration = Duration::from_secs(2);
/// How long an honest request may take beside all this.
const HONEST: Duration = Duration::from_secs(20);
/// The pause between two requests of a client that is honest, or looks whether the service lives.
const PAUSE: Duration = Duration::from_millis(100);

/// The memory limit of the service in the manifest for Kubernetes, in bytes.
fn limit() -> Result<u64> {
    let manifest = std::fs::read_to_string(workspace().join("deploy/kubernetes.yaml"))?;
    let limits = manifest.lines().find_map(|line| line.trim().strip_prefix("limits: { memory: "));
    let mebibytes = limits.and_then(|limits| limits.split("Mi").next()).context("no memory limit")?;
    Ok(mebibytes.parse::<u64>()? << 20)
}

/// What the image sets in the service's environment.
fn image_environment() -> Result<BTreeMap<String, String>> {
    let file = std::fs::read_to_string(workspace().join("Dockerfile"))?;
    let lines = file.lines().filter_map(|line| line.strip_prefix("ENV "));
    let pairs = lines.flat_map(str::split_whitespace).filter_map(|pair| pair.split_once('='));
    // It listens on a port of its own.
    let pairs = pairs.filter(|(name, _)| *name != "LISTEN");
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

struct Soak {
    address: SocketAddr,
    over: AtomicBool,
    /// Large requests that were answered, and that were refused for want of room.
    answered: AtomicUsize,
    refused: AtomicUsize,
}

impl Soak {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Waits until the soak is over. It is the input of this test, not a wait for something.
    async fn end(&self) {
        while self.goes_on() {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends bodies of nearly the largest size, on both surfaces in turn.
    async fn large(&self, client: usize) -> Result<()> {
        let image = "A".repeat(IMAGE);
        for number in 0_usize.. {
            if !self.goes_on() {
                break;
            }
            let text = format!("large {client} {number}");
            let (path, body) = if (client + number).is_multiple_of(2) {
                ("/chat", json!({"message": text, "images": [image]}))
            } else {
                let message = json!({"role": "user", "content": text, "images": [image]});
                (CHAT, json!({"model": "llama3.2", "messages": [message], "stream": false}))
            };
            let request = Request::builder().method(Method::POST).uri(path);
            let body = Payload::from(body.to_string());
            let reply = http_client::send(self.address, request.body(body)?).await?;
            match reply.status.as_u16() {
                200 => self.answered.fetch_add(1, Ordering::Relaxed),
                503 => self.refused.fetch_add(1, Ordering::Relaxed),
                other => anyhow::bail!("a large body got {other}: {}", reply.text()),
            };
        }
        Ok(())
    }

    /// Announces 15 MB, sends a third, and falls silent. The service may close the connection at any time.
    async fn idle_upload(&self) -> Result<()> {
        let head = "POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: 15000000\r\n\r\n";
        self.send_and_stay(&[head.as_bytes(), &vec![b' '; 5_000_000]].concat()).await
    }

    /// Asks for a large whole answer and reads nothing of it.
    async fn non_reader(&self) -> Result<()> {
        let body = json!({"model": "llama3.2", "input": ["x"]}).to_string();
        let head = "POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: ";
        self.send_and_stay(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await
    }

    async fn send_and_stay(&self, request: &[u8]) -> Result<()> {
        let mut connection = TcpStream::connect(self.address).await?;
        let sending = async {
            connection.write_all(request).await.ok();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = sending => {}
            () = self.end() => {}
        }
        Ok(())
    }

    /// Sends half a head, again whenever it is let go.
    async fn half_head(&self) -> Result<()> {
        let one = async || {
            if let Ok(mut connection) = TcpStream::connect(self.address).await {
                connection.write_all(b"POST /chat HTTP/1.1\r\nhost: lo").await.ok();
                connection.read_to_end(&mut Vec::new()).await.ok();
            }
            tokio::time::sleep(PAUSE).await;
        };
        while self.goes_on() {
            tokio::select! {
                () = one() => {}
                () = self.end() => {}
            }
        }
        Ok(())
    }

    /// Asks small questions, each of which must be answered.
    async fn honest(&self) -> Result<()> {
        for number in 0_usize.. {
            if !self.goes_on() {
                break;
            }
            let began = Instant::now();
            let body = json!({"message": format!("honest {number}")}).to_string();
            let request = Request::post("/chat").body(Payload::from(body))?;
            let reply = http_client::send(self.address, request).await?;
            ensure!(reply.status == 200, "an honest request got {}: {}", reply.status, reply.text());
            ensure!(began.elapsed() < HONEST, "an honest request took {:?}", began.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Asks whether the service lives, as a kubelet does: from a thread of its own, so that the other clients' work is not
    /// measured. Gives the longest time that an answer took.
    fn alive(&self) -> Result<Duration> {
        let mut longest = Duration::ZERO;
        while self.goes_on() {
            let began = Instant::now();
            let mut connection = std::net::TcpStream::connect(self.address)?;
            connection.set_read_timeout(Some(HONEST))?;
            connection.write_all(b"GET /livez HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
            let mut reply = String::new();
            connection.read_to_string(&mut reply)?;
            ensure!(reply.starts_with("HTTP/1.") && reply.contains(" 200 OK"), "/livez got {reply}");
            longest = longest.max(began.elapsed());
            std::thread::sleep(PAUSE);
        }
        Ok(longest)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_asks_for_most_memory_kills_nothing_and_starves_nobody() -> Result<()> {
    let Some(group) = MemoryLimit::new(limit()?) else {
        eprintln!("skipped: no control group can be made here");
        return Ok(());
    };
    let ollama = FakeOllama::start().await?;
    ollama.answers("/v1/embeddings", Scripted::single("llama3.2", &"x".repeat(ANSWER), 1)?);
    let mut settings = BTreeMap::from([("OLLAMA_HOST".to_owned(), ollama.url())]);
    settings.extend(image_environment()?);
    let mut command = group.around(&HostShim::command(&settings)?);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shim = HostShim::spawn(&mut command).await?;
    let soak = Arc::new(Soak {
        address: shim.address(),
        over: AtomicBool::new(false),
        answered: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    });
    let kubelet = std::thread::spawn({
        let soak = Arc::clone(&soak);
        move || soak.alive()
    });
    let clock = async {
        tokio::time::sleep(TIME).await;
        soak.over.store(true, Ordering::Relaxed);
        Ok(())
    };
    let mut clients = vec![clock.boxed(), soak.honest().boxed()];
    clients.extend((0..LARGE).map(|client| soak.large(client).boxed()));
    clients.extend((0..IDLE_UPLOADS).map(|_| soak.idle_upload().boxed()));
    clients.extend((0..NON_READERS).map(|_| soak.non_reader().boxed()));
    clients.extend((0..HALF_HEADS).map(|_| soak.half_head().boxed()));
    let result = try_join_all(clients).await;
    soak.over.store(true, Ordering::Relaxed);
    let alive = kubelet.join().map_err(|_| anyhow::anyhow!("the kubelet's thread failed"))?;
    let peak = group.peak()?;
    let (answered, refused) = (soak.answered.load(Ordering::Relaxed), soak.refused.load(Ordering::Relaxed));
    eprintln!(
        "peak {} MiB, /livez {alive:?}; {answered} large bodies answered, {refused} refused",
        peak >> 20
    );
    ensure!(group.kills()? == 0, "killed for want of memory; before: {result:?}");
    result?;
    let longest = alive?;
    ensure!(longest < ALIVE, "/livez took {longest:?}");
    ensure!(shim.ended()?.is_none(), "the service has ended");
    ensure!(answered > 0, "no large body was answered");
    Ok(())
}
