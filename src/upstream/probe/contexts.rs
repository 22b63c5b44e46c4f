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
    host::{Platform, Service},
    platform::{Background, Clock, Timer},
    store::{InventoryStore, Store},
};

/// How long the answers are waited for at most, all together.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Show<'a> {
    model: &'a str,
}

/// Finds out what contexts the model may have, as far as that is not known; each of its contents is asked about at the
/// hosts that have it, one after the other until one answers.
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
                return note(service, backend, digest, context);
            }
        }
    });
    select(pin!(join_all(questions)), pin!(service.sleep(service.config().timeouts.health.min(PATIENCE))))
        .await;
}

/// What a host says of a model's context.
async fn show<P: Platform>(service: &Service<P>, backend: &BackendHost, model: &str) -> Option<Context> {
    let question = serde_json::to_vec(&Show { model }).ok()?;
    let shown = ask_json(service, backend, "/api/show", Some(Bytes::from(question))).await.ok()?;
    Context::read(&shown)
}

fn note<P: Platform>(service: &Service<P>, backend: &BackendHost, digest: &str, context: Context) {
    let local = service.fleet();
    let Some(inventory) = local.note_context(backend.url(), digest, context) else { return };
    if !local.knows_every_host() {
        let (service, url) = (service.clone(), backend.url().to_owned());
        service.clone().spawn(async move {
            // Nobody waits for it, and what is lost is asked again.
            let _ = service.store().inventories().put_inventory(&url, &inventory).await;
        });
    }
}
