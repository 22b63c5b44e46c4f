//! Cuts a stream of bytes into events as they arrive: lines of NDJSON, or server-sent events.
//!
//! It never loses or changes a byte: the events joined are the stream. It buffers one unfinished event at most, never
//! more of it than the limit, and does not copy an event that arrives in one piece.
//!
//! No crate serves: `eventsource-stream`, `sse-stream` and the codecs of `tokio-util` decode into owned events, while
//! Paddock passes the bytes on.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

/// How a stream is cut into events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// NDJSON: every line is an event.
    Lines,
    /// Server-sent events (WHATWG HTML, 9.2): lines that end in `\n`, `\r\n` or `\r`, and a blank one after each
    /// event.
    Events,
}

/// An event exceeded the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {limit} bytes")]
pub(crate) struct EventTooLong {
    /// The limit in bytes.
    pub(crate) limit: usize,
}

/// Cuts pieces of a stream into events.
#[derive(Debug)]
pub(crate) struct Framer {
    framing: Framing,
    limit: usize,
    unfinished: BytesMut,
    piece: Bytes,
    /// Whether the current line has a byte yet.
    in_line: bool,
    carriage: Option<Carriage>,
}

/// Set while the last byte was a `\r`: a following `\n` belongs to the same line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carriage {
    EndedLine,
    EndedEvent,
}

impl Framer {
    /// A framer that refuses events of more than `limit` bytes, line end included.
    pub(crate) fn new(framing: Framing, limit: usize) -> Self {
        Self {
            framing,
            limit,
            unfinished: BytesMut::new(),
            piece: Bytes::new(),
            in_line: false,
            carriage: None,
        }
    }

    /// Takes the next piece of the stream. The caller must have taken every event of the piece before.
    pub(crate) fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "events of the former piece were not taken");
        self.piece = piece;
    }

    /// The bytes of the next complete event, line end included; `None` when more bytes are needed. A blank line that
    /// follows no event is an event of its own, without [`data`].
    ///
    /// # Errors
    /// [`EventTooLong`]; then the stream cannot be read any further.
    pub(crate) fn next_event(&mut self) -> Result<Option<Bytes>, EventTooLong> {
        let end = match self.framing {
            Framing::Lines => memchr::memchr(b'\n', &self.piece).map(|at| at.saturating_add(1)),
            Framing::Events => self.event_end(),
        };
        let taken = match end {
            Some(end) => self.piece.split_to(end),
            None => std::mem::take(&mut self.piece),
        };
        if self.unfinished.len().saturating_add(taken.len()) > self.limit {
            return Err(EventTooLong { limit: self.limit });
        }
        if end.is_some() && self.unfinished.is_empty() {
            return Ok(Some(taken));
        }
        self.unfinished.extend_from_slice(&taken);
        Ok(end.map(|_| self.unfinished.split().freeze()))
    }

    /// The bytes behind the last complete event, once the stream has ended; `None` when they are blank. Ollama ends a
    /// single object without a line end. An event that ends in a lone `\r` is returned here, because a `\n` could have
    /// followed.
    pub(crate) fn finish(self) -> Option<Bytes> {
        let rest = self.unfinished.freeze();
        (!rest.trim_ascii().is_empty()).then_some(rest)
    }

    /// The bytes that belong to no event yet, whatever they are.
    pub(crate) fn into_rest(mut self) -> Bytes {
        if self.unfinished.is_empty() {
            return self.piece;
        }
        self.unfinished.extend_from_slice(&self.piece);
        self.unfinished.freeze()
    }

    /// The offset at which the next server-sent event ends in the piece.
    fn event_end(&mut self) -> Option<usize> {
        let mut at = 0;
        loop {
            let rest = self.piece.get(at..).unwrap_or_default();
            if let Some(carriage) = self.carriage {
                at += usize::from(*rest.first()? == b'\n');
                self.carriage = None;
                if carriage == Carriage::EndedEvent {
                    return Some(at);
                }
                continue;
            }
            let Some(length) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.in_line |= !rest.is_empty();
                return None;
            };
            let blank = !self.in_line && length == 0;
            let carriage = rest.get(length) == Some(&b'\r');
            self.in_line = false;
            at += length + 1;
            if carriage {
                self.carriage = Some(if blank { Carriage::EndedEvent } else { Carriage::EndedLine });
            } else if blank {
                return Some(at);
            }
        }
    }
}

