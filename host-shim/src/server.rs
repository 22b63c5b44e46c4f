//! The HTTP server: accepts connections as long as there is room, passes requests to the core, and drains on shutdown.

use std::{convert::Infallible, future::Future, io, pin::pin, sync::Arc, time::Duration};

use http::{HeaderValue, Version, header::CONNECTION};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    sync::Semaphore,
    time::Instant,
};

use crate::{
    connections::{Connections, Place},
    half_close::{Asked, ClientConnection, Replied, Signs},
    platform::NativeService,
    timed_body::TimedBody,
};

/// How many connections may wait to be accepted, as far as the kernel allows. When there are more, a client that connects
/// waits a second or longer until it tries again.
const BACKLOG: u32 = 4096;
/// The pause before accepting again after a failure, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The pause between two log lines about connections that could not be taken.
const LOG_PAUSE: Duration = Duration::from_secs(10);
/// How many connections for which there is no room may be told so at the same time; others are closed at once.
const REFUSALS: usize = 32;
/// How long such a connection may take to ask and to read.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// Listens on the first address of `address` that can be listened on.
///
/// # Errors
/// Why none can be.
pub(crate) async fn listen(address: &str) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let listening = socket.and_then(|socket| {
            // A port whose last connections are still being closed can be listened on again.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        });
        match listening {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The HTTP server.
pub(crate) struct Server {
    service: NativeService,
    client_timeout: Duration,
    room: Arc<Connections>,
    refusals: Arc<Semaphore>,
    connections: GracefulShutdown,
    http: http1::Builder,
}

/// Log lines about one trouble, of which there may be thousands a second.
#[derive(Default)]
struct Seldom {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// How often it happened since the last line, where it is time for another.
    fn note(&mut self) -> Option<u64> {
        self.unsaid += 1;
        if self.last.is_some_and(|last| last.elapsed() < LOG_PAUSE) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

impl Server {
    pub(crate) fn new(service: NativeService, room: Arc<Connections>) -> Self {
        let client_timeout = service.config().timeouts.client;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(client_timeout);
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        Self { service, client_timeout, room, refusals, connections: GracefulShutdown::new(), http }
    }

    /// Accepts connections until `stop` resolves; then the port is closed.
    pub(crate) async fn serve(&self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let (mut failed, mut refused) = (Seldom::default(), Seldom::default());
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = stop.as_mut() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let signs = Signs::default();
                    if let Some(place) = self.room.enter(&signs) {
                        self.connection(stream, signs, place);
                        continue;
                    }
                    if let Some(times) = refused.note() {
                        let limit = self.room.limit();
                        tracing::warn!(limit, times, "no room for a connection: MAX_CONNECTIONS are busy");
                    }
                    self.refuse(stream);
                }
                Err(error) => {
                    if let Some(times) = failed.note() {
                        tracing::warn!(%error, times, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn connection(&self, stream: TcpStream, signs: Signs, place: Place) {
        // With Nagle's algorithm the second segment of a reply would wait 40 ms for the acknowledgement of the first.
        let _ = stream.set_nodelay(true);
        let (service, client_timeout) = (self.service.clone(), self.client_timeout);
        // A new connection is idle for a shorter time than any other.
        signs.end();
        let stream = ClientConnection::new(stream, signs.clone(), client_timeout);
        let service = service_fn(move |request: Request<Incoming>| {
            let (service, signs) = (service.clone(), signs.clone());
            signs.begin(request.version() == Version::HTTP_11);
            async move {
                let request =
                    request.map(|body| Asked::new(TimedBody::of_client(body, client_timeout), signs.clone()));
                let mut response = service.handle(request).await;
                if signs.answer() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response.map(|body| Replied::new(body, signs)))
            }
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        let connection = self.connections.watch(connection);
        let number = place.number();
        let task = self.service.platform().tasks().spawn(async move {
            let _place = place;
            // A connection error is the client's; the requests on it are logged by the core.
            let _ = connection.await;
        });
        self.room.note_task(number, task.abort_handle());
    }

    /// Tells a client that there is no room for its connection.
    fn refuse(&self, stream: TcpStream) {
        let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() else { return };
        let service = service_fn(|request: Request<Incoming>| {
            let response = paddock::too_many_connections(request.uri().path());
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        self.service.platform().tasks().spawn(async move {
            let _permit = permit;
            let _ = tokio::time::timeout(REFUSAL_LIMIT, connection).await;
        });
    }

    /// Waits until every open request is answered; idle connections are closed at once.
    pub(crate) async fn drain(self) {
        self.connections.shutdown().await;
    }
}
