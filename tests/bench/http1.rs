//! As much of HTTP/1.1 as the load generator and the stand-in upstream need: where a message ends.

use anyhow::{Context as _, Result, bail, ensure};
use httparse::{Header, Request, Response, Status};

const HEADERS: usize = 32;

/// What is known of a message once its last byte is there.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) status: u16,
    /// The value of `X-Cache`.
    pub(crate) cache: Option<&'a [u8]>,
}

/// The reply that `bytes` hold; `None` until it is complete. No byte may follow it.
pub(crate) fn reply(bytes: &[u8]) -> Result<Option<Reply<'_>>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = Response::new(&mut headers);
    let Status::Complete(body_at) = head.parse(bytes)? else { return Ok(None) };
    if !is_complete(head.headers, bytes.get(body_at..).unwrap_or_default())? {
        return Ok(None);
    }
    ensure!(!is(head.headers, "connection", b"close"), "the server closes the connection");
    let cache = header(head.headers, "x-cache");
    Ok(Some(Reply { status: head.code.context("no status")?, cache }))
}

/// Whether the request that `bytes` hold is complete, and if so whether it is a POST.
pub(crate) fn request(bytes: &[u8]) -> Result<Option<bool>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = Request::new(&mut headers);
    let Status::Complete(body_at) = head.parse(bytes)? else { return Ok(None) };
    let complete = is_complete(head.headers, bytes.get(body_at..).unwrap_or_default())?;
    Ok(complete.then_some(head.method == Some("POST")))
}

fn is_complete(headers: &[Header<'_>], body: &[u8]) -> Result<bool> {
    if is(headers, "transfer-encoding", b"chunked") {
        // One message at a time and no trailers: the last chunk is the end.
        return Ok(body.ends_with(b"0\r\n\r\n"));
    }
    let length = header(headers, "content-length").map_or(Ok("0"), str::from_utf8)?;
    let length: usize = length.parse().context("content-length is no number")?;
    if body.len() > length {
        bail!("bytes after the end of a message");
    }
    Ok(body.len() == length)
}

fn header<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

fn is(headers: &[Header<'_>], name: &str, value: &[u8]) -> bool {
    header(headers, name).is_some_and(|found| found.eq_ignore_ascii_case(value))
}
