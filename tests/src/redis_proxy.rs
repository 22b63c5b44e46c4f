//! A TCP proxy in front of a Redis, which sees each command, can hold or delay the replies, and so counts waves: the
//! commands that are sent before a held reply is let go. What opens a connection is no command here.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::redis_server::RedisServer;

/// What a client sends when it opens a connection.
pub(crate) const GREETINGS: [&str; 4] = ["HELLO", "AUTH", "SELECT", "CLIENT"];

/// The proxy. It ends when it is dropped.
#[derive(Debug)]
pub struct WaveProxy {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    seen: Mutex<Seen>,
    /// How many commands were seen.
    count: watch::Sender<usize>,
    /// Whether replies are held, and how often held ones were let go.
    gate: watch::Sender<(bool, u64)>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Commands since the last wave ended; scripts and what sets a key with the first key.
    wave: Vec<String>,
    connections: usize,
    delay: Duration,
}

impl WaveProxy {
    /// A proxy in front of this server.
    pub async fn start(server: &RedisServer) -> Result<Self> {
        let upstream = server.url().socket_addrs(|| None)?.first().copied().context("no address")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            seen: Mutex::default(),
            count: watch::channel(0).0,
            gate: watch::channel((false, 0)).0,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, upstream, Arc::clone(&state)));
        Ok(Self { address, state, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server as it is seen through the proxy.
    pub fn server(&self) -> Result<Arc<RedisServer>> {
        Ok(Arc::new(RedisServer::at(&format!("redis://{}/0", self.address))?))
    }

    /// Holds the replies to commands from now on.
    pub fn hold(&self) {
        self.state.gate.send_modify(|(held, _)| *held = true);
    }

    /// Lets all replies go, those that are held and those to come.
    pub fn release(&self) {
        self.state.gate.send_modify(|(held, gone)| (*held, *gone) = (false, *gone + 1));
    }

    /// Delays each reply by so much, from when it is there.
    pub fn delay(&self, delay: Duration) {
        self.state.seen().delay = delay;
    }

    /// Waits for a wave, which ends when no command came for `quiet`; lets its replies go and gives its commands. `None`
    /// when none came within `patience`.
    pub async fn wave(&self, quiet: Duration, patience: Duration) -> Option<Vec<String>> {
        let mut count = self.state.count.subscribe();
        let came = count.wait_for(|_| !self.state.seen().wave.is_empty());
        tokio::time::timeout(patience, came).await.ok()?.ok()?;
        while tokio::time::timeout(quiet, count.changed()).await.is_ok() {}
        let wave = std::mem::take(&mut self.state.seen().wave);
        self.state.gate.send_modify(|(_, gone)| *gone += 1);
        Some(wave)
    }

    /// Holds replies and gives every wave until `done`, which the waves lead to, is done; with what it gave.
    pub async fn waves<T>(&self, quiet: Duration, done: impl Future<Output = T>) -> (Vec<Vec<String>>, T) {
        self.state.seen().wave.clear();
        self.hold();
        let mut waves = Vec::new();
        let over = AtomicBool::new(false);
        let collect = async {
            while !over.load(Ordering::Relaxed) {
                waves.extend(self.wave(quiet, quiet * 2).await);
            }
        };
        let done = async {
            let result = done.await;
            over.store(true, Ordering::Relaxed);
            result
        };
        let ((), result) = futures::join!(collect, done);
        // What follows the reply, such as counters.
        while let Some(wave) = self.wave(quiet, quiet * 2).await {
            waves.push(wave);
        }
        self.release();
        (waves, result)
    }

    /// How many commands were seen.
    pub fn commands(&self) -> usize {
        *self.state.count.borrow()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.state.seen().connections
    }
}

impl State {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, state: Arc<State>) {
    let mut tasks = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        state.seen().connections += 1;
        let state = Arc::clone(&state);
        tasks.spawn(async move {
            // Where nobody listens, the client's connection ends at once.
            if let Ok(server) = TcpStream::connect(upstream).await {
                client.set_nodelay(true).ok();
                server.set_nodelay(true).ok();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let pending = Arc::new(AtomicBool::new(false));
                tokio::select! {
                    () = commands(from_client, to_server, &state, &pending) => {}
                    () = replies(from_server, to_client, &state, &pending) => {}
                }
            }
        });
    }
}

