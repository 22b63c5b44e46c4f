//! Probes: questions that the service asks hosts on its own behalf, about their models, their loaded models, and the longest
//! context of a model.
//!
//! A native process asks in the background, every few seconds. On Spin nothing runs between requests, so a request that
//! finds old answers asks again in the background and goes on with the old ones; one instance at a time does so. An answer
//! is never trusted to be well-formed, and each question is bounded in time and size.

mod contexts;

use std::{collections::BTreeSet, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::join_all,
    join,
    stream::{self, FuturesUnordered, unfold},
};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use super::update_stats;
use crate::{
    api::{endpoint::Endpoint, hops::X_PADDOCK_HOPS, reply},
    fleet::{
        BackendHost, BreakerState, Cause, HostStats, Inventory, ModelName,
        local::{Inventories, LocalFleet},
        looks::{Look, LookDecision},
        read_version,
    },
    host::{Platform, Service},
    metrics::Metrics,
    platform::{
        Background, Clock, Entropy, Phase, Timeouts, Timer, Upstream, UpstreamFailure, jittered, race,
    },
    request::StoreAccess,
    store::{InventoryStore, Store},
};

pub(crate) use contexts::learn_contexts;

/// The largest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 8 << 20;
/// How old the answers may be before a request asks again, and how long one instance may take for that before another does
/// it.
const FRESH: Duration = Duration::from_secs(2);
/// How often a request looks whether the look of another has ended where that one cannot wake it.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How long the other hosts may still take once one host has said enough.
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
    /// Asks every host in the background, forever, and keeps the answers. So a host that refuses connections is taken out of
    /// rotation without a failed request, and comes back by itself.
    pub async fn watch(&self) {
        self.fleet().begin_watch();
        // Inventories are stamped with the store's time, so it is learnt first. The keys of answers depend on what a host
        // has, so the last inventory of a host that is down counts until the host answers again.
        let store = StoreAccess::unhurried(self);
        join!(known(self, &store), learn(self, &store));
        self.fleet().note_recalled();
        let keep_learning = async {
            loop {
                pause(self).await;
                learn(self, &StoreAccess::unhurried(self)).await;
                let hosts = self.fleet().hosts();
                self.metrics()
                    .retire_hosts(self.now(), &|host| hosts.iter().any(|known| known.url() == host));
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
            let models = look(self, backend).await;
            Probe {
                url: backend.url().to_owned(),
                models: models.map(|found| names(&found)).map_err(|failure| failure.to_string()),
            }
        });
        join_all(probes).await
    }
}

