//! Processes under measurement: started, read from `/proc`, and ended with the value that stands for them.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to listen; a component is compiled first.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long a process is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_millis(500);
/// Linux tells processor time in hundredths of a second, whatever its own clock.
const TICK: Duration = Duration::from_millis(10);

/// A process and its children.
#[derive(Debug)]
pub(crate) struct Processes {
    child: Child,
    /// Whether it is this program again.
    ours: bool,
    /// Resident memory before the first request, in bytes.
    pub(crate) idle: u64,
}

impl Processes {
    /// Starts this program again as `arguments` say; it announces where it listens.
    pub(crate) fn again(arguments: &[String]) -> Result<(Self, SocketAddr)> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let output = child.stdout.take().context("no output")?;
        let processes = Self { child, ours: true, idle: 0 };
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().context("the process does not say where it listens")?;
        Ok((processes.settled()?, address))
    }

    /// Starts a program that listens on `address`; what it writes is thrown away.
    pub(crate) fn start(command: &mut Command, address: SocketAddr) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let mut processes = Self { child, ours: false, idle: 0 };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = processes.child.try_wait()? {
                bail!("{command:?} ended with {status}");
            }
            if started.elapsed() > START_LIMIT {
                bail!("{command:?} does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        processes.settled()
    }

    fn settled(mut self) -> Result<Self> {
        std::thread::sleep(SETTLE);
        self.idle = self.resident()?;
        Ok(self)
    }

    /// Processor time used so far, in the program and in the kernel on its behalf.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for (_, fields) in self.stats()? {
            // utime and stime, fields 14 and 15 of proc(5).
            for field in fields.get(11..13).unwrap_or_default() {
                ticks += field.parse::<u32>()?;
            }
        }
        Ok(TICK * ticks)
    }

    /// Resident memory in bytes; what processes share is counted for each.
    pub(crate) fn resident(&self) -> Result<u64> {
        let mut bytes = 0;
        for (pid, _) in self.stats()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            let kilobytes = line.trim().trim_end_matches(" kB");
            bytes += kilobytes.parse::<u64>()? * 1024;
        }
        Ok(bytes)
    }

    /// The process and its children, each with the fields of its `stat` from the third on.
    fn stats(&self) -> Result<Vec<(u32, Vec<String>)>> {
        let root = self.child.id();
        let mut found = vec![(root, stat(root)?)];
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Processes come and go while we look.
            let Ok(fields) = stat(pid) else { continue };
            if fields.get(1).is_some_and(|parent| *parent == root.to_string()) {
                found.push((pid, fields));
            }
        }
        Ok(found)
    }
}

fn stat(pid: u32) -> Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("a stat without a name")?;
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

impl Drop for Processes {
    fn drop(&mut self) {
        // One of our own ends with its input; SIGTERM is for a master that has workers to end. It may be gone already.
        drop(self.child.stdin.take());
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()).filter(|_| !self.ours) {
            kill_process(pid, Signal::TERM).ok();
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Tells the parent where we listen.
pub(crate) fn announce(address: SocketAddr) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{address}")?;
    Ok(output.flush()?)
}

/// Returns when the parent has closed our input: it is done with us, or gone.
pub(crate) fn wait_for_parent() {
    std::io::stdin().read_to_end(&mut Vec::new()).ok();
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}
