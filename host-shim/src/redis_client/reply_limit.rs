//! Bounds what one reply of Redis may take: a stream that ends with an error at the first reply that is longer than
//! anything that Paddock stores, when its length is announced or, where it is not, when it has come.
//!
//! redis-rs collects a reply until it is complete, however long that is. This reads only where replies begin and end, keeps
//! none of their bytes, and never decides what a reply means.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a value of a reply takes in memory beside its bytes.
const VALUE: u64 = 64;
/// The longest line, in bytes: a number, a status, or the text of an error.
const LINE_LIMIT: u64 = 64 << 10;

/// A stream from Redis whose replies take at most a given number of bytes each.
#[derive(Debug)]
pub(super) struct LimitedReplies<S> {
    stream: S,
    meter: ReplyMeter,
}

impl<S> LimitedReplies<S> {
    pub(super) fn new(stream: S, limit: u64) -> Self {
        Self { stream, meter: ReplyMeter::new(limit) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedReplies<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, meter } = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(context, buffer))?;
        let came = buffer.filled().get(before..).unwrap_or_default();
        // By this kind redis-rs knows that the connection is of no more use.
        Poll::Ready(
            meter
                .read(came)
                .map_err(|fault| io::Error::new(io::ErrorKind::ConnectionAborted, fault.as_str())),
        )
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedReplies<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Why a reply is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplyFault {
    TooLong,
    Malformed,
}

impl ReplyFault {
    fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "a reply is longer than anything that is stored",
            Self::Malformed => "a reply is not in Redis' protocol",
        }
    }
}

/// Counts what the current reply takes, over the pieces in which it comes.
#[derive(Debug)]
struct ReplyMeter {
    limit: u64,
    /// What the current reply takes as far as it is announced.
    taken: u64,
    /// How many of its values are not complete.
    missing: u64,
    part: Part,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// The mark of a value's kind.
    Mark,
    /// A line that is a value: its length so far, and whether its last byte was a carriage return.
    Line(u64, bool),
    /// The line of a number that announces what follows.
    Number(Announced),
    /// The rest of a string, with the line break behind it.
    Text(u64),
}

/// A number that announces what follows: the mark before it, and its digits so far.
#[derive(Debug, Clone, Copy)]
struct Announced {
    mark: u8,
    digits: u32,
    number: u64,
    is_negative: bool,
    is_over: bool,
}

impl ReplyMeter {
    fn new(limit: u64) -> Self {
        Self { limit, taken: 0, missing: 0, part: Part::Mark }
    }

