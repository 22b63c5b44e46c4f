//! What a host's reply says to a client, where it is an error or no answer of Ollama's.
//!
//! Words of a page that stands before a host never reach a client: it is told that there is one.

use http::{HeaderValue, StatusCode};

use crate::{
    api::error::Original,
    wire::{members::Members, protocol::failure},
};

/// How many characters of a host's message a client gets.
const MESSAGE_LIMIT: usize = 2_000;
/// How many characters of a media type a client gets.
const TYPE_LIMIT: usize = 80;

/// The page of an Ollama, and of whatever else is written in Go, for a path that it does not have.
const NO_ROUTE: &[u8] = b"404 page not found";

/// A host, and the path that it was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedHost<'a> {
    /// The name of the host.
    pub(crate) name: &'a str,
    /// Its version; empty where it is not known.
    pub(crate) version: &'a str,
    /// The path, or the label of its endpoint.
    pub(crate) path: &'a str,
}

/// Whether the body of a 404 says that the host does not have the path.
pub(crate) fn is_no_route(body: &[u8]) -> bool {
    body.trim_ascii() == NO_ROUTE
}

/// The sentence about hosts of these names and versions that do not have a path.
pub(crate) fn no_route(hosts: &[(&str, &str)], path: &str) -> String {
    let called = hosts.iter().map(|(name, version)| match *version {
        "" => (*name).to_owned(),
        version => format!("{name} (Ollama {version})"),
    });
    let called = called.collect::<Vec<_>>().join(", ");
    match hosts {
        [_] => format!("host {called} does not have {path}: upgrade it"),
        _ => format!("the hosts {called} do not have {path}: upgrade one of them"),
    }
}

/// What the host of this name said in an error reply in any of Ollama's formats; for every other reply what it was.
pub(super) fn words(host: &str, original: &Original) -> String {
    told(original).unwrap_or_else(|| foreign(host, original.status, original.content_type.as_ref()))
}

/// Ollama's message from an error reply, if there is one.
pub(super) fn told(original: &Original) -> Option<String> {
    let body = Members::parse(&original.body)?;
    failure(&body).map(|words| shorten(&words))
}

pub(super) fn shorten(words: &str) -> String {
    words.chars().take(MESSAGE_LIMIT).collect()
}

/// The sentence about a reply that is not Ollama's.
pub(crate) fn foreign(host: &str, status: StatusCode, content_type: Option<&HeaderValue>) -> String {
    let kind = media_type(content_type);
    let kind = String::from_utf8_lossy(kind);
    let kind = if kind.is_empty() { "without a content type" } else { &*kind };
    let kind: String = kind.chars().filter(|letter| !letter.is_control()).take(TYPE_LIMIT).collect();
    format!("host {host} answered {} {kind}: not Ollama", status.as_u16())
}

/// The media type without its parameters.
pub(crate) fn media_type(content_type: Option<&HeaderValue>) -> &[u8] {
    let value = content_type.map(HeaderValue::as_bytes).unwrap_or_default();
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}
