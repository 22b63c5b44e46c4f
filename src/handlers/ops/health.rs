//! `GET /health`: probes all hosts and pings the store.
//!
//! Where API keys are set, hosts have their names for whoever shows a key alone: probes need none, and an address is
//! nobody else's business. The probes run at the same time, each with its own time limit: a host that hangs must never delay the others.

use std::collections::BTreeMap;

use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;

use crate::{
    api::{
        auth::KeyUse,
        reply::{self, ReplyBody},
    },
    config::AccessConfig,
    host::{Platform, Service},
    request,
    store::Store,
};

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Health {
    status: &'static str,
    ollama: BTreeMap<String, bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<bool>,
    /// What an operator should change, although everything answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

/// The status of the service: healthy if everything answered; 503 if no host did, unless `always_ok`.
fn status_of(ollama: BTreeMap<String, bool>, redis: Option<bool>, always_ok: bool) -> (StatusCode, Health) {
    let all = ollama.values().all(|answers| *answers) && redis != Some(false);
    let any = ollama.values().any(|answers| *answers);
    let code = if any || always_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let status = if all && any { "healthy" } else { "degraded" };
    (code, Health { status, ollama, redis, warning: None })
}

/// Whether a request may see what hosts are called.
fn shows_names(access: &AccessConfig, headers: &HeaderMap) -> bool {
    access.api_keys.is_open()
        || access.api_keys.opened_by(headers, KeyUse::Ask).is_some()
        || access.admin_token.is_held(headers)
}

/// Answers `GET /health`.
pub(crate) async fn health<P: Platform>(service: &Service<P>, headers: &HeaderMap) -> Response<ReplyBody> {
    let ping = async {
        if !service.store().is_shared() {
            return None;
        }
        Some(request::ping(service).await)
    };
    let (probes, redis) = futures::join!(service.probe(), ping);
    let access = &service.config().access;
    let shows_names = shows_names(access, headers);
    let named = probes.into_iter().enumerate().map(|(index, probe)| {
        let name = if shows_names { probe.url } else { format!("host{}", index + 1) };
        (name, probe.models.is_ok())
    });
    let (code, body) = status_of(named.collect(), redis, access.health_always_ok);
    reply::json(code, &Health { warning: service.store().warning(), ..body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hosts: &[bool], redis: Option<bool>, always_ok: bool, code: u16, status: &str) {
        let hosts = hosts.iter().enumerate().map(|(index, answers)| (format!("h{index}"), *answers));
        let (found, health) = status_of(hosts.collect(), redis, always_ok);
        assert_eq!((found.as_u16(), health.status), (code, status));
    }

    #[test]
    fn one_host_that_answers_is_enough_for_200_and_everything_for_healthy() {
        check(&[true, true], None, false, 200, "healthy");
        check(&[true], Some(true), false, 200, "healthy");
        check(&[true, false], Some(true), false, 200, "degraded");
        check(&[true], Some(false), false, 200, "degraded");
        check(&[false, false], Some(true), false, 503, "degraded");
        check(&[false], None, true, 200, "degraded");
    }

    #[test]
    fn redis_is_named_only_where_one_is_configured() {
        let json = |redis| {
            let hosts = BTreeMap::from([("http://a:1".to_owned(), true)]);
            serde_json::to_string(&status_of(hosts, redis, false).1).unwrap()
        };
        assert_eq!(json(None), r#"{"status":"healthy","ollama":{"http://a:1":true}}"#);
        assert_eq!(json(Some(true)), r#"{"status":"healthy","ollama":{"http://a:1":true},"redis":true}"#);
    }
}
