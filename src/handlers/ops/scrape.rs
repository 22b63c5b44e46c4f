//! `GET /metrics`: the counters and the gauges in Prometheus' text format. A failing store must never fail the scrape.

use http::{Response, StatusCode};

use super::fleet;
use crate::{
    api::reply::{self, ReplyBody},
    host::{Platform, Service},
    metrics::{self, Gauges, Metrics},
    request,
};

/// Answers `GET /metrics`. If the store is down, the gauge of the store says so and the status stays 200.
pub(crate) async fn scrape<P: Platform>(service: &Service<P>) -> Response<ReplyBody> {
    // The ping comes first: it passes the store's circuit breaker while that is open, and closes it if the store is
    // back.
    let store_up = request::ping(service).await;
    let (snapshot, hosts) = futures::join!(service.metrics().snapshot(), fleet::gauges(service));
    let budget = service.memory_budget();
    let gauges = Gauges {
        store_up,
        held_bytes: budget.held(),
        memory_budget: budget.limit(),
        form: P::DEPLOYMENT,
        hosts,
    };
    let text = metrics::encode(&snapshot.unwrap_or_default(), &gauges);
    reply::complete(StatusCode::OK, metrics::CONTENT_TYPE, text)
}
