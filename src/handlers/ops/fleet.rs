//! The state of the fleet: `GET /fleet`, and the host gauges of `/metrics`.
//!
//! It reads the same [`FleetView`] that routing reads. It must never send anything to a host.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use crate::{
    api::{
        error::Error,
        reply::{self, ReplyBody},
    },
    fleet::{
        Breaker, BreakerState, Cause, LaneStats,
        snapshot::{FleetView, HostView, RetryBudget},
    },
    host::{Platform, Service},
    metrics::{HostGauge, LaneGauge},
    platform::{Clock, milliseconds},
    request::StoreAccess,
    store::{FleetState, Store},
    upstream::probe,
};

#[derive(Serialize)]
struct Fleet<'a> {
    policy: &'static str,
    hosts: Vec<HostStatus<'a>>,
    queue: Queue,
    retries: RetryBudget,
    /// The explanations of the latest routing decisions, oldest first.
    decisions: Vec<String>,
}

#[derive(Serialize)]
struct HostStatus<'a> {
    name: &'a str,
    url: &'a str,
    /// `up`, `trial`, `down`, `unknown` or `drained`.
    state: &'static str,
    weight: u64,
    parallel: u64,
    version: Option<&'a str>,
    /// The time since its last inventory, in milliseconds.
    seen_ms_ago: Option<u64>,
    models: Vec<&'a str>,
    loaded: Vec<LoadedView<'a>>,
    in_flight: usize,
    waiting: usize,
    breaker: BreakerStatus,
    lanes: Vec<Lane<'a>>,
}

#[derive(Serialize)]
struct LoadedView<'a> {
    name: &'a str,
    context_length: u64,
    expires_at: &'a str,
}

#[derive(Serialize)]
struct BreakerStatus {
    state: &'static str,
    cause: Option<&'static str>,
    retry_in_ms: u64,
}

impl BreakerStatus {
    fn of(breaker: &Breaker, now: Duration) -> Self {
        Self {
            state: breaker.state(now).as_str(),
            cause: breaker.cause().map(Cause::as_str),
            retry_in_ms: milliseconds(breaker.retry_in(now)),
        }
    }
}

/// The statistics of one model on the host.
#[derive(Serialize)]
struct Lane<'a> {
    name: &'a str,
    in_flight: u64,
    limit: u64,
    service_ms: u64,
    latency_ms: u64,
    load_ms: u64,
    breaker: BreakerStatus,
}

#[derive(Serialize)]
struct Queue {
    waiting: usize,
    limit: usize,
}

/// Answers `GET /fleet`.
///
/// # Errors
/// [`Error::Unauthorized`] if an admin token is configured and the request does not carry it.
pub(crate) async fn fleet<P: Platform>(
    service: &Service<P>,
    headers: &HeaderMap,
) -> Result<Response<ReplyBody>, Error> {
    let config = service.config();
    config.access.admin_token.check(headers)?;
    let (view, retries) = view(service).await;
    let decisions = service.store().fleet().decisions().await.unwrap_or_else(|_| service.fleet().decisions());
    let fleet = Fleet {
        policy: config.fleet.policy.as_str(),
        hosts: view.hosts.iter().map(|host| host_status(&view, host)).collect(),
        queue: Queue { waiting: view.tickets.len(), limit: config.fleet.queue_limit },
        retries,
        decisions,
    };
    Ok(reply::json(StatusCode::OK, &fleet))
}

/// The gauges of every host.
pub(crate) async fn gauges<P: Platform>(service: &Service<P>) -> Vec<HostGauge> {
    let (view, _) = view(service).await;
    let gauge = |known: &HostView| HostGauge {
        host: known.host.url().to_owned(),
        in_flight: known.leases.len() as u64,
        waiting: waiting(&view, known) as u64,
        breaker: known.stats.breaker.state(view.now),
        lanes: lane_gauges(&view, known),
        loaded: known.inventory.as_ref().map_or(0, |inventory| inventory.loaded.len() as u64),
    };
    view.hosts.iter().map(gauge).collect()
}

/// The lanes of a host whose breaker is not closed.
fn lane_gauges(view: &FleetView, host: &HostView) -> Vec<LaneGauge> {
    let lanes = host.stats.lanes.iter().filter(|(_, stats)| stats.breaker.cause().is_some());
    let gauge = |(lane, stats): (&String, &LaneStats)| LaneGauge {
        lane: lane.clone(),
        breaker: stats.breaker.state(view.now),
    };
    lanes.map(gauge).collect()
}

/// The view, from the stored inventories: reading it sends nothing to a host.
async fn view<P: Platform>(service: &Service<P>) -> (FleetView, RetryBudget) {
    let store = StoreAccess::unhurried(service);
    let inventories = probe::known(service, &store).await;
    let snapshot = store.ask_snapshot(service).await;
    let snapshot = store.settle(service, snapshot);
    let snapshot = snapshot.unwrap_or_else(|| service.fleet().snapshot(service.now()));
    let retries = snapshot.retries;
    (FleetView::new(&service.fleet().hosts(), &inventories, snapshot), retries)
}

fn waiting(view: &FleetView, host: &HostView) -> usize {
    view.tickets.iter().filter(|ticket| &*ticket.host == host.host.url()).count()
}

fn host_status<'a>(view: &FleetView, host: &'a HostView) -> HostStatus<'a> {
    let state = host.stats.breaker.state(view.now);
    let inventory = host.inventory.as_deref();
    let lanes = host.stats.lanes.iter().map(|(lane, stats)| Lane {
        name: lane,
        in_flight: host.in_flight(lane),
        limit: host.limit(lane),
        service_ms: stats.service,
        latency_ms: stats.latency,
        load_ms: stats.load,
        breaker: BreakerStatus::of(&stats.breaker, view.now),
    });
    HostStatus {
        name: host.host.name(),
        url: host.host.url(),
        state: match state {
            _ if host.host.weight() == 0 => "drained",
            BreakerState::Open => "down",
            BreakerState::HalfOpen => "trial",
            BreakerState::Closed if inventory.is_none() => "unknown",
            BreakerState::Closed => "up",
        },
        weight: host.host.weight(),
        parallel: host.host.parallel(),
        version: inventory.map(|inventory| &*inventory.version).filter(|version| !version.is_empty()),
        seen_ms_ago: inventory.map(|inventory| milliseconds(view.now.saturating_sub(inventory.seen))),
        models: inventory.into_iter().flat_map(|known| &known.models).map(|model| &*model.name).collect(),
        loaded: inventory
            .into_iter()
            .flat_map(|known| &known.loaded)
            .map(|model| LoadedView {
                name: &model.name,
                context_length: model.context_length,
                expires_at: &model.expires_at,
            })
            .collect(),
        in_flight: host.leases.len(),
        waiting: waiting(view, host),
        breaker: BreakerStatus::of(&host.stats.breaker, view.now),
        lanes: lanes.collect(),
    }
}