/// Asks the hosts again after each pause, except those that have not answered yet. So a host that hangs delays no other
/// host, and is not asked twice at the same time.
async fn keep_asking<P: Platform>(service: &Service<P>) {
    let mut pauses = pin!(unfold((), |()| async {
        pause(service).await;
        Some((None, ()))
    }));
    let mut asked = BTreeSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        // The hosts change where a name stands for several addresses.
        for backend in service.fleet().hosts().iter() {
            if asked.insert(backend.url().to_owned()) {
                let backend = backend.clone();
                running.push(async move {
                    let limits = service.config().watch_limits();
                    // Both note what they find.
                    race! {
                        _ = probe_host(service, &backend, limits) => (),
                        () = listen(service, &backend) => (),
                    }
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

/// Finds out, while a host owes the answer to a look, whether it is slow or silent: the question for its version is
/// answered from memory. It never ends.
async fn listen<P: Platform>(service: &Service<P>, backend: &BackendHost) {
    let patience = service.config().timeouts.health;
    let limits = service.config().probe_limits();
    service.sleep(patience).await;
    loop {
        match ask(service, backend, "/api/version", limits).await {
            // It is slow, and the look goes on.
            Ok(_) | Err(Unanswered::Refused(_)) => {
                record_probe(service, backend, None).await;
                service.sleep(patience).await;
            }
            Err(Unanswered::Failed(failure @ UpstreamFailure::TimedOut(_))) => {
                record_probe(service, backend, Some(&failure)).await;
            }
            // The look fails in the same way, and says so.
            Err(Unanswered::Failed(_)) => service.sleep(patience).await,
        }
    }
}

/// The pause between two questions. It varies by 20 %, because replicas that started together must not ask together.
async fn pause<P: Platform>(service: &Service<P>) {
    service.sleep(jittered(service.config().fleet.probe_interval, service.random())).await;
}

/// The inventories as they are known now. Where none is known, the hosts are asked until one has the model.
pub(crate) async fn inventories<P: Platform>(
    service: &Service<P>,
    store: &StoreAccess,
    model: Option<&ModelName>,
) -> Arc<Inventories> {
    let local = service.fleet();
    let own = local.inventories();
    let is_watched = local.has_watch();
    let is_due = is_watched || local.is_due(service.now(), FRESH);
    // While the first request still asks, others must wait for the inventories as well, and not go on without any.
    if local.knows_every_host() || !is_due && !own.is_empty() {
        return own;
    }
    // Inventories are stamped with the store's time; read it first, or a fresh instance takes them all for new.
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
        // The request goes on with the old answers and does not wait.
        service.spawn(async move {
            // While the store is down, every instance asks.
            if asking.store().inventories().lead_refresh(FRESH).await.unwrap_or(true) {
                refresh(&asking, |_, _| false).await;
            }
        });
    }
    known
}

/// The inventories that this process and the store know.
pub(crate) async fn known<P: Platform>(service: &Service<P>, store: &StoreAccess) -> Arc<Inventories> {
    let (local, hosts) = (service.fleet(), service.fleet().hosts());
    if !local.knows_every_host()
        && let Some(found) = store.inventories(service).await
    {
        let now = local.time(service.now());
        for (url, mut inventory) in
            found.into_iter().filter(|(url, _)| hosts.iter().any(|service| service.url() == url))
        {
            // The store's clock may have been set back; later inventories must count as newer all the same.
            inventory.seen = inventory.seen.min(now);
            local.note_inventory(&url, Arc::new(inventory));
        }
    }
    local.inventories()
}

/// Asks all hosts at the same time, until one has said what is `enough`; gives the failures of the hosts that did not
/// answer. The caller has read the inventories and the time of the store before.
pub(crate) async fn refresh<P: Platform>(
    service: &Service<P>,
    enough: impl Fn(&BackendHost, &Inventory) -> bool,
) -> Vec<UpstreamFailure> {
    let hosts = service.fleet().hosts();
    let mut asked: FuturesUnordered<_> =
        hosts.iter().map(|backend| async move { (backend, look(service, backend).await) }).collect();
    let mut failures = Vec::new();

    // Wait until one host has said what is enough.
    loop {
        match asked.next().await {
            Some((backend, Ok(inventory))) if enough(backend, &inventory) => break,
            Some((_, Ok(_))) => {}
            Some((_, Err(failure))) => failures.push(failure),
            None => return failures,
        }
    }

    // Then the others have a short time left.
    let mut grace = pin!(service.sleep(GRACE));
    loop {
        let answered = race! {
            answered = asked.next() => answered,
            () = grace.as_mut() => None,
        };
        match answered {
            Some((_, Ok(_))) => {}
            Some((_, Err(failure))) => failures.push(failure),
            None => return failures,
        }
    }
}

/// Learns from the store what other processes know, and its time.
async fn learn<P: Platform>(service: &Service<P>, store: &StoreAccess) {
    if service.store().is_shared()
        && let Some(snapshot) = store.ask_snapshot(service).await.unnoticed()
    {
        service.fleet().learn(service.now(), &snapshot);
    }
}

/// What a host says of its models now, or said a moment ago: requests that want to know it at the same time, or shortly one
/// after the other, share a look.
async fn look<P: Platform>(service: &Service<P>, backend: &BackendHost) -> Look {
    let (local, mut waited) = (service.fleet(), None);
    loop {
        match local.decide_look(backend.url(), service.now(), waited) {
            LookDecision::Take(found) => return found,
            LookDecision::Ask => {
                let looking = Looking { local, host: backend.url() };
                let found = probe_host(service, backend, service.config().probe_limits()).await;
                drop(looking);
                return found;
            }
            LookDecision::Wait(number) => {
                waited = Some(number);
                race! {
                    () = local.changed(P::WAKES_OTHER_REQUESTS) => (),
                    () = service.sleep(LOOK_PAUSE) => (),
                }
            }
        }
    }
}

/// A request that looks at a host. Dropping it, also with the request, lets another look.
struct Looking<'a> {
    local: &'a LocalFleet,
    host: &'a str,
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.local.end_look(self.host);
    }
}

/// Asks a host for its models, and notes the answers.
async fn probe_host<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    limits: Timeouts,
) -> Result<Arc<Inventory>, UpstreamFailure> {
    let local = service.fleet();
    let former = local.inventories().get(backend.url()).cloned();
    let known = former.as_ref().map(|former| former.version.clone()).unwrap_or_default();
    let asks_version = former.as_ref().is_none_or(|former| {
        former.version.is_empty() || !former.lacks.is_empty() || local.has_failed_look(backend.url())
    });
    let began = service.now();
    // A first byte that arrives while the host answers is newer than the answer, so the time is read before.
    let seen = local.time(service.now());

    // Ask one question after the other, over one connection.
    let tags = ask(service, backend, "/api/tags", limits).await;
    let (running, version) = match &tags {
        Ok(_) if asks_version || is_new_minute(former.as_deref(), seen) => (
            ask(service, backend, "/api/ps", limits).await,
            ask(service, backend, "/api/version", limits).await.ok(),
        ),
        Ok(_) => (ask(service, backend, "/api/ps", limits).await, None),
        Err(_) => (Ok(Bytes::new()), None),
    };

    for (path, answer) in [("/api/tags", &tags), ("/api/ps", &running)] {
        // There is no list of loaded models where nothing was asked.
        if let Ok(list) = answer
            && !list.is_empty()
        {
            local.note_list(backend.url(), path, list);
        }
    }

    // Read the answers.
    let inventory = match tags {
        Ok(tags) => Inventory::read(seen, &tags, running.ok().as_deref(), version.as_deref())
            .ok_or_else(|| UpstreamFailure::Protocol("its answer to /api/tags is not Ollama's".to_owned())),
        // A host without `/api/tags` may speak the other protocols only, and is asked for any model then.
        Err(Unanswered::Refused(status)) if [404, 405, 501].contains(&status.as_u16()) => {
            unlisted(service, backend, (seen, began), limits).await.and_then(|found| {
                found.ok_or_else(|| {
                    let status = status.as_u16();
                    UpstreamFailure::Protocol(format!("it answers /api/tags with {status} and is no Ollama"))
                })
            })
        }
        Err(unanswered) => Err(unanswered.into()),
    };
    let inventory = inventory.map(|mut inventory| {
        if inventory.version.is_empty() {
            inventory.version = known;
        }
        local.note_inventory(backend.url(), Arc::new(inventory))
    });

    // Note the outcome here, and tell the store where it is news.
    local.note_look(backend.url(), inventory.clone());
    if local.has_watch() {
        record_probe(service, backend, inventory.as_ref().err()).await;
    }
    local.note_examined(backend.url());
    let has_changed = |found: &Arc<Inventory>| {
        former.is_none_or(|former| former.models != found.models || former.version != found.version)
    };
    if !local.has_watch() || inventory.as_ref().is_ok_and(has_changed) {
        let (service, backend, inventory, is_noted) =
            (service.clone(), backend.clone(), inventory.clone(), local.has_watch());
        // A request that waits for the inventory does not wait until the store has it.
        service.clone().spawn(async move {
            if !is_noted {
                record_probe(&service, &backend, inventory.as_ref().err()).await;
            }
            if let Ok(inventory) = inventory {
                // Where this fails, the inventory is stored when the models change, or by the next instance.
                let _ = service.store().inventories().put_inventory(backend.url(), &inventory).await;
            }
        });
    }
    inventory
}

/// The inventory of a host that lists no models and speaks one of the protocols; `None` for whoever speaks none. The
/// questions have what is left of the time for the look that began at `began`.
async fn unlisted<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    (seen, began): (Duration, Duration),
    limits: Timeouts,
) -> Result<Option<Inventory>, UpstreamFailure> {
    let rest = || {
        let elapsed = service.now().saturating_sub(began);
        Timeouts { total: limits.total.map(|total| total.saturating_sub(elapsed)), ..limits }
    };
    let version = match ask(service, backend, "/api/version", rest()).await {
        Ok(version) => Inventory::unlisted(seen, Some(&version), None),
        Err(Unanswered::Refused(_)) => None,
        Err(Unanswered::Failed(failure)) => return Err(failure),
    };
    if version.is_some() {
        return Ok(version);
    }
    match ask(service, backend, "/v1/models", rest()).await {
        Ok(models) => Ok(Inventory::unlisted(seen, None, Some(&models))),
        // It has the list, and does not give it now, or not to us.
        Err(Unanswered::Refused(status)) if [401, 403, 429, 503].contains(&status.as_u16()) => {
            Ok(Some(Inventory { seen, is_unlisted: true, ..Inventory::default() }))
        }
        Err(Unanswered::Refused(_)) => Ok(None),
        Err(Unanswered::Failed(failure)) => Err(failure),
    }
}

