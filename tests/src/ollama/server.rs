//! The stand-in behind a real socket.

use std::{io, os::fd::OwnedFd, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    scripted::{End, Piece, Scripted},
    state::{Exchange, State},
};

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Broken>>>;

/// The connection ends here.
#[derive(Debug)]
pub(super) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the stand-in breaks the connection as it was told")
    }
}

impl std::error::Error for Broken {}

/// Serves until it is aborted; then every connection ends too.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.connected();
        connections.spawn(serve_connection(stream, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<State>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let twin = Arc::new(OwnedFd::from(stream.try_clone()?));
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, twin) = (Arc::clone(&state), Arc::clone(&twin));
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let (scripted, exchange) = state.ask(&parts, body)?;
            scripted.head_after.wait().await;
            anyhow::Ok(respond(scripted, exchange, twin))
        }
    });
    http1::Builder::new().serve_connection(TokioIo::new(TcpStream::from_std(stream)?), service).await?;
    Ok(())
}

fn respond(scripted: Scripted, exchange: Exchange, twin: Arc<OwnedFd>) -> Response<Body> {
    let (status, headers, end) = (scripted.status, scripted.headers.clone(), scripted.end);
    let frames = play(scripted, exchange).map(move |piece| {
        if piece.is_err() && end == End::Reset {
            reset_on_close(&twin)?;
        }
        piece.map(Frame::data)
    });
    let mut response = Response::new(StreamBody::new(frames.boxed()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A socket that does not linger is reset when its last copy closes.
fn reset_on_close(socket: &OwnedFd) -> Result<(), Broken> {
    let done: io::Result<()> =
        rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO)).map_err(Into::into);
    done.map_err(|_| Broken)
}

/// The pieces in their time, and an error where the connection is to break.
pub(super) fn play(scripted: Scripted, exchange: Exchange) -> BoxStream<'static, Result<Bytes, Broken>> {
    let pieces = scripted.pieces.into_iter();
    // Nobody asks for the pieces of an empty body.
    let is_empty = pieces.len() == 0 && scripted.end == End::Clean;
    let state = exchange.state();
    let exchange = if is_empty { exchange.complete() } else { Some(exchange) };
    stream::unfold(Some((pieces, exchange, state)), move |playing| async move {
        let (mut pieces, exchange, state) = playing?;
        if let Some(Piece { after, bytes }) = pieces.next() {
            after.wait().await;
            state.wrote(bytes.len());
            // Nobody asks for more once the length that the head told is reached.
            let is_last = pieces.len() == 0 && scripted.end == End::Clean;
            let exchange = if is_last { exchange.and_then(Exchange::complete) } else { exchange };
            return Some((Ok(bytes), Some((pieces, exchange, state))));
        }
        match scripted.end {
            End::Hang => std::future::pending().await,
            End::Clean => None,
            End::Cut | End::Reset => {
                // What was said before goes out first: hyper writes when it must wait for more.
                tokio::task::yield_now().await;
                exchange.and_then(Exchange::complete);
                Some((Err(Broken), None))
            }
        }
    })
    .boxed()
}
