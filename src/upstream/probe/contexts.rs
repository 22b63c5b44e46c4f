//! The question how long a context a model may have: put until it is answered, once for each content of a model, and only
//! where a session's history depends on it.
//!
//! Whoever asks waits for the answer, so there is little time for all of it, and nothing fails without it.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use bytes::Bytes;
use futures::future::{join_all, select};
use serde::Serialize;

use super::ask_json;
use crate::{
    fleet::{BackendHost, BreakerState, Context, ModelName},
    host::Host,
    store::FleetState,
};

/// How long the answers are waited for at most, all together.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Show<'a> {
    model: &'a str,
}

/// Finds out what contexts the model may have, as far as that is not known; each of its contents is asked about at the
/// hosts that have it, one after the other until one answers.
pub(crate) async fn learn_contexts<H: Host>(host: &H, model: &ModelName) {
    let (local, hosts) = (host.fleet(), host.fleet().hosts());
    let (known, now) = (local.inventories(), local.time(host.now()));
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
            if let Some(context) = show(host, backend, name).await {
                return note(host, backend, digest, context);
            }
        }
    });
    select(pin!(join_all(questions)), pin!(host.sleep(host.config().health_timeout.min(PATIENCE)))).await;
}

/// What a host says of a model's context.
async fn show<H: Host>(host: &H, backend: &BackendHost, model: &str) -> Option<Context> {
    let question = serde_json::to_vec(&Show { model }).ok()?;
    let shown = ask_json(host, backend, "/api/show", Some(Bytes::from(question))).await.ok()?;
    Context::read(&shown)
}

fn note<H: Host>(host: &H, backend: &BackendHost, digest: &str, context: Context) {
    let local = host.fleet();
    let Some(inventory) = local.note_context(backend.url(), digest, context) else { return };
    if !local.is_watched() {
        let (host, url) = (host.clone(), backend.url().to_owned());
        host.clone().spawn(async move {
            // Nobody waits for it, and what is lost is asked again.
            let _ = host.store().put_inventory(&url, &inventory).await;
        });
    }
}
