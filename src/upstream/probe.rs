//! Questions that are put to hosts on the service's own behalf: what they have, what they have loaded, how long a context a
//! model may have.
//!
//! Natively they are put in the background, every few seconds. On Spin, where nothing runs between requests, a request
//! that finds the answers old starts the next questions and goes on with the old answers; one at a time does so. What a
//! host says is never trusted to be well-formed, and each question is bounded in time and size.

mod contexts;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::{Either, join_all, select},
    join,
    stream::{self, FuturesUnordered, unfold},
};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use super::update_stats;
use crate::{
    fleet::{BackendHost, BreakerState, Cause, HostStats, Inventory, ModelName, local::Inventories},
    host::{Platform, Service},
    platform::{Background, Clock, Entropy, Phase, Timer, Upstream, UpstreamFailure, jittered},
    request::StoreAccess,
    store::{InventoryStore, Store},
};

pub(crate) use contexts::learn_contexts;

/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 8 << 20;
/// How old the answers may be until they are asked for again on demand, and how long one instance may take for that until
/// another does.
const FRESH: Duration = Duration::from_secs(2);
/// How long the answers of other hosts are waited for once one has said what is enough.
const GRACE: Duration = Duration::from_millis(500);

/// What one host said when it was asked for its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The host's base URL.
    pub url: String,
    /// The names of its models, or why it gave none.
    pub models: Result<Vec<String>, String>,
}

impl<P: Platform> Service<P> {
    /// Asks every host in the background, forever, and keeps what they say: a host that refuses connections is out of
    /// rotation without a request paying for it, and one that comes back is in again.
    pub async fn watch(&self) {
        self.fleet().begin_watch();
        // The time of what the hosts say is told by the store's clock; and what a host had before counts for the keys of
        // answers until it says otherwise, be it down as long as it may.
        let store = StoreAccess::unhurried(self);
        join!(known(self, &store), learn(self, &store));
        self.fleet().note_recalled();
        let keep_learning = async {
            loop {
                pause(self).await;
                learn(self, &StoreAccess::unhurried(self)).await;
            }
        };
        join!(keep_asking(self), keep_learning);
    }

    /// Asks every host for its models, all at the same time.
    pub async fn probe(&self) -> Vec<Probe> {
        let hosts = self.fleet().hosts();
        let probes = hosts.iter().map(|backend| async move {
            let names =
                |inventory: &Inventory| inventory.models.iter().map(|model| model.name.clone()).collect();
            let models = probe_host(self, backend).await;
            Probe {
                url: backend.url().to_owned(),
                models: models.map(|found| names(&found)).map_err(|failure| failure.to_string()),
            }
        });
        join_all(probes).await
    }
}

/// Asks the hosts again and again, each as soon as a pause ends that finds it answered: one that hangs delays no other,
/// and is not asked twice at the same time.
async fn keep_asking<P: Platform>(service: &Service<P>) {
    let mut pauses = Box::pin(unfold((), |()| async {
        pause(service).await;
        Some((None, ()))
    }));
    let mut asked = BTreeSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        // They come and go where names stand for addresses.
        for backend in service.fleet().hosts().iter() {
            if asked.insert(backend.url().to_owned()) {
                let backend = backend.clone();
                running.push(async move {
                    // What it says is noted.
                    let _ = probe_host(service, &backend).await;
                    Some(backend.url().to_owned())
                });
            }
        }
        let mut events = stream::select(running.by_ref(), pauses.by_ref());
        while let Some(Some(answered)) = events.next().await {
            asked.remove(&answered);
        }
    }
}

/// The pause between two probes of a host.
async fn pause<P: Platform>(service: &Service<P>) {
    service.sleep(jittered(service.config().fleet.probe_interval, service.random())).await;
}

