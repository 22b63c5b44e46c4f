//! A real Redis for tests: a process of our own on a free port, or the server that `REDIS_URL` names.
//!
//! The program is `PADDOCK_REDIS_SERVER`, else `redis-server` on the `PATH`; a Valkey is `PADDOCK_VALKEY_SERVER`. Every test has keys of its own, so that
//! all tests of a process share one server; a test that stops or pauses its server starts one for itself.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpSocket;
use url::Url;

use crate::ollama::kept_port;

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A Redis server.
#[derive(Debug)]
pub struct RedisServer {
    url: Url,
    /// `None` for a server that is not ours.
    process: Option<Mutex<Process>>,
}

#[derive(Debug)]
struct Process {
    program: String,
    options: Vec<String>,
    /// While the server is stopped, connections are refused and nobody else can take the port.
    port: TcpSocket,
    directory: TempDir,
    /// `None` while it is stopped.
    child: Option<Child>,
}

impl RedisServer {
    /// The server that all tests of this process share. It ends with the last of them.
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(match std::env::var("REDIS_URL") {
            Ok(url) if !url.is_empty() => Self::at(&url).context("REDIS_URL")?,
            _ => Self::start()?,
        });
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// A server that others run.
    pub fn at(url: &str) -> Result<Self> {
        Ok(Self { url: Url::parse(url)?, process: None })
    }

    /// A server of one's own.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// A server of one's own with these options more, as its command line takes them.
    pub fn start_with(options: &[&str]) -> Result<Self> {
        let server = Self::of(program(), options)?;
        server.restart()?;
        Ok(server)
    }

    /// The Valkey that all tests of this process share.
    pub fn shared_valkey() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let program = std::env::var("PADDOCK_VALKEY_SERVER").ok().filter(|path| !path.is_empty());
        let server = Arc::new(Self::of(program.unwrap_or_else(|| "valkey-server".to_owned()), &[])?);
        server.restart()?;
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// A server that does not run yet; its port refuses connections.
    pub fn stopped() -> Result<Self> {
        Self::of(program(), &[])
    }

    fn of(program: String, options: &[&str]) -> Result<Self> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let port = kept_port()?;
        let url = Url::parse(&format!("redis://{}/0", port.local_addr()?))?;
        let process = Process { program, options, port, directory: tempfile::tempdir()?, child: None };
        Ok(Self { url, process: Some(Mutex::new(process)) })
    }

    /// Its address as a URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Ends the process; its port refuses connections.
    pub fn stop(&self) -> Result<()> {
        if let Some(mut child) = self.process()?.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts the process again on the same port, empty unless its options say that it keeps a file.
    pub fn restart(&self) -> Result<()> {
        let mut process = self.process()?;
        if process.child.is_some() {
            return Ok(());
        }
        let address = process.port.local_addr()?;
        let log = process.directory.path().join("log");
        let mut command = Command::new(&process.program);
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--port")
            .arg(address.port().to_string())
            .arg("--dir")
            .arg(process.directory.path())
            .arg("--logfile")
            .arg(&log)
            .args(&process.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().with_context(|| {
            format!(
                "the tests need a Redis and a Valkey: scripts/test-tools finds them, and says what to set \
                 ('{}' does not start)",
                process.program
            )
        })?;
        let child = process.child.insert(child);
        let started = Instant::now();
        while ping(address).is_err() {
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = child.try_wait()? {
                bail!("the Redis server ended with {status}: {}", log());
            }
            ensure!(started.elapsed() < START_LIMIT, "the Redis server does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops the process without closing its connections: it accepts, and never answers.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a paused process go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process()?;
        let child = process.child.as_ref().context("the server does not run")?;
        let pid = Pid::from_raw(child.id().try_into()?).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    fn process(&self) -> Result<MutexGuard<'_, Process>> {
        let process = self.process.as_ref().context("a server that others run is not ours to stop")?;
        Ok(process.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may be gone already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn program() -> String {
    std::env::var("PADDOCK_REDIS_SERVER")
        .ok()
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| "redis-server".into())
}

fn ping(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply)?;
    ensure!(&reply == b"+PONG\r\n" || &reply == b"-NOAUTH", "this is no Redis, or none that serves");
    Ok(())
}
