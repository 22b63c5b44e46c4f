//! Logs at the start: who can reach the service and whether they need a key, where state is stored, which hosts answer,
//! and what to do about problems.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use paddock::{
    Config,
    config::own_address::{leads_back, place},
    is_same_model,
    platform::Background as _,
    store::Store as _,
    upstream::probe::Probe,
};
use tokio::time::timeout;

use crate::{platform::NativeService, store::NativeStore};

/// How long the names of hosts may take to be looked up for [`own_host`].
const LOOKUP_LIMIT: Duration = Duration::from_secs(3);
/// A port for [`is_of_this_machine`], which sends nothing to it.
const DISCARD: u16 = 9;

/// The first host that is this service itself, if there is one.
pub(crate) async fn own_host(config: &Config, listening: SocketAddr) -> Option<String> {
    let hosts = config.fleet.hosts.iter().filter_map(|host| Some((host.url().to_owned(), place(host)?)));
    let names = config.fleet.names.iter();
    let names =
        names.map(|name| (format!("dns+http://{}:{}", name.host, name.port), (name.host.clone(), name.port)));
    for (url, (name, port)) in hosts.chain(names).filter(|(_, (_, port))| *port == listening.port()) {
        // A name that cannot be looked up now is nobody's for now; if it is ours later, its requests are refused.
        let Ok(Ok(found)) = timeout(LOOKUP_LIMIT, tokio::net::lookup_host((name, port))).await else {
            continue;
        };
        if found.into_iter().any(|address| leads_back(listening, address, is_of_this_machine)) {
            return Some(url);
        }
    }
    None
}

/// Whether the address is one of this machine's: only those are reached from themselves. Nothing is sent.
fn is_of_this_machine(address: IpAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let own = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((address, DISCARD))?;
        socket.local_addr()
    });
    own.is_ok_and(|own| own.ip().to_canonical() == address)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_reached_from_itself_is_of_this_machine() {
        for (address, expected) in [("127.0.0.1", true), ("192.0.2.7", false), ("2001:db8::7", false)] {
            assert_eq!(is_of_this_machine(address.parse().unwrap()), expected, "{address}");
        }
    }
}
