//! Connections to backend hosts: made within a limit, and watched for whether the host says anything.
//!
//! A connection never judges what is said on it.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Extensions, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The bytes of a connection as they are before or after encryption.
type Plain = TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>;

/// The connection was not made within its limit.
#[derive(Debug)]
pub(super) struct ConnectTimedOut;

impl std::fmt::Display for ConnectTimedOut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the connection was not made in time")
    }
}

impl std::error::Error for ConnectTimedOut {}

/// Makes connections within a limit that includes name resolution and TLS.
#[derive(Clone)]
pub(super) struct LimitedConnector {
    pub(super) inner: HttpsConnector<HttpConnector>,
    pub(super) limit: Duration,
}

impl Service<Uri> for LimitedConnector {
    type Response = TokioIo<HostConnection>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connection = tokio::time::timeout(self.limit, self.inner.call(uri));
        Box::pin(async move {
            let plain = connection.await.map_err(|_| ConnectTimedOut)??;
            Ok(TokioIo::new(HostConnection { plain: TokioIo::new(plain), exchange: Exchange::default() }))
        })
    }
}

/// How far the exchange on a connection is. It begins at 0, where the host has said nothing yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Exchange(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    /// Who spoke last.
    last: AtomicU8,
    /// Whether the host has ever given the whole head of an answer.
    has_answered: AtomicBool,
}

impl Exchange {
    /// The last that happened is that the host said something.
    const HEARD: u8 = 1;
    /// The host said something before, and was written to again since.
    const ASKED_AGAIN: u8 = 2;

    /// The exchange on the connection of `connected`.
    pub(super) fn of(connected: &Connected) -> Option<Self> {
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        extras.remove()
    }

    /// Whether the connection was used before, and the host has said nothing since it was asked again. A part of a first
    /// answer, after which more of a long request was written, is no use before.
    pub(super) fn is_unheard_again(&self) -> bool {
        self.0.has_answered.load(Ordering::Acquire)
            && self.0.last.load(Ordering::Acquire) == Self::ASKED_AGAIN
    }

    /// Records that a request on the connection has an answer.
    pub(super) fn note_answer(&self) {
        self.0.has_answered.store(true, Ordering::Release);
    }

    fn note_read(&self) {
        if self.0.last.load(Ordering::Relaxed) != Self::HEARD {
            self.0.last.store(Self::HEARD, Ordering::Release);
        }
    }

    fn note_write(&self) {
        if self.0.last.load(Ordering::Relaxed) == Self::HEARD {
            self.0.last.store(Self::ASKED_AGAIN, Ordering::Release);
        }
    }
}

/// A connection to a host, whose bytes are no longer or not yet encrypted here.
pub(super) struct HostConnection {
    plain: Plain,
    exchange: Exchange,
}

impl Connection for HostConnection {
    fn connected(&self) -> Connected {
        self.plain.inner().connected().extra(self.exchange.clone())
    }
}

impl AsyncRead for HostConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.plain).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.exchange.note_read();
        }
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for HostConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.exchange.note_write();
        Pin::new(&mut self.plain).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.exchange.note_write();
        Pin::new(&mut self.plain).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.plain.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.plain).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.plain).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_connection_that_was_heard_and_asked_again_is_unheard_again() {
        let exchange = Exchange::default();
        let is_so = |step: fn(&Exchange)| {
            step(&exchange);
            exchange.is_unheard_again()
        };
        assert!(!is_so(Exchange::note_write), "the first request");
        assert!(!is_so(Exchange::note_read), "a part of its answer");
        assert!(!is_so(Exchange::note_write), "more of the request");
        assert!(!is_so(Exchange::note_read), "its answer");
        assert!(!is_so(Exchange::note_answer));
        assert!(!is_so(Exchange::note_read));
        assert!(is_so(Exchange::note_write), "the second request");
        assert!(is_so(Exchange::note_write), "more of it");
        assert!(!is_so(Exchange::note_read), "a byte of its answer");
    }
}
