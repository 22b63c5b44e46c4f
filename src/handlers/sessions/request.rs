//! Parses requests to `/sessions`: the body of a new session, the id in a path, the query. Pure: it must never touch
//! the store.

use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use crate::{
    api::{error::Error, query::parameter, route},
    config,
    session::{SessionHead, SessionId, Span, Turn},
    wire::{
        members::{self, Members},
        pace::Pace,
    },
};

/// The number of turns of a page without `limit`.
const PAGE: usize = 20;
/// The longest name of a model that a session keeps, in bytes; Ollama's own are shorter.
const NAME_LIMIT: usize = 1024;
/// The maximum of `limit`.
const PAGE_LIMIT: usize = 100;

/// The head of a new session, which lives `longest` after a use at most. An empty body means an empty object.
///
/// # Errors
/// [`Error::InvalidJson`], [`Error::WrongType`]
pub(crate) async fn head(body: &[u8], longest: Duration, pace: &mut Pace) -> Result<SessionHead, Error> {
    if body.trim_ascii().is_empty() {
        return Ok(SessionHead::default());
    }
    let members = Members::parse_in_steps(body, pace).await;
    let members = members.ok_or_else(|| Error::InvalidJson("it is no object".to_owned()))?;
    let text = |param: &'static str| match members.raw(param) {
        None => Ok::<_, Error>(None),
        Some(value) => {
            let text = members::string(value).ok_or(Error::WrongType { param, expected: "a string" })?;
            Ok(Some(text.into_owned()).filter(|text| !text.is_empty()))
        }
    };
    let expected =
        "a time of 1 second to 366 days, or to SESSION_TTL_MAX, as a number of seconds or as \"90m\"";
    let ttl = members.raw("ttl").map(|value| {
        let ttl = time(value).filter(|ttl| *ttl <= longest);
        ttl.ok_or(Error::WrongType { param: "ttl", expected })
    });
    let model = text("model")?;
    if model.as_ref().is_some_and(|model| model.len() > NAME_LIMIT) {
        return Err(Error::WrongType { param: "model", expected: "the name of a model" });
    }
    Ok(SessionHead { system: text("system")?, model, ttl: ttl.transpose()? })
}

/// A time to live in whole seconds, at least one.
fn time(value: &RawValue) -> Option<Duration> {
    let text = members::string(value).unwrap_or_else(|| Cow::Borrowed(value.get()));
    let whole = Duration::from_secs(config::duration(&text)?.as_secs());
    (!whole.is_zero()).then_some(whole)
}

/// The id in a path, decoded.
///
/// # Errors
/// [`Error::InvalidSessionId`] if the id is not UTF-8; [`Error::NotFound`] for a path without an id.
pub(crate) fn id(path: &str) -> Result<SessionId, Error> {
    let id = percent_decode_str(route::session_id(path).ok_or(Error::NOT_FOUND)?);
    SessionId::parse(&id.decode_utf8().map_err(|_| Error::InvalidSessionId)?)
}

/// The page of turns that the query asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    limit: usize,
    before: Option<String>,
}

impl Page {
    /// # Errors
    /// [`Error::WrongType`]
    pub(crate) fn of(query: Option<&str>) -> Result<Self, Error> {
        let expected = "a whole number from 1 to 100";
        let limit = match parameter(query, "limit") {
            None => PAGE,
            Some(limit) => limit
                .parse()
                .ok()
                .filter(|limit| (1..=PAGE_LIMIT).contains(limit))
                .ok_or(Error::WrongType { param: "limit", expected })?,
        };
        Ok(Self { limit, before: parameter(query, "before").map(Cow::into_owned) })
    }

    /// The turns to read: one more than the page shows, which tells whether there is a next page.
    ///
    /// A session drops its oldest turns first. If the turn in `before` was dropped, all turns before it were, too,
    /// and the page is empty.
    pub(crate) fn span(&self) -> Span<'_> {
        Span { before: self.before.as_deref(), turns: self.limit + 1, bytes: usize::MAX }
    }

    /// The page's turns among those that were read, and the value of `before` for the next page.
    pub(crate) fn turns<'a>(&self, turns: &'a [Turn]) -> (&'a [Turn], Option<&'a str>) {
        let start = turns.len().saturating_sub(self.limit);
        let page = turns.get(start..).unwrap_or_default();
        (page, page.first().filter(|_| start > 0).map(|turn| turn.id.as_str()))
    }
}

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExportFormat {
    Json,
    Markdown,
}

impl ExportFormat {
    /// The format in the query's `format`, else the one that `Accept` prefers.
    ///
    /// # Errors
    /// [`Error::WrongType`]
    pub(crate) fn of(query: Option<&str>, headers: &HeaderMap) -> Result<Self, Error> {
        match parameter(query, "format").as_deref() {
            Some("json") => Ok(Self::Json),
            Some("markdown") => Ok(Self::Markdown),
            Some(_) => Err(Error::WrongType { param: "format", expected: "json or markdown" }),
            None => {
                let markdown = weight(headers, "text/markdown");
                let is_markdown = markdown > 0.0 && markdown > weight(headers, "application/json");
                Ok(if is_markdown { Self::Markdown } else { Self::Json })
            }
        }
    }
}

