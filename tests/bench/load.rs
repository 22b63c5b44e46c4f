//! The load generator: keep-alive connections on one thread, each with one request outstanding.
//!
//! Requests are written beforehand; a unique one differs from the last in its digits alone.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::http1;

/// The digits of a unique request are written over these.
const PLACE: &str = "0000000000000000";

/// Whom to ask, and what.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    request: Vec<u8>,
    /// Where the digits of a unique request are; `None` when all requests are the same.
    digits: Option<usize>,
    /// What every reply's `X-Cache` must say.
    cache: Option<&'static str>,
}

/// What a system is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Ollama's own request, each with another question.
    Ollama,
    /// `POST /chat`, each with another question.
    New,
    /// `POST /chat`, always the same.
    Repeated,
    /// `GET /livez`.
    Alive,
    /// Ollama's own request with a large image, each with another question.
    Large,
}

/// The bytes of a large image.
const IMAGE: usize = 18 << 20;

impl Target {
    pub(crate) fn new(address: SocketAddr, question: Question) -> Self {
        let words = format!("Why is the sky blue? Please answer question {PLACE} in two short sentences.");
        let ollama = |images: &str| {
            let message = format!(r#"{{"role":"user","content":"{words}"{images}}}"#);
            format!(r#"{{"model":"llama3.2","messages":[{message}],"stream":true}}"#)
        };
        let (line, body) = match question {
            Question::Ollama => ("POST /api/chat", ollama("")),
            Question::Large => ("POST /api/chat", ollama(&format!(r#","images":["{}"]"#, "A".repeat(IMAGE)))),
            Question::New | Question::Repeated => ("POST /chat", format!(r#"{{"message":"{words}"}}"#)),
            Question::Alive => ("GET /livez", String::new()),
        };
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (digits, cache) = match question {
            Question::Ollama | Question::Large => (request.find(PLACE), None),
            Question::New => (request.rfind(PLACE), Some("miss")),
            Question::Repeated => (None, Some("hit")),
            Question::Alive => (None, None),
        };
        Self { address, request: request.into_bytes(), digits, cache }
    }

    /// Asks once, so that what is asked again is in the cache.
    pub(crate) async fn prime(&self) -> Result<()> {
        let mut client = Client::connect(self).await?;
        client.exchange().await.map(drop)
    }
}

/// How a target is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// What one measurement gave.
#[derive(Debug)]
pub(crate) struct Measurement {
    pub(crate) elapsed: Duration,
    /// Of each request, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
    /// Of the system asked.
    pub(crate) cpu: Duration,
}

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

impl Load {
    /// Asks for as long as told. `cpu` reads the processor time that the system asked has used so far.
    pub(crate) async fn run(
        self,
        target: &Target,
        cpu: impl Fn() -> Result<Duration>,
    ) -> Result<Measurement> {
        let phase = Arc::new(AtomicU8::new(WARMING_UP));
        let mut clients = Vec::new();
        for _ in 0..self.clients {
            let client = Client::connect(target).await?;
            clients.push(tokio::spawn(client.run(Arc::clone(&phase))));
        }
        tokio::time::sleep(self.warm_up).await;
        let (cpu_before, started) = (cpu()?, Instant::now());
        phase.store(MEASURING, Ordering::Relaxed);
        tokio::time::sleep(self.measured).await;
        phase.store(OVER, Ordering::Relaxed);
        let (elapsed, cpu_after) = (started.elapsed(), cpu()?);
        let mut latencies = Vec::new();
        for client in clients {
            latencies.append(&mut client.await??);
        }
        ensure!(!latencies.is_empty(), "not one answer");
        Ok(Measurement { elapsed, latencies, cpu: cpu_after.saturating_sub(cpu_before) })
    }
}

struct Client {
    stream: TcpStream,
    target: Target,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(target.address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, target: target.clone(), buffer: Vec::with_capacity(16 << 10) })
    }

    async fn run(mut self, phase: Arc<AtomicU8>) -> Result<Vec<u32>> {
        let mut latencies = Vec::new();
        while phase.load(Ordering::Relaxed) != OVER {
            self.next_question();
            let counts = phase.load(Ordering::Relaxed) == MEASURING;
            let started = Instant::now();
            let as_expected = self.exchange().await?;
            let latency = started.elapsed();
            ensure!(as_expected, "X-Cache is not {:?}", self.target.cache);
            if counts && phase.load(Ordering::Relaxed) == MEASURING {
                latencies.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
            }
        }
        Ok(latencies)
    }

    /// Writes a number never used before into a unique request.
    fn next_question(&mut self) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Some(at) = self.target.digits else { return };
        let mut number = NEXT.fetch_add(1, Ordering::Relaxed);
        let digits = self.target.request.get_mut(at..at + PLACE.len()).unwrap_or_default();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }

    /// Whether the reply's `X-Cache` is the one expected.
    async fn exchange(&mut self) -> Result<bool> {
        let Self { stream, target, buffer } = self;
        stream.write_all(&target.request).await?;
        buffer.clear();
        loop {
            if stream.read_buf(buffer).await? == 0 {
                bail!("the server closed the connection");
            }
            if let Some(reply) = http1::reply(buffer)? {
                ensure!(reply.status == 200, "status {}: {}", reply.status, String::from_utf8_lossy(buffer));
                return Ok(target.cache.is_none_or(|expected| reply.cache == Some(expected.as_bytes())));
            }
        }
    }
}