async fn commands(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, pending: &AtomicBool) {
    let (mut buffer, mut unread) = (vec![0; 64 << 10], Vec::new());
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..length) else { return };
        unread.extend_from_slice(bytes);
        while let Some((name, used)) = command(&unread) {
            unread.drain(..used);
            if !GREETINGS.contains(&name.as_str()) {
                pending.store(true, Ordering::Relaxed);
                state.seen().wave.push(name);
                state.count.send_modify(|count| *count += 1);
            }
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

async fn replies(mut from: OwnedReadHalf, to: OwnedWriteHalf, state: &State, pending: &AtomicBool) {
    // What came meanwhile is not delayed once more.
    let (sender, arrived) = mpsc::unbounded_channel();
    let reading = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let Some(bytes) = buffer.get(..length) else { return };
            if sender.send((Instant::now(), bytes.to_vec())).is_err() {
                return;
            }
        }
    };
    futures::join!(reading, pass_on(arrived, to, state, pending));
}

/// Passes replies on as they are let go.
async fn pass_on(
    mut arrived: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    state: &State,
    pending: &AtomicBool,
) {
    let mut gate = state.gate.subscribe();
    while let Some((since, bytes)) = arrived.recv().await {
        let delay = state.seen().delay;
        if !delay.is_zero() {
            tokio::time::sleep_until(since + delay).await;
        }
        let (held, gone) = *gate.borrow();
        if held && pending.load(Ordering::Relaxed) {
            if gate.wait_for(|(_, now)| *now > gone).await.is_err() {
                return;
            }
            pending.store(false, Ordering::Relaxed);
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The name of the first command, for a script and what sets a key with the first key, and how many bytes it takes, once it
/// is there as a whole.
pub(crate) fn command(bytes: &[u8]) -> Option<(String, usize)> {
    let (words, mut at) = number(bytes, 0, b'*')?;
    let (mut name, mut key) = (String::new(), None);
    for word in 0..words {
        let (length, start) = number(bytes, at, b'$')?;
        let text = bytes.get(start..start + length)?;
        if word == 0 {
            name = String::from_utf8_lossy(text).to_ascii_uppercase();
            key = [("SET", 1), ("EVAL", 3)].into_iter().find_map(|(with, at)| (name == with).then_some(at));
        } else if Some(word) == key {
            name = format!("{name} {}", String::from_utf8_lossy(text));
        }
        at = start + length + 2;
    }
    (at <= bytes.len()).then_some((name, at))
}

/// A line of a mark and a number, and where the next begins.
fn number(bytes: &[u8], at: usize, mark: u8) -> Option<(usize, usize)> {
    let line = bytes.get(at..)?;
    let end = line.windows(2).position(|two| two == b"\r\n")?;
    let digits = line.get(..end)?.strip_prefix(&[mark])?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, at + end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_one_by_one_and_only_when_they_are_whole() {
        let sent = b"*2\r\n$3\r\nget\r\n$4\r\n\r\n\r\n\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI";
        let (name, used) = command(sent).unwrap();
        assert_eq!((name.as_str(), used), ("GET", 23));
        assert_eq!(command(&sent[used..]), Some(("PING".to_owned(), 14)));
        assert_eq!(command(&sent[used + 14..]), None);
    }

    #[tokio::test]
    async fn what_is_sent_before_a_held_reply_is_let_go_is_one_wave() -> Result<()> {
        let server = RedisServer::start()?;
        let proxy = WaveProxy::start(&server).await?;
        let client = redis::Client::open(format!("redis://{}/0", proxy.address()))?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let send = async |command: &str| {
            redis::cmd(command).arg("a").query_async::<redis::Value>(&mut connection.clone()).await
        };
        let work = async {
            futures::try_join!(send("GET"), send("INCR"))?;
            send("DEL").await
        };
        let (waves, done) = proxy.waves(Duration::from_millis(300), work).await;
        done?;
        let waves: Vec<_> = waves.iter().map(|wave| wave.join(" ")).collect();
        assert_eq!(waves, ["GET INCR", "DEL"]);
        assert_eq!((proxy.commands(), proxy.connections()), (3, 1));
        Ok(())
    }
}