/// Whether a minute has begun since the host was asked last. A host that is upgraded may not have missed a look, so its
/// version is asked for once a minute.
fn is_new_minute(former: Option<&Inventory>, now: Duration) -> bool {
    let minute = |time: Duration| time.as_secs() / 60;
    former.is_none_or(|former| minute(former.seen) != minute(now))
}

/// Notes that a host does not have an endpoint, if it tells its version: whatever answers in place of a host that is away
/// has no endpoints either.
pub(crate) async fn note_lack<P: Platform>(service: &Service<P>, backend: &BackendHost, endpoint: Endpoint) {
    let local = service.fleet();
    let Ok(answer) = ask(service, backend, "/api/version", service.config().probe_limits()).await else {
        return;
    };
    let Some(version) = read_version(&answer) else { return };
    if let Some(noted) = local.note_lack(backend.url(), endpoint, version) {
        share_inventory(service, backend, noted);
    }
}

/// Stores what a request learnt of a host where hosts are asked on demand, because other instances read it from there.
pub(crate) fn share_inventory<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    inventory: Arc<Inventory>,
) {
    if service.fleet().knows_every_host() {
        return;
    }
    let (service, url) = (service.clone(), backend.url().to_owned());
    service.clone().spawn(async move {
        // Where this fails, another request asks the host again.
        let _ = service.store().inventories().put_inventory(&url, &inventory).await;
    });
}