/// The payload of an event: a line without the space around it, or the joined `data` lines of a server-sent event.
/// `None` when that is blank, as in comments.
pub(crate) fn data(framing: Framing, event: &[u8]) -> Option<Cow<'_, [u8]>> {
    let data = match framing {
        Framing::Lines => Cow::Borrowed(event.trim_ascii()),
        Framing::Events => data_lines(event)?,
    };
    (!data.trim_ascii().is_empty()).then_some(data)
}

fn data_lines(event: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut joined: Option<Cow<'_, [u8]>> = None;
    let mut rest = event;
    while !rest.is_empty() {
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        // After a `\r\n` the `\n` is read here as one more blank line, which has no field.
        rest = after.get(1..).unwrap_or_default();
        let Some(value) = line.strip_prefix(b"data") else { continue };
        let value = match value.strip_prefix(b":") {
            Some(value) => value.strip_prefix(b" ").unwrap_or(value),
            None if value.is_empty() => value,
            None => continue,
        };
        match &mut joined {
            Some(joined) => {
                let joined = joined.to_mut();
                joined.push(b'\n');
                joined.extend_from_slice(value);
            }
            None => joined = Some(Cow::Borrowed(value)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NDJSON: &[u8] = b"{\"model\":\"smollm2:135m\",\"message\":{\"role\":\"assistant\",\"content\":\"The\"},\"done\":false}\n\
        {\"model\":\"smollm2:135m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true}\r\n\n\
        {\"error\":\"unexpected EOF\"}";
    const SSE: &[u8] = b"event: message_start\ndata: {\"type\":\"message_start\"}\n\n: ping\n\n\
        event: content_block_delta\ndata: {\"delta\":{\"text\":\"\xc3\xa9\"}}\n\ndata: [DONE]\n\n";

    fn cut(
        framing: Framing,
        pieces: &[&[u8]],
        limit: usize,
    ) -> Result<(Vec<Bytes>, Option<Bytes>), EventTooLong> {
        let mut framer = Framer::new(framing, limit);
        let mut events = Vec::new();
        for piece in pieces {
            framer.push(Bytes::copy_from_slice(piece));
            while let Some(event) = framer.next_event()? {
                events.push(event);
            }
        }
        Ok((events, framer.finish()))
    }

    fn assert_splits(framing: Framing, stream: &[u8], expected: usize) {
        let whole = cut(framing, &[stream], 1000).unwrap();
        assert_eq!(whole.0.len(), expected);
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                let (events, rest) = cut(framing, &pieces, 1000).unwrap();
                let joined: Vec<u8> = events.iter().chain(&rest).flatten().copied().collect();
                assert_eq!(joined, stream, "{first} {second}");
                assert_eq!((events, rest), whole, "{first} {second}");
            }
        }
    }

    #[test]
    fn every_split_of_a_stream_gives_the_same_events() {
        assert_splits(Framing::Lines, NDJSON, 3);
        assert_splits(Framing::Events, SSE, 4);
        let text = str::from_utf8(SSE).unwrap();
        assert_splits(Framing::Events, text.replace('\n', "\r\n").as_bytes(), 4);
        // A lone `\r` at the end counts as the event's end only once the stream has ended.
        assert_splits(Framing::Events, text.replace('\n', "\r").as_bytes(), 3);
        assert_splits(Framing::Events, b"data: 1\r\n\ndata: 2\n\rdata: 3\n\r\ndata: 4\r\r\n\n\ndata: 5", 6);
    }

    #[test]
    fn an_event_in_one_piece_is_not_copied() {
        for (framing, stream) in [(Framing::Lines, NDJSON), (Framing::Events, SSE)] {
            let stream = Bytes::from_static(stream);
            let mut framer = Framer::new(framing, 1000);
            framer.push(stream.clone());
            let event = framer.next_event().unwrap().unwrap();
            assert_eq!(event.as_ptr(), stream.as_ptr());
        }
    }

    #[test]
    fn an_event_over_the_limit_is_refused_whole_or_in_pieces() {
        let too_long = Err(EventTooLong { limit: 5 });
        assert_eq!(cut(Framing::Lines, &[b"12345\n"], 5), too_long);
        assert_eq!(cut(Framing::Lines, &[b"123", b"456"], 5), too_long);
        assert_eq!(cut(Framing::Lines, &[b"1234\n1234\n"], 5).unwrap().0.len(), 2);
        assert_eq!(cut(Framing::Events, &[b"1234\n", b"\n"], 5), too_long);
        assert_eq!(cut(Framing::Events, &[b"123\n", b"\n"], 5).unwrap().0.len(), 1);
    }

    #[test]
    fn the_rest_of_a_stream_counts_unless_it_is_blank() {
        assert_eq!(cut(Framing::Lines, &[b"{}\n{\"a\""], 9).unwrap().1.unwrap(), "{\"a\"");
        assert_eq!(cut(Framing::Lines, &[b"{}\n \r"], 9).unwrap().1, None);
        assert_eq!(cut(Framing::Events, &[b"data: 1\r\r"], 9).unwrap().1.unwrap(), "data: 1\r\r");
    }

    #[test]
    fn data_is_what_an_event_carries() {
        let cases: [(Framing, &str, Option<&str>); 14] = [
            (Framing::Lines, " {\"a\":1} \r\n", Some("{\"a\":1}")),
            (Framing::Lines, " \r\n", None),
            (Framing::Events, "data: {}\n\n", Some("{}")),
            (Framing::Events, "event: message_stop\r\ndata: {}\r\n\r\n", Some("{}")),
            (Framing::Events, "data:{}\r\r", Some("{}")),
            (Framing::Events, "data:  {}", Some(" {}")),
            (Framing::Events, "data: {\ndata: }\n\n", Some("{\n}")),
            (Framing::Events, "data: {\r\ndata\r\ndata: }\r\n\r\n", Some("{\n\n}")),
            (Framing::Events, "data: [DONE]\n\n", Some("[DONE]")),
            (Framing::Events, ": data: comment\n\n", None),
            (Framing::Events, "event: ping\n\n", None),
            (Framing::Events, "database: 1\n\n", None),
            (Framing::Events, "data:\n\n", None),
            (Framing::Events, "\n", None),
        ];
        for (framing, event, expected) in cases {
            let data = data(framing, event.as_bytes());
            assert_eq!(data.as_deref(), expected.map(str::as_bytes), "{event:?}");
        }
        assert!(matches!(data(Framing::Events, b"event: a\ndata: 1\n\n"), Some(Cow::Borrowed(_))));
    }

    proptest! {
        #[test]
        fn events_joined_are_the_stream(
            text in "(a|\r|\n|data: ){0,60}",
            cuts in proptest::collection::vec(0usize..200, 0..8),
            lines in any::<bool>(),
        ) {
            let framing = if lines { Framing::Lines } else { Framing::Events };
            let mut cuts: Vec<_> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.push(0);
            cuts.push(text.len());
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let (events, rest) = cut(framing, &pieces, 1000).unwrap();
            let joined: Vec<u8> = events.iter().chain(&rest).flatten().copied().collect();
            prop_assert!(text.as_bytes().starts_with(&joined));
            prop_assert!(rest.is_none() || joined.len() == text.len());
            prop_assert!(text[joined.len()..].trim().is_empty());
            prop_assert_eq!((events, rest), cut(framing, &[text.as_bytes()], 1000).unwrap());
        }
    }
}
