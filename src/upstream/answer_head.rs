//! Whether what a host answers with success can be Ollama's: by its head, by its first bytes, and by how it cannot be read.
//!
//! A login page, a default page or a portal comes with status 200. Nothing of it may reach a client.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{UpstreamRequest, answer::is_text};
use crate::{
    api::endpoint::Endpoint,
    fleet::{AttemptFailure, foreign, media_type},
};

/// The media types of pages.
const PAGES: [&str; 4] = ["text/html", "application/xhtml+xml", "text/xml", "application/xml"];
/// The media types of what hosts answer. What is called otherwise is an answer if it can be read as one.
const ANSWERS: [&str; 4] = ["", "application/json", "application/x-ndjson", "text/event-stream"];
/// What a page begins with, in lower case.
const PAGE_STARTS: [&[u8]; 3] = [b"<!doctype", b"<html", b"<?xml"];
/// What may stand before a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The head of a host's answer, as far as it says what the answer is.
#[derive(Debug)]
pub(crate) struct AnswerHead<'a> {
    /// The name of the host.
    host: &'a str,
    status: StatusCode,
    content_type: Option<HeaderValue>,
    /// Whether the answer may be plain text, as a transcription may be.
    may_be_text: bool,
}

impl<'a> AnswerHead<'a> {
    pub(crate) fn of<B>(host: &'a str, asked: &UpstreamRequest, response: &Response<B>) -> Self {
        let may_be_text = asked.path == Endpoint::OpenAiTranscriptions.path();
        Self { may_be_text, ..Self::of_change(host, response) }
    }

    /// The head of the answer to a change of models.
    pub(crate) fn of_change<B>(host: &'a str, response: &Response<B>) -> Self {
        let content_type = response.headers().get(header::CONTENT_TYPE).cloned();
        Self { host, status: response.status(), content_type, may_be_text: false }
    }

    /// Whether an answer with these headers can be read.
    ///
    /// # Errors
    /// [`AttemptFailure::Foreign`] for a page, and for a body that is packed although that was not asked for.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), AttemptFailure> {
        let is_page = |page: &&str| self.kind().eq_ignore_ascii_case(page.as_bytes());
        if PAGES.iter().any(is_page) {
            return Err(self.foreign());
        }
        match packing(headers) {
            Some(packing) => Err(AttemptFailure::Foreign(format!(
                "host {} answered {} with Content-Encoding {packing}, which was not asked for",
                self.host,
                self.status.as_u16()
            ))),
            None => Ok(()),
        }
    }

    /// Whether an answer can begin like this.
    ///
    /// # Errors
    /// [`AttemptFailure::Foreign`]
    pub(crate) fn check_start(&self, start: &[u8]) -> Result<(), AttemptFailure> {
        let start = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start).trim_ascii_start();
        let begins = |page: &&[u8]| {
            start.get(..page.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(page))
        };
        let is_page =
            if self.may_be_text { PAGE_STARTS.iter().any(begins) } else { start.first() == Some(&b'<') };
        if is_page { Err(self.foreign()) } else { Ok(()) }
    }

    /// Whether a whole answer can begin like this.
    ///
    /// # Errors
    /// [`AttemptFailure::Foreign`]
    pub(crate) fn check_whole(&self, start: &[u8]) -> Result<(), AttemptFailure> {
        self.check_start(start)?;
        let is_text = is_text(self.content_type.as_ref()) && start.trim_ascii_start().first() != Some(&b'{');
        if is_text && !self.may_be_text { Err(self.foreign()) } else { Ok(()) }
    }

    /// The failure of an answer that could not be read: one that is not called an answer is none.
    pub(crate) fn explain(&self, failure: AttemptFailure) -> AttemptFailure {
        let kind = self.kind().to_ascii_lowercase();
        let is_called_answer =
            ANSWERS.iter().any(|answer| kind == answer.as_bytes()) || kind.ends_with(b"+json");
        let is_unread = matches!(failure, AttemptFailure::Protocol(_) | AttemptFailure::Unfinished);
        if is_unread && !is_called_answer { self.foreign() } else { failure }
    }

    fn kind(&self) -> &[u8] {
        media_type(self.content_type.as_ref())
    }

    fn foreign(&self) -> AttemptFailure {
        AttemptFailure::Foreign(foreign(self.host, self.status, self.content_type.as_ref()))
    }
}