/// The quality value (RFC 9110, section 12.4.2) of a media type that `Accept` names; 0 for a type that it does not
/// name.
fn weight(headers: &HeaderMap, kind: &str) -> f32 {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let weights = accepted.flat_map(|value| value.split(',')).filter_map(|range| {
        let (range, parameters) = range.split_once(';').unwrap_or((range, ""));
        let mut parameters = parameters.split(';').filter_map(|parameter| parameter.trim().split_once('='));
        let weight = parameters.find(|(name, _)| name.eq_ignore_ascii_case("q"));
        let is_meant = range.trim().eq_ignore_ascii_case(kind);
        is_meant.then(|| weight.map_or(1.0, |(_, weight)| weight.trim().parse().unwrap_or(0.0)))
    });
    weights.fold(0.0, f32::max)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::session::Dialect;
    use crate::wire::pace::at_once;

    /// The head that a body makes, as JSON, or the code of its error with what it is about.
    #[track_caller]
    fn check(body: &str, expected: Result<&str, (&str, Option<&str>)>) {
        let longest = Duration::from_hours(24 * 366);
        let found = at_once(head(body.as_bytes(), longest, &mut Pace::unbroken()))
            .map(|head| String::from_utf8(head.to_json()).unwrap());
        let found = found.as_deref().map_err(|error| (error.code(), error.param()));
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn a_new_session_is_given_what_its_body_says() {
        for body in ["", " \n", "{}", r#"{"system":"","model":null,"ttl":null,"other":1}"#] {
            check(body, Ok("{}"));
        }
        let all = r#"{"system":"be\nbrief","model":"m","ttl":90}"#;
        check(all, Ok(all));
        for (ttl, seconds) in [("\"90m\"", 5400), ("\"90\"", 90), ("\"1500ms\"", 1), ("31622400", 31_622_400)]
        {
            check(&format!("{{\"ttl\":{ttl}}}"), Ok(&format!("{{\"ttl\":{seconds}}}")));
        }
        for ttl in ["0", "-1", "1.5", "\"soon\"", "\"999ms\"", "31622401", "[]", "true", "\"\""] {
            check(&format!("{{\"ttl\":{ttl}}}"), Err(("wrong_type", Some("ttl"))));
        }
        check(r#"{"system":1}"#, Err(("wrong_type", Some("system"))));
        check(r#"{"model":[]}"#, Err(("wrong_type", Some("model"))));
        check("[]", Err(("invalid_json", None)));
    }

    #[test]
    fn an_id_is_decoded_and_must_be_text() {
        for (path, expected) in [
            ("/sessions/s", Ok("s")),
            ("/sessions/a%2Fb%20%C3%A9/export", Ok("a/b é")),
            ("/sessions/a+b", Ok("a+b")),
            ("/sessions/%ff", Err("invalid_session_id")),
        ] {
            let found = id(path);
            assert_eq!(found.as_ref().map(SessionId::as_str).map_err(Error::code), expected, "{path}");
        }
    }

    fn turns(count: usize) -> Vec<Turn> {
        let turn = |number: usize| Turn {
            id: number.to_string(),
            dialect: Dialect::Ollama,
            system: None,
            messages: Vec::new(),
            prompt: None,
        };
        (1..=count).map(turn).collect()
    }

    #[test]
    fn the_newest_turns_come_first_and_the_pages_join_without_gap_or_overlap() {
        let turns = turns(5);
        let page = |query| {
            let page = Page::of(Some(query)).unwrap();
            let Span { before, turns: most, bytes: _ } = page.span();
            let end = turns.iter().position(|turn| Some(&*turn.id) == before);
            let end = if before.is_none() { turns.len() } else { end.unwrap_or(0) };
            let (shown, next) = page.turns(&turns[end.saturating_sub(most)..end]);
            (shown.iter().map(|turn| turn.id.as_str()).collect::<Vec<_>>().join(" "), next)
        };
        assert_eq!(page("limit=2"), ("4 5".to_owned(), Some("4")));
        assert_eq!(page("limit=2&before=4"), ("2 3".to_owned(), Some("2")));
        assert_eq!(page("before=2&limit=2"), ("1".to_owned(), None));
        assert_eq!(page("limit=5"), ("1 2 3 4 5".to_owned(), None));
        assert_eq!(page("before=1"), (String::new(), None));
        assert_eq!(page("before=gone"), (String::new(), None));
        assert_eq!(page(""), ("1 2 3 4 5".to_owned(), None));
        for query in ["limit=0", "limit=101", "limit=many", "limit="] {
            assert_eq!(Page::of(Some(query)).map_err(|error| error.param()), Err(Some("limit")), "{query}");
        }
    }

    #[test]
    fn the_query_says_the_form_else_accept_does() {
        for (query, accept, expected) in [
            (None, "", Ok(ExportFormat::Json)),
            (None, "text/html, Text/Markdown;q=0.9", Ok(ExportFormat::Markdown)),
            (None, "application/json;q=0.5, text/markdown; charset=utf-8; Q=0.6", Ok(ExportFormat::Markdown)),
            (None, "application/json, text/markdown", Ok(ExportFormat::Json)),
            (None, "text/markdown;q=0, */*", Ok(ExportFormat::Json)),
            (None, "text/markdown;q=much", Ok(ExportFormat::Json)),
            (Some("format=json"), "text/markdown", Ok(ExportFormat::Json)),
            (Some("x=1&format=markdown"), "", Ok(ExportFormat::Markdown)),
            (Some("format=pdf"), "", Err(Some("format"))),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            assert_eq!(
                ExportFormat::of(query, &headers).map_err(|error| error.param()),
                expected,
                "{query:?}"
            );
        }
    }
}
