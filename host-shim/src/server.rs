//! The HTTP server: accepts connections, passes requests to the core, and drains on shutdown.

use std::{convert::Infallible, future::Future, pin::pin, time::Duration};

use http::{HeaderValue, Version, header::CONNECTION};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    half_close::{Asked, ClientConnection, Signs},
    platform::NativeService,
    timed_body::TimedBody,
};

/// The pause before accepting again after a failure, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The HTTP server.
pub(crate) struct Server {
    service: NativeService,
    client_timeout: Duration,
    connections: GracefulShutdown,
    http: http1::Builder,
}

impl Server {
    pub(crate) fn new(service: NativeService) -> Self {
        let client_timeout = service.config().timeouts.client;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(client_timeout);
        Self { service, client_timeout, connections: GracefulShutdown::new(), http }
    }

    /// Accepts connections until `stop` resolves; then the port is closed.
    pub(crate) async fn serve(&self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = stop.as_mut() => return,
            };
            match accepted {
                Ok((stream, _)) => self.connection(stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn connection(&self, stream: TcpStream) {
        // With Nagle's algorithm the second segment of a reply would wait 40 ms for the acknowledgement of the first.
        let _ = stream.set_nodelay(true);
        let (service, client_timeout) = (self.service.clone(), self.client_timeout);
        let signs = Signs::default();
        let stream = ClientConnection::new(stream, signs.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (service, signs) = (service.clone(), signs.clone());
            // A client of HTTP/1.0 does not know interim responses.
            if request.version() == Version::HTTP_11 {
                signs.begin();
            }
            async move {
                let request =
                    request.map(|body| Asked::new(TimedBody::new(body, client_timeout, None), signs.clone()));
                let mut response = service.handle(request).await;
                if signs.answer() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        let connection = self.connections.watch(connection);
        self.service.platform().tasks().spawn(async move {
            // A connection error is the client's; the requests on it are logged by the core.
            let _ = connection.await;
        });
    }

    /// Waits until every open request is answered; idle connections are closed at once.
    pub(crate) async fn drain(self) {
        self.connections.shutdown().await;
    }
}