/// How a body is packed; `None` where it is not.
fn packing(headers: &HeaderMap) -> Option<&str> {
    let packing = headers.get(header::CONTENT_ENCODING)?.to_str().unwrap_or("unknown").trim();
    let known = ["gzip", "x-gzip", "deflate", "br", "zstd", "compress"];
    match packing {
        "" => None,
        _ if packing.eq_ignore_ascii_case("identity") => None,
        _ => Some(known.into_iter().find(|known| packing.eq_ignore_ascii_case(known)).unwrap_or("unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(content_type: &'static str, may_be_text: bool) -> AnswerHead<'static> {
        let content_type = Some(HeaderValue::from_static(content_type)).filter(|kind| !kind.is_empty());
        AnswerHead { host: "1", status: StatusCode::OK, content_type, may_be_text }
    }

    #[test]
    fn a_page_and_what_is_packed_are_no_answers_by_their_head() {
        for (content_type, packing, words) in [
            ("application/json", "", None),
            ("application/json", "identity", None),
            ("", "", None),
            ("text/plain", "", None),
            ("Text/HTML; charset=utf-8", "", Some("host 1 answered 200 Text/HTML: not Ollama")),
            ("application/xml", "", Some("host 1 answered 200 application/xml: not Ollama")),
            (
                "application/json",
                "GZIP",
                Some("host 1 answered 200 with Content-Encoding gzip, which was not asked for"),
            ),
            (
                "text/event-stream",
                "made, up",
                Some("host 1 answered 200 with Content-Encoding unknown, which was not asked for"),
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(packing));
            let expected = words.map_or(Ok(()), |words: &str| Err(AttemptFailure::Foreign(words.to_owned())));
            assert_eq!(head(content_type, false).check(&headers), expected, "{content_type} {packing}");
        }
    }

    #[test]
    fn a_page_is_told_by_what_comes_whatever_it_is_called() {
        for (content_type, start, may_be_text, is_start, is_whole) in [
            ("application/json", "{\"a\":1}", false, true, true),
            ("application/json", " \n<html>", false, false, false),
            ("", "\u{feff}<!DOCTYPE html>", false, false, false),
            ("text/event-stream", "<div>", false, false, false),
            ("text/plain", "{\"a\":1}", false, true, true),
            ("text/plain", "data: {}", false, true, false),
            ("text/plain", "OK", false, true, false),
            ("text/plain", "Hello, said the man", true, true, true),
            ("text/plain", "<sighs> Hello", true, true, true),
            ("text/plain", "<HTML><body>", true, false, false),
        ] {
            let head = head(content_type, may_be_text);
            let found =
                (head.check_start(start.as_bytes()).is_ok(), head.check_whole(start.as_bytes()).is_ok());
            assert_eq!(found, (is_start, is_whole), "{content_type} {start}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_broken_where_it_is_called_an_answer_and_else_none() {
        for (content_type, is_answer) in [
            ("application/json; charset=utf-8", true),
            ("application/problem+json", true),
            ("Application/X-NDJSON", true),
            ("text/event-stream", true),
            ("", true),
            ("text/plain", false),
            ("image/png", false),
        ] {
            for failure in [AttemptFailure::Unfinished, AttemptFailure::Protocol("half".to_owned())] {
                let explained = head(content_type, false).explain(failure.clone());
                assert_eq!(explained == failure, is_answer, "{content_type}");
            }
            let told = AttemptFailure::told("the runner is gone");
            assert_eq!(head(content_type, false).explain(told.clone()), told);
        }
    }
}
