//! What speaks Redis' protocol and is none: it welcomes whoever connects, and answers every command with a reply that does
//! not end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    redis_proxy::{GREETINGS, command},
    redis_server::RedisServer,
};

/// A piece of a reply.
const PIECE: usize = 64 << 10;
/// What is sent on one connection at most, so that a test ends where nobody ends the connection.
const ENOUGH: u64 = 512 << 20;

/// How a reply begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// A string of a gibibyte.
    Text,
    /// Six hundred thousand strings.
    List,
    /// Ten million values that say nothing.
    Nothings,
    /// A line.
    Line,
}

impl Lie {
    fn begin(self) -> &'static [u8] {
        match self {
            Self::Text => b"$1073741824\r\n",
            Self::List => b"*600000\r\n",
            Self::Nothings => b"*10000000\r\n",
            Self::Line => b"+",
        }
    }

    fn piece(self) -> Vec<u8> {
        match self {
            Self::Text | Self::Line => vec![b'x'; PIECE],
            Self::List => {
                [format!("${PIECE}\r\n").as_bytes(), "x".repeat(PIECE).as_bytes(), b"\r\n"].concat()
            }
            Self::Nothings => b"$-1\r\n".repeat(PIECE / 5),
        }
    }
}

/// The liar. It ends when it is dropped.
#[derive(Debug)]
pub struct LyingRedis {
    address: SocketAddr,
    /// The most bytes that were sent on one connection.
    most: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl LyingRedis {
    /// Begins to lie.
    pub async fn start(lie: Lie) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, most) = (listener.local_addr()?, Arc::<AtomicU64>::default());
        let (mut tasks, seen) = (JoinSet::new(), Arc::clone(&most));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, lie, Arc::clone(&seen)));
            }
        });
        Ok(Self { address, most, _tasks: tasks })
    }

    /// It as a server.
    pub fn server(&self) -> Result<Arc<RedisServer>> {
        Ok(Arc::new(RedisServer::at(&format!("redis://{}/0", self.address))?))
    }

    /// The most bytes that anybody took of one connection.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

async fn serve(mut client: TcpStream, lie: Lie, most: Arc<AtomicU64>) {
    let (mut buffer, mut unread) = (vec![0; 64 << 10], Vec::new());
    while let Ok(length @ 1..) = client.read(&mut buffer).await {
        unread.extend_from_slice(buffer.get(..length).unwrap_or_default());
        while let Some((name, used)) = command(&unread) {
            unread.drain(..used);
            if GREETINGS.contains(&name.as_str()) {
                if client.write_all(b"+OK\r\n").await.is_err() {
                    return;
                }
                continue;
            }
            let (mut sent, piece) = (0, lie.piece());
            if client.write_all(lie.begin()).await.is_err() {
                return;
            }
            while sent < ENOUGH && client.write_all(&piece).await.is_ok() {
                sent += piece.len() as u64;
                most.fetch_max(sent, Ordering::Relaxed);
            }
            return;
        }
    }
}
