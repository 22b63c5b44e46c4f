//! Logs at the start: who can reach the service and whether they need a key, where state is stored, which hosts answer,
//! and what to do about problems.

use std::net::SocketAddr;

use paddock::{is_same_model, platform::Background as _, store::Store as _, upstream::probe::Probe};

use crate::{platform::NativeService, store::NativeStore};

/// Logs it. The hosts are probed in the background, so that the service answers meanwhile.
pub(crate) fn announce(service: &NativeService, address: SocketAddr, demo: bool) {
    let access = &service.config().access;
    let (reachable, keys) = (reachable(access.is_loopback), keys(access.api_keys.is_open()));
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), reachable, keys, "listening");
    match service.store() {
        NativeStore::Memory(_) => {
            tracing::info!(
                "state is kept in memory: set DATA_DIR to keep it, or REDIS_URL to share it as well"
            );
        }
        NativeStore::Disk(_) => {
            let directory = service.config().store.data.as_ref().map(|data| data.directory.as_str());
            tracing::info!(directory, "sessions and answers are kept on disk");
        }
        NativeStore::Redis(_) => tracing::info!("state is kept in Redis"),
    }
    if access.api_keys.is_open() {
        tracing::info!("open to everybody who can connect: set API_KEYS to demand a key");
    }
    if demo {
        tracing::warn!("demo: answers come from a stand-in inside this process, not from a language model");
    }
    let asked = service.clone();
    service.spawn(async move {
        let (store, probes) = tokio::join!(asked.store().ping(), asked.probe());
        if let Err(error) = store {
            tracing::warn!(%error, "the store does not answer: serving without cache and memory until it does");
        }
        report(&asked, &probes);
    });
}

/// From where a client can connect.
fn reachable(is_loopback: bool) -> &'static str {
    if is_loopback { "this machine only" } else { "every machine that has a way to this address" }
}

/// Whether a client needs a key.
fn keys(is_open: bool) -> &'static str {
    if is_open { "none needed" } else { "needed" }
}

fn report(service: &NativeService, probes: &[Probe]) {
    for Probe { url, models } in probes {
        match models {
            Ok(models) => tracing::info!(host = url, models = models.join(", "), "ollama host answers"),
            Err(detail) => tracing::warn!(host = url, detail, "ollama host does not answer"),
        }
    }
    let models: Vec<_> = probes.iter().filter_map(|probe| probe.models.as_ref().ok()).flatten().collect();
    let default = &service.config().fleet.default_model;
    if probes.iter().all(|probe| probe.models.is_err()) {
        tracing::warn!(
            "no Ollama service answers: start one with 'ollama serve', or name it with OLLAMA_HOSTS; \
             without Ollama, try 'host-shim --demo'"
        );
    } else if !models.iter().any(|model| is_same_model(model, default)) {
        tracing::warn!(model = default, "no host has the default model: 'ollama pull {default}' adds it");
    }
}
