//! The lists of models, merged from the lists of all hosts: installed models and loaded models.
//!
//! An entry must keep the bytes that its host wrote. A host that does not answer is left out as long as another answers; one
//! that is late is as it was when it last answered, and is waited for where that is not known.

use std::{borrow::Cow, collections::BTreeMap, pin::pin, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    api::{
        error::Error,
        reply::{self, ReplyBody},
        route::List,
    },
    fleet::{AttemptFailure, BackendHost, BreakerState, no_host},
    host::{Platform, Service},
    platform::{Clock, Timer, UpstreamFailure, race},
    request::RequestInfo,
    upstream::probe,
    wire::members::Members,
};

/// How long hosts are waited for before what is known stands in for their answers: web interfaces ask on every page.
const PATIENCE: Duration = Duration::from_millis(700);
/// The length of `2026-01-01T00:00:00`.
const SECOND: usize = 19;

#[derive(Serialize)]
struct Models<'a> {
    models: Vec<&'a RawValue>,
}

#[derive(Serialize)]
struct Data<'a> {
    object: &'static str,
    data: Vec<&'a RawValue>,
}

/// Answers `GET` of a list.
pub(crate) async fn list<P: Platform>(
    service: &Service<P>,
    list: List,
    request: &RequestInfo,
) -> Result<Response<ReplyBody>, Error> {
    let hosts = service.fleet().hosts();
    let (answers, failures) = answers(service, &hosts, list, request).await;
    if answers.is_empty() {
        let failure = failures.into_iter().next_back().map(AttemptFailure::from);
        return Err(failure.map_or_else(no_host, AttemptFailure::into_error));
    }
    let entries = union(list, &answers);
    Ok(match list {
        List::Models => reply::json(StatusCode::OK, &Data { object: "list", data: entries }),
        List::Tags | List::Running => reply::json(StatusCode::OK, &Models { models: entries }),
    })
}

/// The lists of all hosts, in their order, and why others have none. A host that does not answer soon has the list that it
/// last gave, as long as it is in rotation.
async fn answers<P: Platform>(
    service: &Service<P>,
    hosts: &[BackendHost],
    list: List,
    request: &RequestInfo,
) -> (Vec<Bytes>, Vec<UpstreamFailure>) {
    let (local, path) = (service.fleet(), list.path());
    let mut asked: FuturesUnordered<_> = hosts
        .iter()
        .map(async |backend| (backend, probe::answer(service, backend, path, request.hops(service)).await))
        .collect();
    let (mut found, mut failures) = (BTreeMap::new(), Vec::new());
    let mut patience = pin!(service.sleep(PATIENCE));
    let mut is_late = false;
    loop {
        let answered = if is_late {
            asked.next().await
        } else {
            race! {
                answered = asked.next() => answered,
                () = patience.as_mut() => {
                    is_late = true;
                    None
                },
            }
        };
        match answered {
            Some((backend, Ok(answer))) => {
                local.note_list(backend.url(), path, &answer);
                found.insert(backend.url(), answer);
            }
            Some((backend, Err(failure))) => failures.push((backend, failure)),
            None if asked.is_empty() => break,
            None => {}
        }
        if is_late {
            let now = local.time(service.now());
            let is_open = |url: &str| local.stats(url).breaker.state(now) == BreakerState::Open;
            let mut is_any_unknown = false;
            for backend in hosts.iter().filter(|backend| !is_open(backend.url())) {
                let has_failed = failures.iter().any(|(failed, _)| *failed == backend);
                if !has_failed && !found.contains_key(backend.url()) {
                    match local.known_list(backend.url(), path) {
                        Some(list) => drop(found.insert(backend.url(), list)),
                        None => is_any_unknown = true,
                    }
                }
            }
            // A host of which nothing is known may have models that nobody else has, so it is waited for.
            if !is_any_unknown && !found.is_empty() {
                break;
            }
        }
    }
    let answers = hosts.iter().filter_map(|backend| found.remove(backend.url()));
    (answers.collect(), failures.into_iter().map(|(_, failure)| failure).collect())
}

