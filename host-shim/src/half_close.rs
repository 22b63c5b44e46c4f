//! Distinguishes a client that has closed only its sending side and still reads, as `nc -N` does, from a client that
//! has left.
//!
//! In TCP both look alike until something is written: only then is a closed connection reset. So when a client closes
//! its sending side while it waits for the first head on its connection, it is sent `102 Processing`: an interim
//! response that every HTTP/1.1 client must skip (RFC 9110, 15.2). A client that has left then causes a reset. A client
//! that closes its sending side later, over HTTP/1.0, or within its request, counts as gone.
//!
//! No crate serves: hyper's `half_close(true)` keeps the connection, but notices only when it writes that the client
//! has left.

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

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

const INTERIM: &[u8] = b"HTTP/1.1 102 Processing\r\n\r\n";
/// The interval of the checks for a reset.
const LOOK: Duration = Duration::from_millis(100);

/// No request is open, or the reply's head was sent.
const IDLE: u8 = 0;
/// A request has begun.
const BEGUN: u8 = 1;
/// A request is complete and waits for the reply's head.
const WAITING: u8 = 2;

/// The state that a connection shares with its requests. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signs(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    phase: AtomicU8,
    ended: AtomicBool,
}

impl Signs {
    /// Records that a request has begun.
    pub(crate) fn begin(&self) {
        self.0.phase.store(BEGUN, Ordering::Relaxed);
    }

    /// Records that the reply's head is sent. Returns whether the client has closed its sending side, so that the
    /// connection ends after the reply.
    pub(crate) fn answer(&self) -> bool {
        self.0.phase.store(IDLE, Ordering::Relaxed);
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Records that the request is complete.
    fn wait(&self) {
        let _ = self.0.phase.compare_exchange(BEGUN, WAITING, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A request's body that records when it is complete.
pub(crate) struct Asked<B> {
    body: B,
    signs: Signs,
}

impl<B> Asked<B> {
    pub(crate) fn new(body: B, signs: Signs) -> Self {
        Self { body, signs }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Asked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() {
            self.signs.wait();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's connection.
pub(crate) struct ClientConnection {
    stream: TcpStream,
    signs: Signs,
    /// Whether a reply was begun on it. Then an interim response could break into a reply.
    has_answered: bool,
    /// Whether the end of the stream was deferred so that hyper reads the request first.
    has_deferred: bool,
    look: Option<Pin<Box<Sleep>>>,
}

impl ClientConnection {
    pub(crate) fn new(stream: TcpStream, signs: Signs) -> Self {
        Self { stream, signs, has_answered: false, has_deferred: false, look: None }
    }

    /// Called when the client has closed its sending side. Resolves when the client has left.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flags = &self.signs.0;
        if !flags.ended.load(Ordering::Relaxed) {
            let phase = flags.phase.load(Ordering::Relaxed);
            if phase == BEGUN && !self.has_deferred {
                self.has_deferred = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let is_sent = phase == WAITING
                && !self.has_answered
                && self.stream.try_write(INTERIM).is_ok_and(|sent| sent == INTERIM.len());
            if !is_sent {
                return Poll::Ready(Ok(()));
            }
            flags.ended.store(true, Ordering::Relaxed);
        }
        loop {
            if let Some(error) = self.stream.take_error()? {
                return Poll::Ready(Err(error));
            }
            // After the head, writing the reply shows whether the client is there.
            if self.has_answered {
                return Poll::Pending;
            }
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
            ready!(look.as_mut().poll(context));
            self.look = None;
        }
    }
}

impl AsyncRead for ClientConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if !self.signs.0.ended.load(Ordering::Relaxed) {
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_end(context)
    }
}

impl AsyncWrite for ClientConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.has_answered = true;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.has_answered = true;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