/// What the hosts have, as far as it is known now; where nothing is, as soon as one has the model.
pub(crate) async fn inventories<P: Platform>(
    service: &Service<P>,
    store: &StoreAccess,
    model: Option<&ModelName>,
) -> Arc<Inventories> {
    let local = service.fleet();
    let own = local.inventories();
    let is_watched = local.has_watch();
    let is_due = is_watched || local.is_due(service.now(), FRESH);
    // Beside a request that looks for the first time, others must not go on as if nothing were known.
    if local.knows_every_host() || !is_due && !own.is_empty() {
        return own;
    }
    // Without the store's clock nothing looks old to an instance that has only just begun.
    let (known, ()) = join!(known(service, store), learn(service, store));
    if !is_due {
        return known;
    }
    let hosts = local.hosts();
    if known.is_empty() || is_watched {
        refresh(service, |_, found| model.is_none_or(|model| found.has(model))).await;
        return local.inventories();
    }
    let now = local.time(service.now());
    let is_old = |backend: &BackendHost| {
        known.get(backend.url()).is_none_or(|known| now.saturating_sub(known.seen) >= FRESH)
    };
    if hosts.iter().any(is_old) {
        let asking = service.clone();
        // Whoever waits for an answer needs not wait for that.
        service.spawn(async move {
            // A store that is down makes everybody ask.
            if asking.store().inventories().lead_refresh(FRESH).await.unwrap_or(true) {
                refresh(&asking, |_, _| false).await;
            }
        });
    }
    known
}

/// What the hosts have, as far as anybody has found out.
pub(crate) async fn known<P: Platform>(service: &Service<P>, store: &StoreAccess) -> Arc<Inventories> {
    let (local, hosts) = (service.fleet(), service.fleet().hosts());
    if !local.knows_every_host()
        && let Some(found) = store.inventories(service).await
    {
        let now = local.time(service.now());
        for (url, mut inventory) in
            found.into_iter().filter(|(url, _)| hosts.iter().any(|service| service.url() == url))
        {
            // Where the clock was set back, what comes is newer all the same.
            inventory.seen = inventory.seen.min(now);
            local.note_inventory(&url, Arc::new(inventory));
        }
    }
    local.inventories()
}

/// Asks all hosts at the same time, until one has said what is `enough`; gives the failures of those that did not answer.
/// Whoever wants that has taken over before what others know, and the time by their clock.
pub(crate) async fn refresh<P: Platform>(
    service: &Service<P>,
    enough: impl Fn(&BackendHost, &Inventory) -> bool,
) -> Vec<UpstreamFailure> {
    let hosts = service.fleet().hosts();
    let mut asked: FuturesUnordered<_> =
        hosts.iter().map(|backend| async move { (backend, probe_host(service, backend).await) }).collect();
    let mut failures = Vec::new();
    let mut grace = None;
    loop {
        let next = match grace.take() {
            None => asked.next().await,
            Some(left) => match select(asked.next(), left).await {
                Either::Left((next, left)) => {
                    grace = Some(left);
                    next
                }
                Either::Right(((), _)) => return failures,
            },
        };
        match next {
            Some((backend, Ok(inventory))) if grace.is_none() && enough(backend, &inventory) => {
                grace = Some(Box::pin(service.sleep(GRACE)));
            }
            Some((_, Ok(_))) => {}
            Some((_, Err(failure))) => failures.push(failure),
            None => return failures,
        }
    }
}

/// Takes over what others know, and the time by their clock.
async fn learn<P: Platform>(service: &Service<P>, store: &StoreAccess) {
    if service.store().is_shared()
        && let Some(snapshot) = store.ask_snapshot(service).await.unnoticed()
    {
        service.fleet().learn(service.now(), &snapshot);
    }
}

