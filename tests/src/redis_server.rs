//! A real Redis for tests: a process of our own on a free port, or the server that `REDIS_URL` names.
//!
//! The program is `PADDOCK_REDIS_SERVER`, else `redis-server` on the `PATH`. Every test has keys of its own, so that
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
    state: ProcessState,
    directory: TempDir,
    address: SocketAddr,
}

#[derive(Debug)]
enum ProcessState {
    Running(Child),
    /// Keeps the port without listening: whoever connects is refused, and nobody else can take it.
    Stopped {
        _port: TcpSocket,
    },
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
        let server = Self::stopped()?;
        server.restart()?;
        Ok(server)
    }

    /// A server that does not run yet; its port refuses connections.
    pub fn stopped() -> Result<Self> {
        let port = closed_port(([127, 0, 0, 1], 0).into())?;
        let address = port.local_addr()?;
        let process = Process {
            state: ProcessState::Stopped { _port: port },
            directory: tempfile::tempdir()?,
            address,
        };
        Ok(Self { url: Url::parse(&format!("redis://{address}/0"))?, process: Some(Mutex::new(process)) })
    }

    /// Its address as a URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Ends the process; its port refuses connections.
    pub fn stop(&self) -> Result<()> {
        let mut process = self.process()?;
        if let ProcessState::Running(child) = &mut process.state {
            child.kill()?;
            child.wait()?;
            let port = closed_port(process.address)?;
            process.state = ProcessState::Stopped { _port: port };
        }
        Ok(())
    }

    /// Starts the process again on the same port, empty.
    pub fn restart(&self) -> Result<()> {
        let mut process = self.process()?;
        let Process { state, directory, address } = &mut *process;
        if let ProcessState::Running(_) = state {
            return Ok(());
        }
        let log = directory.path().join("log");
        let mut command = Command::new(program());
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--port")
            .arg(address.port().to_string())
            .arg("--dir")
            .arg(directory.path())
            .arg("--logfile")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().with_context(|| {
            format!(
                "the tests need a Redis: set REDIS_URL, PADDOCK_REDIS_SERVER or install redis-server \
                 ('{}' does not start)",
                program()
            )
        })?;
        // Kept until the server listens, so that nobody else takes the port meanwhile: both share it till then.
        let _port = std::mem::replace(state, ProcessState::Running(child));
        let started = Instant::now();
        loop {
            if ping(*address).is_ok() {
                return Ok(());
            }
            let ProcessState::Running(child) = state else { bail!("the server was stopped") };
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = child.try_wait()? {
                bail!("the Redis server ended with {status}: {}", log());
            }
            ensure!(started.elapsed() < START_LIMIT, "the Redis server does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
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
        let ProcessState::Running(child) = &process.state else { bail!("the server does not run") };
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
        if let ProcessState::Running(child) = &mut self.state {
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

fn closed_port(address: SocketAddr) -> Result<TcpSocket> {
    let port = TcpSocket::new_v4()?;
    port.set_reuseaddr(true)?;
    port.bind(address).context("keeping a port")?;
    Ok(port)
}

fn ping(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply)?;
    ensure!(&reply == b"+PONG\r\n", "this is no Redis");
    Ok(())
}
