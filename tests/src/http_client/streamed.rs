//! A reply whose head is there while its body still comes. Must never read ahead of the test more than what has
//! arrived.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream::BoxStream};
use http::{HeaderMap, StatusCode};
use tokio::time::timeout;

use super::{PATIENCE, Reply, header_text};

/// A reply on its way. Dropping it leaves like a client that closes its connection.
pub struct Streamed {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    pieces: BoxStream<'static, Result<Bytes>>,
    /// What arrived beyond the last event or line.
    buffer: BytesMut,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Streamed").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Streamed {
    /// A reply with this body. The stream ends, or fails, as the body does.
    pub(crate) fn new(
        status: StatusCode,
        headers: HeaderMap,
        pieces: BoxStream<'static, Result<Bytes>>,
    ) -> Self {
        Self { status, headers, pieces, buffer: BytesMut::new() }
    }

    /// The value of a header; empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        header_text(&self.headers, name)
    }

    /// The next piece of the body as it arrives; nothing after a clean end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if !self.buffer.is_empty() {
            return Ok(Some(self.buffer.split().freeze()));
        }
        let piece = timeout(PATIENCE, self.pieces.next());
        piece.await.with_context(|| format!("no piece of the body within {PATIENCE:?}"))?.transpose()
    }

    /// The next event of a `text/event-stream`: its name, empty when it has none, and its data. Comments are
    /// skipped; nothing comes after a clean end between two events.
    pub async fn next_event(&mut self) -> Result<Option<(String, String)>> {
        let (mut name, mut data) = (String::new(), Vec::new());
        while let Some(line) = self.next_line().await? {
            if line.is_empty() && !data.is_empty() {
                return Ok(Some((name, data.join("\n"))));
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut name),
                "data" => data.push(value.to_owned()),
                _ => {}
            }
        }
        ensure!(data.is_empty(), "the body ends within an event");
        Ok(None)
    }

    /// The next line of the body without its end; nothing after a clean end.
    pub async fn next_line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                return Ok(Some(text(line.strip_suffix(b"\r").unwrap_or(line))?));
            }
            let rest = self.buffer.split();
            match self.next().await? {
                Some(piece) => {
                    self.buffer = rest;
                    self.buffer.extend_from_slice(&piece);
                }
                None if rest.is_empty() => return Ok(None),
                None => return Ok(Some(text(&rest)?)),
            }
        }
    }

    /// The reply with what is left of its body.
    pub async fn rest(mut self) -> Result<Reply> {
        let mut body = self.buffer.split();
        let rest = async {
            while let Some(piece) = self.pieces.next().await {
                body.extend_from_slice(&piece?);
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, rest)
            .await
            .with_context(|| format!("no end of the body within {PATIENCE:?}"))??;
        Ok(Reply { status: self.status, headers: self.headers, body: body.freeze() })
    }
}

fn text(line: &[u8]) -> Result<String> {
    Ok(std::str::from_utf8(line).context("a line that is no text")?.to_owned())
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn reply(pieces: &[&'static str]) -> Streamed {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        Streamed::new(StatusCode::OK, HeaderMap::new(), stream::iter(pieces).boxed())
    }

    #[tokio::test]
    async fn events_are_found_wherever_pieces_are_cut() -> Result<()> {
        let mut reply = reply(&[": hello\n\nevent: a\nda", "ta: 1\ndata:2\n", "\ndata: {}\r\n\r\n: bye\n\n"]);
        assert_eq!(reply.next_event().await?, Some(("a".to_owned(), "1\n2".to_owned())));
        assert_eq!(reply.next_event().await?, Some((String::new(), "{}".to_owned())));
        assert_eq!(reply.next_event().await?, None);
        Ok(())
    }

    #[tokio::test]
    async fn an_event_without_its_end_is_none() {
        let error = reply(&["data: 1\n"]).next_event().await.unwrap_err();
        assert_eq!(error.to_string(), "the body ends within an event");
    }

    #[tokio::test]
    async fn lines_and_pieces_share_what_arrived() -> Result<()> {
        let mut reply = reply(&["on", "e\ntwo", "\nthree"]);
        assert_eq!(reply.next_line().await?.as_deref(), Some("one"));
        assert_eq!(reply.next().await?.as_deref(), Some(&b"two"[..]));
        assert_eq!(reply.next_line().await?.as_deref(), Some(""));
        assert_eq!(reply.rest().await?.text(), "three");
        Ok(())
    }
}
