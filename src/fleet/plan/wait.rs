//! Estimates of the parts of the expected wait from a host's stats and inventory. Which requests may wait, and whose
//! turn it is, is decided in `queue.rs`; the formula stands in `docs/routing.md`.

use std::time::Duration;

use super::Demand;
use crate::{
    api::endpoint::Work,
    fleet::{
        ModelName,
        name::is_cloud_lane,
        prefix::Known,
        snapshot::{FleetView, HostView},
        stats::millis,
    },
};

/// Milliseconds of a load before one was observed.
const LOAD: u64 = 20_000;
/// The divisor of the whole load time that gives the least rest of a load under way.
const LEFT: u64 = 10;
/// The service time of an answer before one was observed, in milliseconds.
pub(super) const ANSWER_SERVICE: u64 = 2_000;
/// The service time of an embedding before one was observed, in milliseconds.
const EMBEDDING_SERVICE: u64 = 200;
/// Milliseconds for 1024 bytes of a prompt before it was observed: 1300 tokens a second.
const PACE: u64 = 200;

/// Milliseconds for which one request in the lane keeps the host busy.
pub(super) fn service(host: &HostView, lane: &str) -> u64 {
    let is_embedding = |lane: &str| lane.ends_with("#embed");
    let known = host.stats.lane(lane).map(|stats| stats.service).filter(|service| *service > 0);
    known.unwrap_or_else(|| {
        let others = host
            .stats
            .lanes
            .iter()
            .filter(|(key, stats)| stats.service > 0 && is_embedding(key) == is_embedding(lane))
            .filter(|(key, _)| is_cloud_lane(key) == is_cloud_lane(lane));
        let (count, sum) = others.fold((0, 0), |(count, sum), (_, stats)| (count + 1, sum + stats.service));
        let unseen = if is_embedding(lane) { EMBEDDING_SERVICE } else { ANSWER_SERVICE };
        u64::checked_div(sum, count).unwrap_or(unseen)
    })
}

/// What a host's prompt cache is to a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PromptCache {
    /// How much of the prompt it holds.
    pub(super) known: Known,
    /// Whether the prompt takes the place of another conversation there.
    pub(super) displaces: bool,
    /// Milliseconds to evaluate what it does not hold.
    pub(super) unknown: u64,
    /// Milliseconds that what it holds saves.
    pub(super) saved: u64,
}

/// What the host's prompt cache is to the request: only the part of the prompt that is not known there takes time.
pub(super) fn prompt(
    view: &FleetView,
    host: &HostView,
    lane: &str,
    is_cold: bool,
    demand: &Demand<'_>,
) -> PromptCache {
    // A prompt cache does not speed up embeddings.
    if demand.work == Work::Embedding {
        return PromptCache::default();
    }
    let stats = host.stats.lane(lane).filter(|_| !is_cold);
    let known = stats.map(|stats| stats.known(demand.affinity, demand.prompt, demand.prefixes));
    let known = known.unwrap_or_default();
    let displaces = !known.continues && stats.is_some_and(|stats| stats.is_full(host.limit(lane)));
    let pace = |host: &HostView| host.stats.lane(lane).map(|stats| stats.pace).filter(|pace| *pace > 0);
    let pace = pace(host).or_else(|| view.hosts.iter().filter_map(pace).max()).unwrap_or(PACE);
    let time = |bytes: u64| pace.saturating_mul(bytes) / 1024;
    let unknown = demand.prompt.saturating_sub(known.bytes);
    PromptCache { known, displaces, unknown: time(unknown), saved: time(known.bytes) }
}

/// Milliseconds until the model is loaded with the demand's options; 0 when it is loaded.
pub(super) fn load(
    view: &FleetView,
    host: &HostView,
    model: &ModelName,
    lane: &str,
    demand: &Demand<'_>,
) -> u64 {
    let stats = host.stats.lane(lane);
    let listed = host.inventory.as_ref().and_then(|inventory| inventory.loaded(model));
    // A host that does not list its models does not list its loaded models either.
    let is_listed =
        listed.is_some() || host.inventory.as_ref().is_some_and(|inventory| inventory.is_unlisted);
    let seen = host.inventory.as_ref().map(|inventory| inventory.seen).unwrap_or_default();
    let runner = stats.and_then(|stats| stats.runner.as_ref());
    let whole = || {
        let known = |host: &HostView| host.stats.lane(lane).map(|stats| stats.load).filter(|load| *load > 0);
        known(host).or_else(|| view.hosts.iter().filter_map(known).max()).unwrap_or(LOAD)
    };
    // A cold request that began after the last proof is the one for which the model is being loaded.
    let proved = runner.map_or(Duration::ZERO, |(_, proved)| *proved);
    let loading =
        host.leases.iter().filter(|lease| &*lease.lane == lane && lease.cold && lease.began >= proved);
    if let Some(began) = loading.map(|lease| lease.began).min() {
        let passed = millis(view.now.saturating_sub(began));
        return whole().saturating_sub(passed).max(whole() / LEFT);
    }
    let is_loaded = match runner {
        // A proof holds until a newer inventory no longer lists the model.
        Some((options, proved)) => options == demand.options && (is_listed || seen <= *proved),
        // No request of Paddock has proved the options, so the model was loaded by another client with unknown options.
        None => listed.is_some_and(|listed| suits(listed.context_length, demand.options)),
    };
    if is_loaded { 0 } else { whole() }
}

/// Whether a model that is loaded with this context length, and otherwise with default options, fits the demand's
/// options.
fn suits(context_length: u64, options: &str) -> bool {
    match options.strip_prefix("num_ctx=") {
        Some(wanted) => context_length == 0 || wanted.parse() == Ok(context_length),
        None => options.is_empty(),
    }
}
