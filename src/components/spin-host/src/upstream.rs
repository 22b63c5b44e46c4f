//! The way to backend hosts, through Spin's outbound HTTP.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use paddock::platform::{Phase, Timeouts, UpstreamFailure};
use spin_sdk::{
    http::FullBody,
    time::sleep,
    wasip3::{
        http::types::{ErrorCode, RequestOptions, Response as WasiResponse},
        http_compat::RequestOptionsExtension,
    },
};

use crate::{
    background,
    body::{Deadline, SpinBody},
    within::within,
};

pub(crate) async fn send(
    request: Request<Bytes>,
    limits: Timeouts,
) -> Result<Response<SpinBody<WasiResponse>>, UpstreamFailure> {
    let mut request = request.map(FullBody::new);
    request.extensions_mut().insert(RequestOptionsExtension(options(limits)));
    let mut deadline: Option<Deadline> = limits.total.map(|total| Box::pin(sleep(total)) as Deadline);
    // The platform enforces the limits of each phase; this timer holds where it does not.
    let head = limits.connect + limits.first_byte;
    let head = limits.total.map_or(head, |total| total.min(head));
    let mut sending = pin!(spin_sdk::http::send(request));
    // The SDK starts a task that writes the body when this is first polled, which is now.
    background::note_spawn();
    match within(head, &mut sending).await {
        Some(Ok(response)) => Ok(response.map(|body| SpinBody::new(body, deadline.take()))),
        Some(Err(code)) => Err(failure(&code, Phase::FirstByte)),
        None => Err(UpstreamFailure::TimedOut(Phase::FirstByte)),
    }
}

fn options(limits: Timeouts) -> RequestOptions {
    let nanoseconds = |limit: Duration| Some(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
    let options = RequestOptions::new();
    // A platform that does not know a limit says so; the timer of `send` holds all the same.
    let _ = options.set_connect_timeout(nanoseconds(limits.connect));
    let _ = options.set_first_byte_timeout(nanoseconds(limits.first_byte));
    let _ = options.set_between_bytes_timeout(nanoseconds(limits.between_bytes));
    options
}

/// What the platform's error means; `phase` is where a read that took too long happened.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "every other code says that the exchange itself went wrong"
)]
pub(crate) fn failure(code: &ErrorCode, phase: Phase) -> UpstreamFailure {
    let words = format!("{code:?}");
    match code {
        ErrorCode::DnsTimeout | ErrorCode::ConnectionTimeout => UpstreamFailure::TimedOut(Phase::Connect),
        ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => UpstreamFailure::TimedOut(phase),
        ErrorCode::DnsError(_)
        | ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpProhibited
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::ConnectionLimitReached
        | ErrorCode::TlsProtocolError
        | ErrorCode::TlsCertificateError
        | ErrorCode::TlsAlertReceived(_)
        | ErrorCode::HttpRequestDenied => UpstreamFailure::Unreachable(words),
        _ => UpstreamFailure::Protocol(words),
    }
}
