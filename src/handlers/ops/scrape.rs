//! `GET /metrics`.

use http::{Response, StatusCode};

use super::fleet;
use crate::{
    api::reply::{self, ReplyBody},
    host::Host,
    metrics::{self, Gauges, Metrics},
    request::note_outage,
    store::Store,
};

/// Answers `GET /metrics`. A store that is down is a fact to show, not an error.
pub(crate) async fn scrape<H: Host>(host: &H) -> Response<ReplyBody> {
    // First the look, which is let through while the store is not asked because it failed.
    let ping = host.store().ping().await;
    note_outage(host, "ping", &ping);
    let (snapshot, hosts) = futures::join!(host.metrics().snapshot(), fleet::gauges(host));
    let gauges = Gauges { store_up: ping.is_ok(), form: host.form(), hosts };
    let text = metrics::encode(&snapshot.unwrap_or_default(), &gauges);
    reply::complete(StatusCode::OK, metrics::CONTENT_TYPE, text)
}
