//! Lists that are made of every host's own: the models there are, and those that are loaded.
//!
//! An entry stays as the host wrote it. Hosts that do not answer are left out while one does.

use std::{borrow::Cow, collections::BTreeSet};

use bytes::Bytes;
use futures::future::join_all;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    error::Error,
    fleet::AttemptFailure,
    host::Host,
    reply::{self, ReplyBody},
    route::List,
    survey,
};

/// A host's list, in either form. OpenAI's is null when it is empty.
#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow, default)]
    models: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    data: Option<Vec<&'a RawValue>>,
}

/// What entries are told apart and ordered by.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    modified_at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    expires_at: Option<Cow<'a, str>>,
}

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
pub(crate) async fn list<H: Host>(host: &H, list: List) -> Result<Response<ReplyBody>, Error> {
    let hosts = host.config().fleet.hosts().iter();
    let answers = join_all(hosts.map(|backend| survey::answer(host, backend, list.path()))).await;
    let (answers, mut failures): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    if let (true, Some(Err(failure))) = (answers.is_empty(), failures.pop()) {
        return Err(AttemptFailure::from(failure).into_error());
    }
    let entries = union(list, &answers);
    Ok(match list {
        List::Models => reply::json(StatusCode::OK, &Data { object: "list", data: entries }),
        List::Tags | List::Running => reply::json(StatusCode::OK, &Models { models: entries }),
    })
}

/// The entries of all hosts: a model that several have comes once; one that several have loaded comes as often as it is
/// loaded. Ollama's order is newest, or latest to expire, first.
fn union<'a>(list: List, answers: &'a [Bytes]) -> Vec<&'a RawValue> {
    let mut known = BTreeSet::new();
    let mut entries: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::new();
    for answer in answers {
        let Ok(Listed { models, data }) = serde_json::from_slice(answer) else { continue };
        for raw in models.into_iter().chain(data).flatten() {
            let Ok(entry) = serde_json::from_str::<Entry<'a>>(raw.get()) else { continue };
            let name = entry.name.or(entry.id).unwrap_or_default();
            if list == List::Running || known.insert(name.to_ascii_lowercase()) {
                entries.push((entry.modified_at.or(entry.expires_at).unwrap_or_default(), raw));
            }
        }
    }
    entries.sort_by(|(left, _), (right, _)| right.cmp(left));
    entries.into_iter().map(|(_, raw)| raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: List, answers: &[&'static str]) -> Vec<String> {
        let answers: Vec<_> = answers.iter().map(|answer| Bytes::from_static(answer.as_bytes())).collect();
        union(list, &answers).into_iter().map(|raw| raw.get().to_owned()).collect()
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
    fn what_is_loaded_twice_comes_twice_and_an_empty_list_of_openais_is_null() {
        let loaded = r#"{"models":[{"name":"a:1"}]}"#;
        assert_eq!(texts(List::Running, &[loaded, loaded]).len(), 2);
        let models = [r#"{"object":"list","data":null}"#, r#"{"object":"list","data":[{"id":"a:1"}]}"#];
        assert_eq!(texts(List::Models, &models), [r#"{"id":"a:1"}"#]);
    }
}
