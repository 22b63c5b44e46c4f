//! Two bodies that a client may send have one key exactly if they ask the same: the same outermost members, in whatever order,
//! and within them the same in the same order, what comes twice included. How a body is written does not change its key.
#![no_main]

use std::fmt;

use libfuzzer_sys::fuzz_target;
use paddock::{cache::{CacheKey, KeyContext, Epochs}, wire::members::Members};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

const HERE: KeyContext<'static> =
    KeyContext { path: "/api/chat", caller: None, digest: [0; 32], epochs: Epochs { all: 0, model: 0 } };

/// A value as another reader reads it. Two are equal only if their members have the same order.
#[derive(PartialEq, Eq, Debug)]
enum Json {
    Text(String),
    /// A number, `true`, `false` or `null`, as it is written.
    Literal(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// The members of an object in their order, what comes twice included.
struct Pairs(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

impl Json {
    fn read(text: &str) -> Option<Self> {
        Some(match text.as_bytes().first()? {
            b'"' => Self::Text(serde_json::from_str(text).ok()?),
            b'[' => {
                let values: Vec<Box<RawValue>> = serde_json::from_str(text).ok()?;
                Self::List(values.iter().map(|value| Self::read(value.get())).collect::<Option<_>>()?)
            }
            b'{' => {
                let Pairs(pairs) = serde_json::from_str(text).ok()?;
                let pair = |(name, value): (String, Box<RawValue>)| Some((name, Self::read(value.get())?));
                Self::Object(pairs.into_iter().map(pair).collect::<Option<_>>()?)
            }
            _ => Self::Literal(text.to_owned()),
        })
    }

    /// The same value with space between everything, and with its characters escaped.
    fn rewritten(&self) -> String {
        let text = |text: &str| {
            let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
            format!("\"{}\"", units.collect::<String>())
        };
        match self {
            Self::Text(written) => text(written),
            Self::Literal(written) => written.clone(),
            Self::List(values) => {
                format!("[ {} ]", values.iter().map(Self::rewritten).collect::<Vec<_>>().join("\n,\t"))
            }
            Self::Object(members) => {
                let members = members.iter().map(|(name, value)| format!("{} : {}", text(name), value.rewritten()));
                format!("{{ {} }}", members.collect::<Vec<_>>().join("\r, "))
            }
        }
    }
}

/// A name as Go folds it; one that is longer than any that Ollama knows stays as it is.
fn folded(name: &str) -> String {
    if name.len() > 128 {
        return name.to_owned();
    }
    name.replace('\u{17f}', "s").replace('\u{212a}', "k").to_ascii_lowercase()
}

/// The key of a body and what it asks, if it is one object for the service and for another reader alike.
fn read(body: &[u8]) -> Option<(CacheKey, Json)> {
    let key = CacheKey::of_request(&HERE, &Members::parse(body)?);
    let Json::Object(mut members) = Json::read(std::str::from_utf8(body).ok()?.trim_ascii())? else { return None };
    let is_form = |value: &Json| matches!(value, Json::Literal(word) if ["true", "false", "null"].contains(&&**word));
    members.retain(|(name, value)| folded(name) != "stream" || !is_form(value));
    // Outermost members of one name keep their order.
    members.sort_by_key(|(name, _)| folded(name));
    Some((key, Json::Object(members)))
}

fuzz_target!(|data: &[u8]| {
    let mut bodies = data.splitn(2, |byte| *byte == 0);
    let Some((key, asked)) = bodies.next().and_then(read) else { return };
    if let Some((other, also_asked)) = bodies.next().and_then(read) {
        assert_eq!(key == other, asked == also_asked, "{asked:?} {also_asked:?}");
    }
    let again = read(asked.rewritten().as_bytes());
    assert_eq!(again, Some((key, asked)), "one question has two keys");
});
