//! Health: whether the hosts and the store answer, and what that means.
//!
//! All hosts are asked at the same time, each within its own limit, so that one that hangs delays nobody.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;

use crate::{
    account::note_outage,
    fleet::BackendHost,
    host::{Host, UpstreamFailure},
    reply::{self, ReplyBody},
    store::Store,
    wire::ollama::Tags,
};

/// The largest list of models that is read, in bytes.
const TAGS_LIMIT: usize = 8 << 20;

/// What one host said when it was asked for its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The host's base URL.
    pub url: String,
    /// The names of its models, or why it gave none.
    pub models: Result<Vec<String>, String>,
}

/// Asks every host for its models, all at the same time.
pub async fn probe<H: Host>(host: &H) -> Vec<Probe> {
    let probes = host.config().fleet.hosts().iter().map(|backend| async move {
        let models = models(host, backend).await.map_err(|failure| failure.to_string());
        Probe { url: backend.url().to_owned(), models }
    });
    join_all(probes).await
}

async fn models<H: Host>(host: &H, backend: &BackendHost) -> Result<Vec<String>, UpstreamFailure> {
    let protocol = |detail: String| UpstreamFailure::Protocol(detail);
    let request = Request::get(backend.tags().clone())
        .body(Bytes::new())
        .map_err(|error| protocol(error.to_string()))?;
    let response = host.send(request, host.config().probe_limits()).await?;
    if response.status() != StatusCode::OK {
        return Err(protocol(format!("the host answered {}", response.status().as_u16())));
    }
    let body = Limited::new(response.into_body(), TAGS_LIMIT).collect().await;
    let body = body.map_err(|error| protocol(error.to_string()))?.to_bytes();
    let tags: Tags = serde_json::from_slice(&body).map_err(|_| protocol("no list of models".to_owned()))?;
    Ok(tags.models.into_iter().map(|model| model.name).collect())
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Health {
    status: &'static str,
    ollama: BTreeMap<String, bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<bool>,
}

/// What the answers mean: healthy when everything answers; 503 when no host does.
fn verdict(ollama: BTreeMap<String, bool>, redis: Option<bool>, always_ok: bool) -> (StatusCode, Health) {
    let all = ollama.values().all(|answers| *answers) && redis != Some(false);
    let any = ollama.values().any(|answers| *answers);
    let code = if any || always_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let status = if all && any { "healthy" } else { "degraded" };
    (code, Health { status, ollama, redis })
}

/// Answers `GET /health`.
pub(crate) async fn health<H: Host>(host: &H) -> Response<ReplyBody> {
    let ping = async {
        host.config().redis.as_ref()?;
        let answer = host.store().ping().await;
        note_outage(host, "ping", &answer);
        Some(answer.is_ok())
    };
    let (probes, redis) = futures::join!(probe(host), ping);
    let ollama = probes.into_iter().map(|probe| (probe.url, probe.models.is_ok())).collect();
    let (code, body) = verdict(ollama, redis, host.config().health_always_ok);
    reply::json(code, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(hosts: &[bool], redis: Option<bool>, always_ok: bool, code: u16, status: &str) {
        let hosts = hosts.iter().enumerate().map(|(index, answers)| (format!("h{index}"), *answers));
        let (found, health) = verdict(hosts.collect(), redis, always_ok);
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
            serde_json::to_string(&verdict(hosts, redis, false).1).unwrap()
        };
        assert_eq!(json(None), r#"{"status":"healthy","ollama":{"http://a:1":true}}"#);
        assert_eq!(json(Some(true)), r#"{"status":"healthy","ollama":{"http://a:1":true},"redis":true}"#);
    }
}