/// Opens the breaker of a host that refuses connections, is silent or is away behind a gateway, and closes it for one that
/// answers again.
async fn record_probe<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    failure: Option<&UpstreamFailure>,
) {
    let local = service.fleet();
    let now = local.time(service.now());
    let stats = local.stats(backend.url());
    let refusal = match failure {
        Some(UpstreamFailure::Unreachable(_) | UpstreamFailure::TimedOut(Phase::Connect)) => {
            Some(Cause::Unreachable)
        }
        Some(UpstreamFailure::Gateway(_)) => Some(Cause::Gateway),
        _ => None,
    };
    let breaker = stats.breaker.state(now);
    let is_silence = refusal.is_none() && matches!(failure, Some(UpstreamFailure::TimedOut(_)));
    if failure.is_some() && refusal.is_none() && !is_silence {
        return;
    }
    let seed = service.random();
    let change = |stats: &mut HostStats, now: Duration| match refusal {
        Some(Cause::Gateway) => stats.note_gateway(now, seed),
        Some(cause) => stats.breaker.fail(now, cause, None, seed),
        None if is_silence => stats.note_unheard(now, seed),
        None => stats.note_heard(),
    };
    let is_news =
        if refusal.is_some() { breaker != BreakerState::Open } else { is_silence || stats.awaits_look() };
    if is_news {
        update_stats(service, backend.url(), &stats, None, change).await;
    }
}

/// Why a question has no answer.
enum Unanswered {
    /// The host answered with this status.
    Refused(StatusCode),
    /// The host did not answer.
    Failed(UpstreamFailure),
}

impl From<Unanswered> for UpstreamFailure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Refused(StatusCode::LOOP_DETECTED) => Self::Looped,
            Unanswered::Refused(
                status @ (StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT),
            ) => Self::Gateway(status),
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
    hops: HeaderValue,
) -> Result<Bytes, UpstreamFailure> {
    Ok(ask_json(service, backend, (path, None), hops, service.config().probe_limits()).await?)
}

async fn ask<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    path: &str,
    limits: Timeouts,
) -> Result<Bytes, Unanswered> {
    ask_json(service, backend, (path, None), service.hop_mark().own(), limits).await
}

/// Asks a question, by `POST` where it has a body.
async fn ask_json<P: Platform>(
    service: &Service<P>,
    backend: &BackendHost,
    (path, told): (&str, Option<Bytes>),
    hops: HeaderValue,
    limits: Timeouts,
) -> Result<Bytes, Unanswered> {
    let uri = backend.endpoint(path).map_err(|fault| Unanswered::Failed(UpstreamFailure::Protocol(fault)))?;
    let request = match &told {
        None => Request::get(uri),
        Some(told) => Request::post(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, told.len()),
    };
    let request = request
        .header(X_PADDOCK_HOPS, hops)
        .header(header::ACCEPT_ENCODING, reply::IDENTITY)
        .body(told.unwrap_or_default())
        .map_err(|error| protocol(&error))?;
    let response = service.send(request, limits).await.map_err(Unanswered::Failed)?;
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
