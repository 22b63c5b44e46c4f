//! Two bodies that a client may send: a key that they share means that they ask the same, in the same order, and how a body
//! is written does not change its key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use paddock::{cache::{CacheKey, KeyContext, Epochs}, wire::members::Members};
use serde_json::Value;

const HERE: KeyContext<'static> =
    KeyContext { path: "/api/chat", caller: None, digest: [0; 32], epochs: Epochs { all: 0, model: 0 } };

/// The key of a body and what it asks, if it is one object for the service and for another reader alike.
fn read(body: &[u8]) -> Option<(CacheKey, Value)> {
    let key = CacheKey::of_request(&HERE, &Members::parse(body)?);
    let mut asked: Value = serde_json::from_slice(body).ok()?;
    asked.as_object_mut()?.retain(|name, _| !name.eq_ignore_ascii_case("stream"));
    Some((key, asked))
}

/// What a body asks, in a text that two bodies share only if all but their outermost members have the same order.
fn ordered(asked: &Value) -> Vec<String> {
    let members = asked.as_object().into_iter().flatten();
    let mut list: Vec<_> = members.map(|(name, value)| format!("{name}:{value}")).collect();
    list.sort_unstable();
    list
}

/// The same value with its outermost members in the opposite order, and space between everything.
fn rewritten(value: &Value, is_outermost: bool) -> String {
    match value {
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(|value| rewritten(value, false)).collect();
            format!("[ {} ]", values.join(" , "))
        }
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| {
                format!("{} : {}", Value::from(name.as_str()), rewritten(value, false))
            });
            let mut members: Vec<_> = members.collect();
            if is_outermost {
                members.reverse();
            }
            format!("{{ {} }}", members.join(" , "))
        }
        plain => plain.to_string(),
    }
}

/// Whether every name in it is there once, however it is spelled.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            let mut names: Vec<_> = members.keys().map(|name| name.to_lowercase()).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            names.len() == count && members.values().all(is_plain)
        }
        Value::Array(values) => values.iter().all(is_plain),
        _ => true,
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bodies = data.splitn(2, |byte| *byte == 0);
    let (Some(left), Some(right)) = (bodies.next().and_then(read), bodies.next().and_then(read)) else { return };
    if left.0 == right.0 {
        assert_eq!(ordered(&left.1), ordered(&right.1), "one key for two questions");
    }
    // Numbers are read as another reader writes them only where both are sure to agree.
    let (_, asked) = left;
    let once = asked.to_string();
    if is_plain(&asked)
        && let (Some(first), Some(again)) = (read(once.as_bytes()), read(rewritten(&asked, true).as_bytes()))
    {
        assert_eq!(first.0, again.0, "one question has two keys");
    }
});
