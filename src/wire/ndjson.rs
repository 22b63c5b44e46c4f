//! Newline-delimited JSON, cut into lines as the bytes arrive.
//!
//! Holds one unfinished line at most, and never more of it than the limit. A line that arrives in one piece is
//! handed on without a copy.

use bytes::{Buf, Bytes, BytesMut};

/// A line exceeded the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {limit} bytes")]
pub struct LineTooLong {
    /// The limit in bytes.
    pub limit: usize,
}

/// Cuts pieces of a stream into lines.
#[derive(Debug)]
pub struct Lines {
    unfinished: BytesMut,
    piece: Bytes,
    limit: usize,
}

impl Lines {
    /// A framer that refuses lines longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { unfinished: BytesMut::new(), piece: Bytes::new(), limit }
    }

    /// Takes the next piece of the stream. Every line of the former one must have been taken.
    pub fn push(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "lines of the former piece were not taken");
        self.piece = piece;
    }

    /// The next complete line, without its end; `None` when more bytes are needed. Blank lines are skipped.
    ///
    /// # Errors
    /// [`LineTooLong`]; the stream cannot be read further.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.piece) else {
                self.unfinished.extend_from_slice(&std::mem::take(&mut self.piece));
                self.check(self.unfinished.len())?;
                return Ok(None);
            };
            let head = self.piece.split_to(end);
            self.piece.advance(1);
            self.check(self.unfinished.len() + head.len())?;
            let line = if self.unfinished.is_empty() {
                head
            } else {
                self.unfinished.extend_from_slice(&head);
                self.unfinished.split().freeze()
            };
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// What followed the last line end, when the stream has ended: Ollama ends a single object without one.
    pub fn finish(self) -> Option<Bytes> {
        let rest = self.unfinished.freeze();
        (!rest.trim_ascii().is_empty()).then_some(rest)
    }

    fn check(&self, length: usize) -> Result<(), LineTooLong> {
        if length > self.limit { Err(LineTooLong { limit: self.limit }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]], limit: usize) -> Result<Vec<Bytes>, LineTooLong> {
        let mut lines = Lines::new(limit);
        let mut all = Vec::new();
        for piece in pieces {
            lines.push(Bytes::copy_from_slice(piece));
            while let Some(line) = lines.next_line()? {
                all.push(line);
            }
        }
        all.extend(lines.finish());
        Ok(all)
    }

    #[test]
    fn every_split_of_a_stream_gives_the_same_lines() {
        let stream = b"{\"a\":1}\n\r\n\n{\"b\":\"x\"}\r\n{\"c\":3}";
        let whole = cut(&[stream], 100).unwrap();
        assert_eq!(whole.len(), 3);
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(cut(&pieces, 100).unwrap(), whole, "{first} {second}");
            }
        }
    }

    #[test]
    fn a_line_over_the_limit_is_refused_whole_or_in_pieces() {
        assert_eq!(cut(&[b"12345\n"], 4), Err(LineTooLong { limit: 4 }));
        assert_eq!(cut(&[b"123", b"45"], 4), Err(LineTooLong { limit: 4 }));
        assert_eq!(cut(&[b"1234\n1234\n"], 4).map(|lines| lines.len()), Ok(2));
    }

    proptest! {
        #[test]
        fn lines_joined_are_the_stream(text in "[a\n]{0,60}", at in 0usize..60) {
            let at = at.min(text.len());
            let (left, right) = text.as_bytes().split_at(at);
            let expected: Vec<_> = text.split('\n').filter(|line| !line.is_empty()).collect();
            let lines = cut(&[left, right], 100).unwrap();
            prop_assert_eq!(lines, expected);
        }
    }
}
