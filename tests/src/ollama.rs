//! A stand-in for Ollama: replays recorded shapes, remembers what it was asked, and fails as it is told.
//!
//! What it answers is a plain value, [`Scripted`]. It is played over a real socket, and by a plain call to the
//! in-memory host, so that one behaviour can run everywhere. Its answers follow from the request alone:
//! `echo of hello #2` is what it says to `hello` as its second chat.

mod direct;
mod fixture;
mod scripted;
mod server;
mod state;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::StatusCode;
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

pub use direct::Herd;
pub use fixture::Recording;
pub use scripted::{End, Pause, Piece, Scripted};
pub use state::Recorded;
use state::{Seen, State};

/// Where Ollama chats.
pub const CHAT: &str = "/api/chat";
/// Where Ollama lists its models.
pub const TAGS: &str = "/api/tags";

/// A running stand-in. Clones are the same one; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct FakeOllama(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    state: Arc<State>,
    door: Mutex<Door>,
}

#[derive(Debug)]
enum Door {
    Open(JoinHandle<()>),
    /// Keeps the port without listening: whoever connects is refused, and nobody else can take it.
    Shut {
        _port: TcpSocket,
    },
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Door::Open(server) = self.door.get_mut().unwrap_or_else(PoisonError::into_inner) {
            server.abort();
        }
    }
}

impl FakeOllama {
    /// A host that has the model `llama3.2` and is well.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::<State>::default();
        let server = tokio::spawn(server::serve(listener, Arc::clone(&state)));
        Ok(Self(Arc::new(Inner { address, state, door: Mutex::new(Door::Open(server)) })))
    }

    /// The base URL, without trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// Has these models from now on, by their full stored names.
    pub fn has_models(&self, names: &[&str]) {
        self.0.state.set_models(Some(names.iter().map(|name| (*name).to_owned()).collect()));
    }

    /// Has every model that it is asked for.
    pub fn has_every_model(&self) {
        self.0.state.set_models(None);
    }

    /// Answers every chat like this from now on.
    pub fn chats(&self, scripted: Scripted) {
        self.0.state.always(CHAT, scripted);
    }

    /// Answers the next chat that has no answer yet like this, and only that.
    pub fn next_chat(&self, scripted: Scripted) {
        self.0.state.once(CHAT, scripted);
    }

    /// Answers every question for its models like this from now on.
    pub fn lists(&self, scripted: Scripted) {
        self.0.state.always(TAGS, scripted);
    }

    /// Is well again.
    pub fn recover(&self) {
        self.0.state.forget_scripts();
    }

    /// Closes every connection and refuses new ones; its port stays its own.
    pub async fn refuse(&self) -> Result<()> {
        let server = {
            let mut door = self.door();
            match &mut *door {
                Door::Open(server) => {
                    server.abort();
                    // Only its end frees the port.
                    std::mem::replace(server, tokio::spawn(async {}))
                }
                Door::Shut { .. } => return Ok(()),
            }
        };
        drop(server.await);
        let port = TcpSocket::new_v4()?;
        port.set_reuseaddr(true)?;
        port.bind(self.0.address).context("keeping the port of a host that refuses")?;
        self.0.state.set_refusing(true);
        *self.door() = Door::Shut { _port: port };
        Ok(())
    }

    /// Listens again.
    pub async fn accept(&self) -> Result<()> {
        if matches!(*self.door(), Door::Open(_)) {
            return Ok(());
        }
        // The port is given back before it is taken again.
        *self.door() = Door::Open(tokio::spawn(async {}));
        let listener = TcpListener::bind(self.0.address).await.context("listening again")?;
        self.0.state.set_refusing(false);
        *self.door() = Door::Open(tokio::spawn(server::serve(listener, Arc::clone(&self.0.state))));
        Ok(())
    }

    /// Everything that it was asked so far, in order.
    pub fn requests(&self) -> Vec<Recorded> {
        self.0.state.seen().requests.clone()
    }

    /// The chats that it was asked for so far, in order.
    pub fn chat_requests(&self) -> Vec<Recorded> {
        self.requests().into_iter().filter(|request| request.path == CHAT).collect()
    }

    /// The conversation that the last chat sent, each message as `role: content`.
    pub fn last_conversation(&self) -> Vec<String> {
        self.chat_requests().last().map(Recorded::messages).unwrap_or_default()
    }

    /// How often a path was asked.
    pub fn count(&self, path: &str) -> usize {
        self.0.state.seen().count(path)
    }

    /// Requests that it has not answered completely yet.
    pub fn open_requests(&self) -> usize {
        self.0.state.seen().open
    }

    /// Connections that were ever made to it.
    pub fn connections(&self) -> usize {
        self.0.state.seen().connections
    }

    /// Waits until `path` was asked `count` times.
    pub async fn wait_for_requests(&self, path: &str, count: usize, deadline: Duration) -> Result<()> {
        self.wait(deadline, |seen| seen.count(path) >= count)
            .await
            .with_context(|| format!("{path} was asked {} times, not {count}", self.count(path)))
    }

    /// Waits until whoever asked has left `count` requests before their answers were complete.
    pub async fn wait_for_given_up(&self, count: usize, deadline: Duration) -> Result<()> {
        self.wait(deadline, |seen| seen.given_up >= count)
            .await
            .with_context(|| format!("{} requests were given up, not {count}", self.0.state.seen().given_up))
    }

    async fn wait(&self, deadline: Duration, condition: impl FnMut(&Seen) -> bool) -> Result<()> {
        let mut seen = self.0.state.subscribe();
        tokio::time::timeout(deadline, seen.wait_for(condition))
            .await
            .with_context(|| format!("not within {deadline:?}"))??;
        Ok(())
    }

    fn door(&self) -> std::sync::MutexGuard<'_, Door> {
        self.0.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The recorded answer of Ollama with this status, or a proxy's where Ollama never gives it.
pub fn refusal(status: u16) -> Result<Scripted> {
    let recording = match status {
        400 => Some(&fixture::BAD_NAME),
        404 => Some(&fixture::NOT_FOUND),
        500 => Some(&fixture::CRASHED),
        501 => Some(&fixture::NOT_IMPLEMENTED),
        503 => Some(&fixture::BUSY),
        _ => None,
    };
    match recording {
        Some(recording) => Scripted::recorded(recording),
        None => Ok(Scripted::proxy(StatusCode::from_u16(status)?)),
    }
}
