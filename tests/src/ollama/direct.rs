//! The stand-in as a plain call: the upstream of the platform in memory, which keeps the limits as a real platform must.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use paddock::platform::{Phase, Timeouts, Upstream, UpstreamFailure};
use tokio::time::timeout;

use super::{FakeOllama, server::play, state::Door};

/// The hosts that a request can reach, found by the address in its URL.
#[derive(Debug, Clone)]
pub struct Herd(pub Vec<FakeOllama>);

impl Upstream for Herd {
    type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, UpstreamFailure>>>;

    async fn send(
        &self,
        request: Request<Bytes>,
        limits: Timeouts,
    ) -> Result<Response<Self::Body>, UpstreamFailure> {
        let started = Instant::now();
        let (parts, body) = request.into_parts();
        let authority = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
        let host = self.0.iter().find(|host| host.0.address.to_string() == authority);
        let state = host.map(|host| Arc::clone(&host.0.state));
        let state = state.ok_or_else(|| UpstreamFailure::Unreachable("nobody is there".to_owned()))?;
        match state.door() {
            Door::Open => {}
            Door::Refusing => return Err(UpstreamFailure::Unreachable("refused".to_owned())),
            Door::Silent => {
                tokio::time::sleep(limits.connect).await;
                return Err(UpstreamFailure::TimedOut(Phase::Connect));
            }
        }
        state.connected();
        let (scripted, exchange) =
            state.ask(&parts, body).map_err(|error| UpstreamFailure::Protocol(error.to_string()))?;

        let limit = limits.total.map_or(limits.first_byte, |total| total.min(limits.first_byte));
        timeout(limit, scripted.head_after.wait())
            .await
            .map_err(|_| UpstreamFailure::TimedOut(Phase::FirstByte))?;
        let (status, headers) = (scripted.status, scripted.headers.clone());
        let pieces = play(scripted, exchange);
        let frames = stream::unfold(Some(pieces), move |pieces| async move {
            let mut pieces = pieces?;
            let (limit, phase) = patience(limits, started.elapsed());
            match timeout(limit, pieces.next()).await {
                Err(_) => Some((Err(UpstreamFailure::TimedOut(phase)), None)),
                Ok(Some(Err(broken))) => Some((Err(UpstreamFailure::Protocol(broken.to_string())), None)),
                Ok(Some(Ok(bytes))) => Some((Ok(Frame::data(bytes)), Some(pieces))),
                Ok(None) => None,
            }
        });
        // A real connection may be asked for more after the end; it has no more.
        let mut response = Response::new(StreamBody::new(frames.fuse().boxed()));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// How long the next piece may take, and which limit that is.
fn patience(limits: Timeouts, elapsed: Duration) -> (Duration, Phase) {
    match limits.total.map(|total| total.saturating_sub(elapsed)) {
        Some(rest) if rest < limits.between_bytes => (rest, Phase::Total),
        _ => (limits.between_bytes, Phase::BetweenBytes),
    }
}