/// Asks a host what it has and takes note of what it says.
async fn probe_host<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
) -> Result<Arc<Inventory>, UpstreamFailure> {
    let local = service.fleet();
    let former = local.inventories().get(backend.url()).cloned();
    let known = former.as_ref().map(|former| former.version.clone()).unwrap_or_default();
    // A first byte that comes while it answers is newer than what it says.
    let seen = local.time(service.now());
    // One after the other, over one connection.
    let tags = ask(service, backend, "/api/tags").await;
    let (running, version) = match &tags {
        // A version does not change while a host answers.
        Ok(_) if known.is_empty() => {
            (answer(service, backend, "/api/ps").await, answer(service, backend, "/api/version").await.ok())
        }
        Ok(_) => (answer(service, backend, "/api/ps").await, None),
        Err(_) => (Ok(Bytes::new()), None),
    };
    let inventory = match tags {
        Ok(tags) => Inventory::read(seen, &tags, running.ok().as_deref(), version.as_deref())
            .ok_or_else(|| UpstreamFailure::Protocol("no answer to /api/tags".to_owned())),
        // What speaks Ollama's other protocols alone is asked for any model.
        Err(Unanswered::Refused(status)) if [404, 405, 501].contains(&status.as_u16()) => {
            Ok(Inventory::unlisted(seen))
        }
        Err(unanswered) => Err(unanswered.into()),
    };
    let inventory = inventory.map(|mut inventory| {
        if inventory.version.is_empty() {
            inventory.version = known;
        }
        local.note_inventory(backend.url(), Arc::new(inventory))
    });
    if local.has_watch() {
        note(service, backend, inventory.as_ref().err()).await;
    }
    local.note_examined(backend.url());
    let has_changed = |found: &Arc<Inventory>| former.is_none_or(|former| former.models != found.models);
    if !local.has_watch() || inventory.as_ref().is_ok_and(has_changed) {
        let (service, backend, inventory, is_noted) =
            (service.clone(), backend.clone(), inventory.clone(), local.has_watch());
        // A request that waits for what the host says need not wait until others know.
        service.clone().spawn(async move {
            if !is_noted {
                note(&service, &backend, inventory.as_ref().err()).await;
            }
            if let Ok(inventory) = inventory {
                // What is lost is told when the host has other models, or by the next instance.
                let _ = service.store().inventories().put_inventory(backend.url(), &inventory).await;
            }
        });
    }
    inventory
}

/// Opens the breaker of a host that refuses connections and closes it for one that takes them again.
async fn note<P: Platform>(service: &Service<P>, backend: &BackendHost, failure: Option<&UpstreamFailure>) {
    let local = service.fleet();
    let now = local.time(service.now());
    let stats = local.stats(backend.url());
    let is_refusal =
        matches!(failure, Some(UpstreamFailure::Unreachable(_) | UpstreamFailure::TimedOut(Phase::Connect)));
    let breaker = stats.breaker.state(now);
    let seed = service.random();
    let change = |stats: &mut HostStats, now: Duration| {
        if is_refusal {
            stats.breaker.fail(now, Cause::Unreachable, None, seed);
        } else {
            stats.breaker.reach();
        }
    };
    if failure.is_some() && !is_refusal {
        return;
    }
    let is_news = if is_refusal {
        breaker != BreakerState::Open
    } else {
        stats.breaker.cause() == Some(Cause::Unreachable)
    };
    if is_news {
        update_stats(service, backend.url(), &stats, None, change).await;
    }
}

/// Why a question got no answer.
enum Unanswered {
    /// The host said so.
    Refused(StatusCode),
    /// The host did not say anything.
    Failed(UpstreamFailure),
}

impl From<Unanswered> for UpstreamFailure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Refused(status) => Self::Protocol(format!("the host answered {}", status.as_u16())),
            Unanswered::Failed(failure) => failure,
        }
    }
}

/// The body of a host's answer to `GET path`.
pub(crate) async fn answer<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    path: &str,
) -> Result<Bytes, UpstreamFailure> {
    Ok(ask(service, backend, path).await?)
}

async fn ask<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    path: &str,
) -> Result<Bytes, Unanswered> {
    ask_json(service, backend, path, None).await
}

/// Puts a question, by `POST` where there is something to tell.
async fn ask_json<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    path: &str,
    told: Option<Bytes>,
) -> Result<Bytes, Unanswered> {
    let uri = backend.endpoint(path).map_err(|fault| Unanswered::Failed(UpstreamFailure::Protocol(fault)))?;
    let request = match &told {
        None => Request::get(uri),
        Some(told) => Request::post(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, told.len()),
    };
    let request = request.body(told.unwrap_or_default()).map_err(|error| protocol(&error))?;
    let response =
        service.send(request, service.config().probe_limits()).await.map_err(Unanswered::Failed)?;
    if response.status() != StatusCode::OK {
        return Err(Unanswered::Refused(response.status()));
    }
    match Limited::new(response.into_body(), ANSWER_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(match error.downcast::<UpstreamFailure>() {
            Ok(failure) => Unanswered::Failed(*failure),
            Err(error) => protocol(&error),
        }),
    }
}

fn protocol(error: &impl ToString) -> Unanswered {
    Unanswered::Failed(UpstreamFailure::Protocol(error.to_string()))
}

#[cfg(test)]
#[cfg(feature = "memory")]
mod tests;
