//! A stand-in for Ollama: replays recorded shapes, remembers what it was asked, and fails as it is told.
//!
//! What it answers is a plain value, [`Scripted`]. It is played over a real socket, and by a plain call to the
//! platform in memory, so that one behaviour can run everywhere. Its answers follow from the request alone, in every
//! protocol that Ollama speaks: `echo of hello #2` is what it says to `hello` as its second chat. A request with tools
//! gets a call of the first one, for the city of Paris, and one for JSON `{"answer":"echo"}`.

mod anthropic;
mod asked;
mod direct;
mod embedding;
mod fixture;
mod native;
mod openai;
mod responses;
mod scripted;
mod server;
mod shapes;
mod state;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::StatusCode;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};

pub use direct::Herd;
pub use fixture::{Answer, Recording};
pub use scripted::{End, Gate, Pause, Piece, Scripted};
pub use state::Recorded;
use state::{Context, Door, Seen, State};

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
    /// Never listens. It keeps the port from everybody else while the server is closed.
    _port: TcpSocket,
    state: Arc<State>,
    server: Mutex<Server>,
}

#[derive(Debug)]
enum Server {
    /// Whoever connects is refused.
    Closed,
    Open(JoinHandle<()>),
    /// Listens with a queue that is full and never accepts: whoever connects waits.
    Full {
        _listener: TcpListener,
        _queue: Vec<TcpStream>,
    },
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Server::Open(server) = self.server.get_mut().unwrap_or_else(PoisonError::into_inner) {
            server.abort();
        }
    }
}

impl FakeOllama {
    /// A host that has the model `llama3.2` and is well.
    pub async fn start() -> Result<Self> {
        let port = kept_port()?;
        let address = port.local_addr()?;
        let host = Self(Arc::new(Inner {
            address,
            _port: port,
            state: Arc::default(),
            server: Mutex::new(Server::Closed),
        }));
        host.accept().await?;
        Ok(host)
    }

    /// The base URL, without trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// Has these models from now on, by their full stored names.
    pub fn has_models(&self, names: &[&str]) {
        self.0.state.set_models(Some(names.iter().map(|name| (*name).to_owned()).collect()));
    }

    /// Has every model that it is asked for, and lists none.
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

    /// Answers every request for this path like this from now on.
    pub fn answers(&self, path: &str, scripted: Scripted) {
        self.0.state.always(path, scripted);
    }

    /// Answers the next request for this path that has no answer yet like this, and only that.
    pub fn next(&self, path: &str, scripted: Scripted) {
        self.0.state.once(path, scripted);
    }

    /// Has these models in memory from now on, by their full stored names; none at first.
    pub fn loads(&self, names: &[&str]) {
        self.0.state.set_loaded(names.iter().map(|name| (*name).to_owned()).collect());
    }

    /// Its models were trained with contexts of so many tokens from now on, and their Modelfiles set so many, if any. What
    /// was recorded is 2,048 set of 8,192.
    pub fn reads(&self, set: Option<u64>, longest: u64) {
        self.0.state.set_context(Context { set, longest });
    }

    /// Answers every question for its models like this from now on.
    pub fn lists(&self, scripted: Scripted) {
        self.0.state.always(TAGS, scripted);
    }

    /// Is well again.
    pub fn recover(&self) {
        self.0.state.forget_scripts();
    }

    /// Closes every connection and refuses new ones.
    pub async fn refuse(&self) {
        let old = std::mem::replace(&mut *self.server(), Server::Closed);
        if let Server::Open(server) = old {
            server.abort();
            // The listener is closed when it has ended, not before.
            drop(server.await);
        }
        self.0.state.set_door(Door::Refusing);
    }

    /// Closes every connection and lets new ones wait for ever, as a machine that is gone does.
    pub async fn fall_silent(&self) -> Result<()> {
        self.refuse().await;
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.0.address)?;
        let listener = socket.listen(1)?;
        let mut queue = Vec::new();
        // The queue is full when a connection is not made at once.
        while let Ok(stream) = timeout(Duration::from_millis(200), TcpStream::connect(self.0.address)).await {
            queue.push(stream?);
        }
        *self.server() = Server::Full { _listener: listener, _queue: queue };
        self.0.state.set_door(Door::Silent);
        Ok(())
    }

    /// Listens again.
    pub async fn accept(&self) -> Result<()> {
        self.refuse().await;
        let listener = TcpListener::bind(self.0.address).await.context("listening")?;
        let server = tokio::spawn(server::serve(listener, Arc::clone(&self.0.state)));
        *self.server() = Server::Open(server);
        self.0.state.set_door(Door::Open);
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

    /// Requests whose askers left before their answers were complete.
    pub fn given_up(&self) -> usize {
        self.0.state.seen().given_up
    }

    /// Connections that were ever made to it.
    pub fn connections(&self) -> usize {
        self.0.state.seen().connections
    }

    /// Bytes of bodies that it could write, once no more can be written for half a second: then whoever asks holds it
    /// back, or the answers are complete.
    pub async fn written_until_held(&self) -> usize {
        let mut seen = self.0.state.subscribe();
        while let Ok(Ok(())) = timeout(Duration::from_millis(500), seen.changed()).await {}
        self.0.state.seen().written
    }

    /// Waits until no request is open.
    pub async fn wait_for_rest(&self, deadline: Duration) -> Result<()> {
        let rest = self.wait(deadline, |seen| seen.open == 0).await;
        rest.with_context(|| format!("{} requests are open", self.open_requests()))
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
        timeout(deadline, seen.wait_for(condition))
            .await
            .with_context(|| format!("not within {deadline:?}"))??;
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.0.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A free port of this machine, kept by a socket that does not listen: connections are refused until another socket
/// that allows it, as servers do, listens on the same port.
pub(crate) fn kept_port() -> Result<TcpSocket> {
    let port = TcpSocket::new_v4()?;
    port.set_reuseaddr(true)?;
    port.bind(([127, 0, 0, 1], 0).into()).context("keeping a port")?;
    Ok(port)
}

/// The recorded answer of Ollama with this status, or a proxy's where Ollama never gives it.
pub fn refusal(status: u16) -> Result<Scripted> {
    let recorded = match status {
        400 => "68-e-chat-badname",
        404 => "54-e-chat-404",
        500 => "crash/api-chat",
        501 => "74-e-embed-chatmodel",
        503 => "overload/api-chat-2",
        _ => return Ok(Scripted::proxy(StatusCode::from_u16(status)?)),
    };
    Scripted::recorded(recorded)
}