    /// Reads the bytes that came.
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), ReplyFault> {
        while let [byte, rest @ ..] = bytes {
            bytes = match self.part {
                Part::Mark => {
                    self.mark(*byte)?;
                    rest
                }
                Part::Line(length, is_returned) => {
                    if *byte == b'\n' && is_returned {
                        self.complete();
                    } else if length >= LINE_LIMIT {
                        return Err(ReplyFault::TooLong);
                    } else {
                        self.part = Part::Line(length + 1, *byte == b'\r');
                    }
                    rest
                }
                Part::Number(announced) => {
                    self.number(announced, *byte)?;
                    rest
                }
                Part::Text(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let left = left - here as u64;
                    self.part = Part::Text(left);
                    if left == 0 {
                        self.complete();
                    }
                    bytes.get(here..).unwrap_or_default()
                }
            };
        }
        Ok(())
    }

    fn mark(&mut self, mark: u8) -> Result<(), ReplyFault> {
        if self.missing == 0 {
            (self.taken, self.missing) = (VALUE, 1);
        }
        self.part = match mark {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Part::Line(0, false),
            b'$' | b'!' | b'=' | b'*' | b'~' | b'>' | b'%' | b'|' => {
                Part::Number(Announced { mark, digits: 0, number: 0, is_negative: false, is_over: false })
            }
            _ => return Err(ReplyFault::Malformed),
        };
        Ok(())
    }

    fn number(&mut self, announced: Announced, byte: u8) -> Result<(), ReplyFault> {
        let Announced { mark, digits, number, is_negative, is_over } = announced;
        let next = match byte {
            b'\n' if is_over && digits > 0 => return self.follow(mark, number, is_negative),
            b'\r' if !is_over => Announced { is_over: true, ..announced },
            b'-' if !is_over && digits == 0 && !is_negative => Announced { is_negative: true, ..announced },
            b'0'..=b'9' if !is_over => {
                let more =
                    number.checked_mul(10).and_then(|number| number.checked_add(u64::from(byte - b'0')));
                Announced { digits: digits + 1, number: more.ok_or(ReplyFault::TooLong)?, ..announced }
            }
            _ => return Err(ReplyFault::Malformed),
        };
        self.part = Part::Number(next);
        Ok(())
    }

    /// Counts what a number announces.
    fn follow(&mut self, mark: u8, number: u64, is_negative: bool) -> Result<(), ReplyFault> {
        if is_negative {
            // Of these a negative length says that there is none.
            if !matches!(mark, b'$' | b'*') {
                return Err(ReplyFault::Malformed);
            }
            self.complete();
            return Ok(());
        }
        if matches!(mark, b'$' | b'!' | b'=') {
            self.take(number)?;
            self.part = Part::Text(number + 2);
            return Ok(());
        }
        let values = match mark {
            b'%' => number.checked_mul(2),
            // Attributes stand before the value that they are about.
            b'|' => number.checked_mul(2).and_then(|values| values.checked_add(1)),
            _ => Some(number),
        };
        let values = values.ok_or(ReplyFault::TooLong)?;
        self.take(values.checked_mul(VALUE).ok_or(ReplyFault::TooLong)?)?;
        self.missing += values;
        self.complete();
        Ok(())
    }

    fn take(&mut self, bytes: u64) -> Result<(), ReplyFault> {
        self.taken =
            self.taken.checked_add(bytes).filter(|taken| *taken <= self.limit).ok_or(ReplyFault::TooLong)?;
        Ok(())
    }

    /// A value is complete; so is the reply when it was the last one.
    fn complete(&mut self) {
        self.missing = self.missing.saturating_sub(1);
        self.part = Part::Mark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1 << 10;

    /// What becomes of these bytes, in one piece and byte by byte.
    fn read(bytes: &[u8]) -> Result<u64, ReplyFault> {
        let (mut whole, mut single) = (ReplyMeter::new(LIMIT), ReplyMeter::new(LIMIT));
        let of_whole = whole.read(bytes).map(|()| whole.missing);
        let of_single = bytes.iter().try_for_each(|byte| single.read(&[*byte])).map(|()| single.missing);
        assert_eq!(of_whole, of_single, "{}", bytes.escape_ascii());
        of_whole
    }

    #[test]
    fn replies_within_the_limit_are_read_one_after_the_other() {
        for replies in [
            "+OK\r\n",
            "-ERR no\rsuch\nthing\r\n:-7\r\n",
            "$3\r\na\r\n\r\n$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n",
            "*3\r\n$1\r\na\r\n*2\r\n:1\r\n+b\r\n$-1\r\n",
            "%1\r\n+a\r\n~1\r\n#t\r\n",
            "|1\r\n+ttl\r\n:3\r\n*1\r\n,1.5\r\n",
            ">2\r\n+pubsub\r\n_\r\n!5\r\nERR x\r\n=5\r\ntxt:x\r\n(12\r\n",
        ] {
            assert_eq!(read(replies.as_bytes()), Ok(0), "{replies:?}");
        }
        // With what a value takes it is the limit.
        let text = format!("$960\r\n{}\r\n", "x".repeat(960));
        assert_eq!(read(text.repeat(3).as_bytes()), Ok(0), "each has the limit for itself");
        assert_eq!(read(b"*2\r\n$5\r\nab"), Ok(2), "what is not complete is waited for");
    }

    #[test]
    fn a_reply_that_is_too_long_ends_when_its_length_is_announced_or_has_come() {
        let line = format!("+{}", "x".repeat((64 << 10) + 1));
        let nested = "*2\r\n".repeat(20);
        let text = format!("$300\r\n{}\r\n", "x".repeat(300));
        let texts = format!("*4\r\n{}", text.repeat(3));
        for reply in [
            "$961\r\n",
            "$1073741824\r\n",
            "$99999999999999999999\r\n",
            "=1000\r\n",
            "*16\r\n",
            "*1152921504606846976\r\n",
            "%8\r\n",
            "%9223372036854775808\r\n",
            "|9223372036854775807\r\n",
            &line,
            &nested,
            &texts,
        ] {
            assert_eq!(read(reply.as_bytes()), Err(ReplyFault::TooLong), "{reply:.40}");
        }
    }

    #[test]
    fn what_is_no_reply_ends_at_once() {
        for reply in [
            "HTTP/1.1 200 OK\r\n",
            "$x\r\n",
            "$\r\n",
            "$1 \r\n",
            "$--1\r\n",
            "*1\n",
            "!-1\r\n",
            "%-1\r\n",
            "$1\rx",
        ] {
            assert_eq!(read(reply.as_bytes()), Err(ReplyFault::Malformed), "{reply:?}");
        }
    }
}