/// The entries of all hosts. A model that several hosts have installed appears once; a model that several hosts have
/// loaded appears once a host. Ollama sorts by modification or expiry time, newest first, in whole seconds
/// (`server/routes.go`), and so does this.
fn union<'a>(list: List, answers: &'a [Bytes]) -> Vec<&'a RawValue> {
    let mut known: Vec<String> = Vec::new();
    let mut entries: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::new();
    for answer in answers {
        let Some(listed) = Members::parse(answer) else { continue };
        // Ollama writes an empty list on `/v1/models` as `null`.
        let models = ["models", "data"].into_iter().filter_map(|name| listed.array(name)).flatten();
        for raw in models {
            let Some(entry) = Members::of(raw) else { continue };
            let first = |names: [&str; 2]| names.into_iter().find_map(|name| entry.string(name));
            let name = first(["name", "id"]).unwrap_or_default().to_ascii_lowercase();
            if list == List::Running || !known.contains(&name) {
                known.push(name);
                let time = first(["modified_at", "expires_at"]).unwrap_or_default();
                entries.push((time, raw));
            }
        }
    }
    // The sort is stable, so entries of the same second keep the order of their host.
    entries.sort_by(|(left, _), (right, _)| second(right).cmp(second(left)));
    entries.into_iter().map(|(_, raw)| raw).collect()
}

/// A time in RFC 3339, cut off before the fraction of its second.
fn second(time: &str) -> &str {
    time.get(..SECOND).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: List, answers: &[&'static str]) -> Vec<String> {
        let answers: Vec<_> = answers.iter().map(|answer| Bytes::from_static(answer.as_bytes())).collect();
        union(list, &answers).into_iter().map(RawValue::to_string).collect()
    }

    #[test]
    fn each_model_comes_once_as_its_host_wrote_it_newest_first() {
        let first = r#"{"models":[{"name":"a:1","modified_at":"2026-01-01T00:00:00Z", "x":1.50}]}"#;
        let second = r#"{"models":[{"name":"b:1","modified_at":"2026-02-01T00:00:00Z"},{"name":"A:1","modified_at":"2026-03-01T00:00:00Z"}]}"#;
        assert_eq!(
            texts(List::Tags, &[first, second, "no list"]),
            [
                r#"{"name":"b:1","modified_at":"2026-02-01T00:00:00Z"}"#,
                r#"{"name":"a:1","modified_at":"2026-01-01T00:00:00Z", "x":1.50}"#,
            ]
        );
    }

    #[test]
    fn what_is_of_one_second_stays_in_its_hosts_order() {
        let entry = |name: &str, time: &str| format!(r#"{{"name":"{name}","modified_at":"{time}"}}"#);
        let (old, mid, new) = (
            entry("c", "2026-01-01T00:00:00.9Z"),
            entry("a", "2026-01-01T00:00:02.17Z"),
            entry("b", "2026-01-01T00:00:02.98Z"),
        );
        let listed = Bytes::from(format!(r#"{{"models":[{mid},{new},{old}]}}"#));
        let entries: Vec<_> = union(List::Tags, &[listed]).into_iter().map(RawValue::to_string).collect();
        assert_eq!(entries, [mid, new, old]);
    }

    #[test]
    fn what_is_loaded_twice_comes_twice_and_an_empty_list_of_openais_is_null() {
        let loaded = r#"{"models":[{"name":"a:1"}]}"#;
        assert_eq!(texts(List::Running, &[loaded, loaded]).len(), 2);
        let models = [r#"{"object":"list","data":null}"#, r#"{"object":"list","data":[{"id":"a:1"}]}"#];
        assert_eq!(texts(List::Models, &models), [r#"{"id":"a:1"}"#]);
    }
}
