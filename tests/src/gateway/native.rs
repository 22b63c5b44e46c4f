//! The native binary: a process of its own, spawned with nothing in its environment but what a test sets.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures::{FutureExt as _, future::BoxFuture};
use http::Request;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{Form, Gateway, Payload, Streamed};
use crate::{artifacts, http_client, ollama::FakeOllama, redis_server::RedisServer, setup::Setup};

/// How long the binary may take to listen, or to end.
const LIMIT: Duration = Duration::from_secs(30);

/// The native binary with its store embedded, or over Redis.
#[derive(Debug)]
pub struct Native {
    /// Whether it is given a Redis.
    pub redis: bool,
}

impl Form for Native {
    fn start(&self, setup: Setup) -> BoxFuture<'_, Result<Box<dyn Gateway>>> {
        async move {
            let redis = if self.redis { Some(setup.server()?) } else { None };
            let mut settings = BTreeMap::new();
            if let Some(redis) = &redis {
                settings.insert("REDIS_URL".to_owned(), redis.url().to_string());
                settings.insert("REDIS_PREFIX".to_owned(), setup.prefix().to_owned());
            }
            started(setup, settings, Ground { _redis: redis, ..Ground::default() }).await
        }
        .boxed()
    }

    fn has_redis(&self) -> bool {
        self.redis
    }
}

/// The native binary with its store on disk, each time in a directory of its own.
#[derive(Debug)]
pub struct OnDisk;

impl Form for OnDisk {
    fn start(&self, setup: Setup) -> BoxFuture<'_, Result<Box<dyn Gateway>>> {
        async move {
            let directory = TempDir::new()?;
            let settings = [("DATA_DIR".to_owned(), directory.path().display().to_string())].into();
            started(setup, settings, Ground { _directory: Some(directory), ..Ground::default() }).await
        }
        .boxed()
    }

    fn has_redis(&self) -> bool {
        false
    }
}

/// Starts the binary with a form's settings and those of a set-up, which win.
async fn started(
    setup: Setup,
    mut settings: BTreeMap<String, String>,
    ground: Ground,
) -> Result<Box<dyn Gateway>> {
    settings.insert("OLLAMA_HOSTS".to_owned(), setup.host_list());
    settings.extend(setup.settings.clone());
    if setup.rarely_probes {
        settings.insert("PROBE_INTERVAL".to_owned(), "600".to_owned());
    }
    let shim = HostShim::start(&settings).await?;
    Ok(Box::new(NativeGateway { shim, _ground: ground, _hosts: setup.hosts }))
}

struct NativeGateway {
    shim: HostShim,
    /// They live as long as what asks them.
    _ground: Ground,
    _hosts: Vec<FakeOllama>,
}

/// Where its state is, if not in memory.
#[derive(Debug, Default)]
struct Ground {
    _redis: Option<Arc<RedisServer>>,
    _directory: Option<TempDir>,
}

impl Gateway for NativeGateway {
    fn open(&self, request: Request<Payload>) -> BoxFuture<'_, Result<Streamed>> {
        http_client::open(self.shim.address(), request).boxed()
    }

    fn url(&self) -> Option<String> {
        Some(format!("http://{}", self.shim.address()))
    }

    fn logs(&self) -> String {
        self.shim.logs()
    }
}

/// A running `host-shim`. Dropping it kills it.
#[derive(Debug)]
pub struct HostShim {
    child: Child,
    address: SocketAddr,
    output: Arc<Output>,
}

/// What the process wrote, line by line.
#[derive(Debug, Default)]
struct Output(watch::Sender<Vec<String>>);

impl Output {
    fn collect(self: &Arc<Self>, source: impl Read + Send + 'static) {
        let output = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                output.0.send_modify(|lines| lines.push(line));
            }
        });
    }

    /// The first line in which `find` finds something.
    async fn wait_for<T>(&self, limit: Duration, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut lines = self.0.subscribe();
        let found = |lines: &Vec<String>| lines.iter().find_map(|line| find(line));
        let lines = tokio::time::timeout(limit, lines.wait_for(|lines| found(lines).is_some())).await;
        found(&*lines.ok()?.ok()?)
    }
}

impl HostShim {
    /// The binary, with these environment variables alone, listening on a free port and logging JSON.
    pub fn command<'a>(settings: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<Command> {
        let mut command = Command::new(artifacts::host_shim()?);
        command.env_clear().env("LISTEN", "127.0.0.1:0").env("LOG_FORMAT", "json").envs(settings);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Starts it with these settings and waits until it listens.
    pub async fn start<'a>(settings: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<Self> {
        Self::spawn(&mut Self::command(settings)?).await
    }

    /// Starts it as told and waits until it listens.
    pub async fn spawn(command: &mut Command) -> Result<Self> {
        let mut child = command.spawn().context("starting host-shim")?;
        let output = Arc::<Output>::default();
        output.collect(child.stdout.take().context("no output")?);
        output.collect(child.stderr.take().context("no output")?);
        let mut shim = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), output };
        let address = shim.wait_for_log(|line| {
            let is_it = line.get("message").and_then(Value::as_str) == Some("listening");
            is_it.then(|| line.get("address").and_then(Value::as_str)?.parse().ok()).flatten()
        });
        let Ok(address) = address.await else { bail!("host-shim does not listen:\n{}", shim.logs()) };
        shim.address = address;
        Ok(shim)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn logs(&self) -> String {
        self.output.0.borrow().join("\n")
    }

    /// Waits for a line of its log.
    pub async fn wait_for_log<T>(&self, find: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let found = self.output.wait_for(LIMIT, |line| find(&serde_json::from_str(line).ok()?));
        found.await.with_context(|| format!("no such line within {LIMIT:?}:\n{}", self.logs()))
    }

    /// Asks it to stop, as container hosts do.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Kills it, as a machine that runs out of memory does.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Stops it, as a machine that is busy with something else does, until it is resumed.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().try_into()?).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it has ended.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let started = Instant::now();
        while started.elapsed() < LIMIT {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("host-shim does not end within {LIMIT:?}:\n{}", self.logs())
    }
}

impl Drop for HostShim {
    fn drop(&mut self) {
        // It may be gone already.
        self.child.kill().ok();
        self.child.wait().ok();
        super::show("host-shim", &self.logs());
    }
}
