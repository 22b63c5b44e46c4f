//! Recorded answers with other words in them. Must never give an object a field that the recording lacks.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::{Recording, Scripted};

/// The JSON object that was recorded as a whole body.
pub(super) fn object(name: &str) -> Result<Value> {
    Ok(serde_json::from_str(Recording::named(name)?.answer()?.body)?)
}

/// The objects of a recorded stream, without `[DONE]`.
pub(super) fn events(name: &str) -> Result<Vec<Value>> {
    let lines = Recording::named(name)?.answer()?.body.lines();
    let objects = lines.filter_map(|line| {
        let object = line.strip_prefix("data: ").unwrap_or(line);
        object.starts_with('{').then(|| serde_json::from_str(object))
    });
    Ok(objects.collect::<Result<_, _>>()?)
}

/// The same object with other values at these places, which it must have.
pub(super) fn with<const N: usize>(mut object: Value, places: [(&str, Value); N]) -> Result<Value> {
    for (pointer, value) in places {
        *object.pointer_mut(pointer).with_context(|| format!("nothing was recorded at {pointer}"))? = value;
    }
    Ok(object)
}

/// An answer with the recorded head and another object as its body; a line end follows where one was recorded.
pub(super) fn whole(name: &str, body: &Value) -> Result<Scripted> {
    let answer = Recording::named(name)?.answer()?;
    let end = if answer.body.ends_with('\n') { "\n" } else { "" };
    let body = Bytes::from(format!("{body}{end}"));
    Ok(Scripted::new(answer.status, answer.lasting_headers(), [body]).sized())
}

/// The same as a refusal with status 400.
pub(super) fn bad_request(name: &str, body: &Value) -> Result<Scripted> {
    Ok(Scripted { status: StatusCode::BAD_REQUEST, ..whole(name, body)? })
}

/// A recorded answer with another model's name in it.
pub(super) fn renamed(name: &str, recorded: &str, model: &str) -> Result<Scripted> {
    let answer = Recording::named(name)?.answer()?;
    let model = json!(model).to_string();
    let body = Bytes::from(answer.body.replace(recorded, model.trim_matches('"')));
    Ok(Scripted::new(answer.status, answer.lasting_headers(), [body]).sized())
}

/// A stream with the recorded head.
pub(super) fn stream(name: &str, pieces: Vec<Bytes>) -> Result<Scripted> {
    let answer = Recording::named(name)?.answer()?;
    Ok(Scripted::new(answer.status, answer.lasting_headers(), pieces))
}

/// An object as a line of NDJSON.
pub(super) fn line(object: &Value) -> Bytes {
    Bytes::from(format!("{object}\n"))
}

/// An object as an event without a name.
pub(super) fn data(object: &Value) -> Bytes {
    Bytes::from(format!("data: {object}\n\n"))
}

/// An object as an event of the name that is its type.
pub(super) fn event(object: &Value) -> Bytes {
    let name = object.get("type").and_then(Value::as_str).unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {object}\n\n"))
}

/// The refusal of a method that the path does not take.
pub(super) fn wrong_method(allowed: &'static str) -> Result<Scripted> {
    let mut scripted = Scripted::recorded("78-e-method")?;
    scripted.headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    Ok(scripted)
}
