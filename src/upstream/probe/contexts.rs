//! The question how long a model's context may be. It is asked once for each digest of a model, and only where a session's
//! history depends on the answer.
//!
//! A request waits for the answers, so the time for all of them is short. A request without an answer goes on.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use serde::Serialize;

use super::{ask_json, share_inventory};
use crate::{
    fleet::{BackendHost, BreakerState, Context, ModelName},
    host::{Platform, Service},
    platform::{Clock, Timer, race},
};

/// How long a request waits for all answers together.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Show<'a> {
    model: &'a str,
}

/// Finds out the contexts that are unknown. For each digest of the model, the hosts that have it are asked one after the
/// other until one answers.
pub(crate) async fn learn_contexts<P: Platform>(service: &Service<P>, model: &ModelName) {
    let (local, hosts) = (service.fleet(), service.fleet().hosts());
    let (known, now) = (local.inventories(), local.time(service.now()));
    let mut unknown = BTreeMap::<&str, Vec<(&BackendHost, &str)>>::new();
    for backend in hosts.iter() {
        let Some(inventory) = known.get(backend.url()) else { continue };
        let Some(found) = inventory.model(model).filter(|found| !found.digest.is_empty()) else { continue };
        let is_known = known.values().any(|inventory| inventory.contexts.contains_key(&found.digest));
        let is_out = local.stats(backend.url()).breaker.state(now) == BreakerState::Open;
        if !is_known && !is_out {
            unknown.entry(&found.digest).or_default().push((backend, &found.name));
        }
    }
    let questions = unknown.into_iter().map(async |(digest, places)| {
        for (backend, name) in places {
            if let Some(context) = show(service, backend, name).await {
                return record_context(service, backend, digest, context);
            }
        }
    });
    race! {
        _ = join_all(questions) => (),
        () = service.sleep(service.config().timeouts.health.min(PATIENCE)) => (),
    }
}

/// The context of a model, as a host tells it.
async fn show<P: Platform>(service: &Service<P>, backend: &BackendHost, model: &str) -> Option<Context> {
    let question = serde_json::to_vec(&Show { model }).ok()?;
    let question = ("/api/show", Some(Bytes::from(question)));
    let (hops, limits) = (service.hop_mark().own(), service.config().probe_limits());
    let shown = ask_json(service, backend, question, hops, limits).await.ok()?;
    Context::read(&shown)
}

fn record_context<P: Platform>(service: &Service<P>, backend: &BackendHost, digest: &str, context: Context) {
    if let Some(inventory) = service.fleet().note_context(backend.url(), digest, context) {
        share_inventory(service, backend, inventory);
    }
}
