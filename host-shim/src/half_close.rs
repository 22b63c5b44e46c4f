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
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
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
/// How long a client may take to send the head of a request: the first from its connection on, others from their first
/// byte on.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// No request is open, or the reply's head was sent.
const IDLE: u8 = 0;
/// A request has begun.
const BEGUN: u8 = 1;
/// A request is complete and waits for the reply's head.
const WAITING: u8 = 2;

/// Counts how often any connection became idle, which puts them in order.
static IDLENESS: AtomicU64 = AtomicU64::new(0);

/// The state that a connection shares with its requests. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signs(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    phase: AtomicU8,
    ended: AtomicBool,
    /// How many requests have begun.
    begun: AtomicU64,
    /// Whether a request is open: from the end of its head to the end of its reply.
    is_open: AtomicBool,
    /// Whether a piece of a reply waits until the client reads.
    is_stuck: AtomicBool,
    /// Its place in the order in which connections became idle.
    idle_since: AtomicU64,
}

impl Signs {
    /// Records that a request has begun. A client of HTTP/1.0 knows no interim responses.
    pub(crate) fn begin(&self, knows_interim: bool) {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.is_open.store(true, Ordering::Relaxed);
        if knows_interim {
            self.0.phase.store(BEGUN, Ordering::Relaxed);
        }
    }

    /// Records that the whole reply is on its way.
    pub(crate) fn end(&self) {
        self.0.idle_since.store(IDLENESS.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.0.is_open.store(false, Ordering::Relaxed);
    }

    /// Its place among the idle connections, smaller for one that is idle for longer; `None` for a busy one.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        let is_busy = self.is_open() || self.0.is_stuck.load(Ordering::Relaxed);
        (!is_busy).then(|| self.0.idle_since.load(Ordering::Relaxed))
    }

    fn is_open(&self) -> bool {
        self.0.is_open.load(Ordering::Relaxed)
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

/// The body of a reply, which records its end.
pub(crate) struct Replied<B> {
    body: B,
    signs: Signs,
}

impl<B> Replied<B> {
    pub(crate) fn new(body: B, signs: Signs) -> Self {
        Self { body, signs }
    }
}

impl<B> Drop for Replied<B> {
    fn drop(&mut self) {
        self.signs.end();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replied<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A client's connection, with limits for a head that does not come and for a reply that is not read.
pub(crate) struct ClientConnection {
    stream: TcpStream,
    signs: Signs,
    /// Whether a reply was begun on it. Then an interim response could break into a reply.
    has_answered: bool,
    /// Whether the end of the stream was deferred so that hyper reads the request first.
    has_deferred: bool,
    look: Option<Pin<Box<Sleep>>>,
    /// How many requests had begun when this was last asked.
    begun: u64,
    /// Whether the client sends a head, or should.
    sends_head: bool,
    /// The end of the time for the head.
    head_end: Option<Pin<Box<Sleep>>>,
    /// How long the client may read nothing.
    write_limit: Duration,
    /// The end of the time for the client to read on.
    write_end: Option<Pin<Box<Sleep>>>,
}

impl ClientConnection {
    pub(crate) fn new(stream: TcpStream, signs: Signs, write_limit: Duration) -> Self {
        Self {
            stream,
            signs,
            has_answered: false,
            has_deferred: false,
            look: None,
            begun: 0,
            sends_head: true,
            head_end: None,
            write_limit,
            write_end: None,
        }
    }

    /// Notes a head that is complete.
    fn note_begun(&mut self) {
        let begun = self.signs.0.begun.load(Ordering::Relaxed);
        if begun != self.begun {
            (self.begun, self.sends_head, self.head_end) = (begun, false, None);
        }
    }

    /// Called when nothing more has come. Resolves with the failure when a head takes too long; pieces of it gain no time.
    fn poll_head_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.sends_head {
            return Poll::Pending;
        }
        let end = self.head_end.get_or_insert_with(|| Box::pin(tokio::time::sleep(HEAD_LIMIT)));
        end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// What became of a write; fails when the client has read nothing for too long.
    fn poll_written(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let is_stuck = written.is_pending();
        if is_stuck != self.write_end.is_some() {
            self.signs.0.is_stuck.store(is_stuck, Ordering::Relaxed);
        }
        if !is_stuck {
            self.write_end = None;
            return written;
        }
        let limit = self.write_limit;
        let end = self.write_end.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
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
        self.note_begun();
        if !self.signs.0.ended.load(Ordering::Relaxed) {
            if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
                read?;
            } else {
                return self.poll_head_end(context);
            }
            // Whatever comes while no request is open is the beginning of one.
            self.sends_head |= !self.signs.is_open();
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
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.poll_written(written, context)
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.poll_written(written, context)
    }
}
