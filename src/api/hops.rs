//! The mark by which a service knows its own requests again: where a host is the service itself, or leads back to it,
//! requests would go round for ever.
//!
//! Each service that a request passes adds its mark to the request's chain. Nothing but such marks is read or passed on, so
//! that no text of a client gets into a log or to a host.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::Error;

/// The header with the marks of all services that a request has passed, the latest last.
pub(crate) const X_PADDOCK_HOPS: HeaderName = HeaderName::from_static("x-paddock-hops");
/// How many services a request may pass.
const SERVICES: usize = 8;
/// The length of a mark, in hexadecimal digits.
const LENGTH: usize = 16;

/// The mark of one service.
#[derive(Debug)]
pub(crate) struct HopMark {
    text: String,
    header: HeaderValue,
}

impl HopMark {
    /// The mark of the service with this number.
    pub(crate) fn new(id: u64) -> Self {
        let text = format!("{id:0LENGTH$x}");
        // Hexadecimal digits are a header's value.
        let header = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("0000000000000000"));
        Self { text, header }
    }

    /// The chain of what the service asks on its own behalf.
    pub(crate) fn own(&self) -> HeaderValue {
        self.header.clone()
    }

    /// The chain of what is asked for a request with these headers; `None` where it passed no service before.
    ///
    /// # Errors
    /// [`Error::LoopDetected`] if the request has passed this service before, or as many others as it may.
    pub(crate) fn after(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Error> {
        let lines = headers.get_all(X_PADDOCK_HOPS).iter();
        let marks = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).filter_map(mark);
        // One more than there may be is enough to know that they are too many.
        let passed: Vec<_> = marks.take(SERVICES).collect();
        if passed.is_empty() {
            return Ok(None);
        }
        let has_come_back = passed.contains(&&*self.text);
        let chain = [&passed[..], &[&*self.text]].concat().join(", ");
        if has_come_back || passed.len() >= SERVICES {
            return Err(Error::LoopDetected { detail: chain });
        }
        Ok(HeaderValue::try_from(chain).ok())
    }
}

/// The mark that a part of the header is, if it is one.
fn mark(part: &[u8]) -> Option<&str> {
    let part = std::str::from_utf8(part.trim_ascii()).ok()?;
    let is_mark = part.len() == LENGTH && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_mark.then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(lines: &[&str]) -> Result<Option<String>, String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_PADDOCK_HOPS, HeaderValue::from_str(line).unwrap());
        }
        match HopMark::new(0xa).after(&headers) {
            Ok(chain) => Ok(chain.map(|chain| chain.to_str().unwrap().to_owned())),
            Err(Error::LoopDetected { detail }) => Err(detail),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn marks(numbers: std::ops::Range<u64>) -> String {
        numbers.map(|number| format!("{number:016x}")).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_request_passes_eight_services_and_none_twice() {
        assert_eq!(HopMark::new(0xa).own(), "000000000000000a");
        assert_eq!(chain(&[]), Ok(None));
        let one = marks(0x10..0x11);
        assert_eq!(chain(&[&one]), Ok(Some(format!("{one}, 000000000000000a"))));
        let seven = marks(0x10..0x17);
        assert_eq!(chain(&[&seven]), Ok(Some(format!("{seven}, 000000000000000a"))));
        let eight = marks(0x10..0x18);
        assert_eq!(chain(&[&eight]), Err(format!("{eight}, 000000000000000a")));
        assert_eq!(chain(&[&marks(0x10..0x999)]), Err(format!("{eight}, 000000000000000a")));
        // A proxy may write one line for each mark, or one for all, with blanks or without.
        for own in ["000000000000000a", " 000000000000000a,", "0000000000000001,000000000000000a"] {
            assert!(chain(&[&one, own]).is_err(), "{own}");
        }
    }

    #[test]
    fn what_is_no_mark_goes_nowhere() {
        let one = marks(0x10..0x11);
        for junk in ["", ",,", "secret", "000000000000000A", "000000000000000a1", &"x".repeat(9000)] {
            assert_eq!(chain(&[junk]), Ok(None), "{junk}");
            assert_eq!(chain(&[junk, &one]), Ok(Some(format!("{one}, 000000000000000a"))), "{junk}");
        }
    }
}
