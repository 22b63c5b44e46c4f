//! `GET /metrics`.

use http::{Response, StatusCode};

use super::fleet;
use crate::{
    api::reply::{self, ReplyBody},
    host::{Platform, Service},
    metrics::{self, Gauges, Metrics},
    request,
};

/// Answers `GET /metrics`. A store that is down is a fact to show, not an error.
pub(crate) async fn scrape<P: Platform>(service: &Service<P>) -> Response<ReplyBody> {
    // First the look, which is let through while the store is not asked because it failed.
    let store_up = request::ping(service).await;
    let (snapshot, hosts) = futures::join!(service.metrics().snapshot(), fleet::gauges(service));
    let gauges = Gauges { store_up, form: P::DEPLOYMENT, hosts };
    let text = metrics::encode(&snapshot.unwrap_or_default(), &gauges);
    reply::complete(StatusCode::OK, metrics::CONTENT_TYPE, text)
}
