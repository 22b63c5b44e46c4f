//! The body of a request before its members are known: in UTF-8 as Ollama reads it, and how much is in it.
//!
//! It never changes what goes upstream; only what Paddock reads of it.

use bytes::Bytes;

use super::pace::{Pace, STEP, steps};

/// The most values that a request may have whose messages Paddock itself reads: `/chat`, and a turn of a session.
pub(crate) const VALUES_LIMIT: usize = 1 << 16;

/// The body in UTF-8. Ollama reads each byte that is not UTF-8 as U+FFFD (`encoding/json`, `unquote`).
pub(crate) async fn text(body: &Bytes, pace: &mut Pace) -> Bytes {
    let mut is_utf8 = true;
    for step in steps(body) {
        pace.count(step.len()).await;
        is_utf8 = is_utf8 && std::str::from_utf8(step).is_ok();
    }
    if is_utf8 {
        return body.clone();
    }
    let replacement = char::REPLACEMENT_CHARACTER;
    let mut length = 0;
    for step in steps(body) {
        pace.count(step.len()).await;
        let chunks = step.utf8_chunks();
        length += chunks
            .map(|chunk| chunk.valid().len() + chunk.invalid().len() * replacement.len_utf8())
            .sum::<usize>();
    }
    let mut text = String::with_capacity(length);
    for step in steps(body) {
        pace.count(step.len()).await;
        for chunk in step.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|_| replacement));
        }
    }
    text.into()
}

/// Whether a JSON text has more than `limit` values and lists. It keeps nothing, and reads no further than it must.
pub(crate) async fn has_more_values_than(limit: usize, text: &[u8], pace: &mut Pace) -> bool {
    let (mut count, mut at) = (1, Place::Between);
    for step in text.chunks(STEP) {
        pace.count(step.len()).await;
        let mut rest = step;
        while let [byte, after @ ..] = rest {
            rest = after;
            at = match (at, byte) {
                (Place::Between, b'"') => in_string(&mut rest),
                (Place::Between, byte) => {
                    count += usize::from(matches!(byte, b',' | b'[' | b'{'));
                    Place::Between
                }
                (Place::InString, b'"') => Place::Between,
                (Place::InString, b'\\') => Place::InEscape,
                (Place::InString | Place::InEscape, _) => in_string(&mut rest),
            };
            if count > limit {
                return true;
            }
        }
    }
    false
}

/// Where the next byte of a JSON text stands.
#[derive(Clone, Copy)]
enum Place {
    Between,
    InString,
    /// Behind a backslash in a string.
    InEscape,
}

/// Skips what says nothing in a string.
fn in_string(rest: &mut &[u8]) -> Place {
    let length = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    *rest = rest.get(length..).unwrap_or_default();
    Place::InString
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pace::{at_once, tests::pauses};

    #[test]
    fn each_byte_that_is_not_utf_8_is_one_replacement_as_in_go() {
        for (body, expected) in [
            (&b"{}"[..], "{}"),
            ("\"\u{e9}\u{1f999}\"".as_bytes(), "\"\u{e9}\u{1f999}\""),
            (b"a\xffb", "a\u{fffd}b"),
            (b"\xe2\x82", "\u{fffd}\u{fffd}"),
            (b"\xed\xa0\x80x", "\u{fffd}\u{fffd}\u{fffd}x"),
            (b"\xc0\x80", "\u{fffd}\u{fffd}"),
            (b"\xf4\x90\x80\x80", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
        ] {
            let text = at_once(text(&Bytes::from_static(body), &mut Pace::unbroken()));
            assert_eq!(text, expected, "{body:?}");
        }
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (text, count) in
            [("1", 1), ("{}", 2), (r#"{"a":[1,2,"\\",{}]}"#, 7), (r#"["[,{\"[", "\\",""]"#, 4), ("\"[,", 1)]
        {
            let has_more =
                |limit| at_once(has_more_values_than(limit, text.as_bytes(), &mut Pace::unbroken()));
            assert!(has_more(count - 1), "{text}");
            assert!(!has_more(count), "{text}");
        }
    }

    #[test]
    fn a_long_body_is_checked_and_counted_in_steps_wherever_these_end() {
        // Letters of three bytes and escapes stand across the ends of all steps.
        let body = format!("[\"{}\",\"{}\"]", "\u{20ac}".repeat(STEP), "\\\"".repeat(STEP));
        let whole = Bytes::from(body.clone());
        let (text, broken) = pauses(async |pace: &mut Pace| super::text(&whole, pace).await);
        assert_eq!((&text, text.as_ptr()), (&whole, whole.as_ptr()), "it is not copied");
        assert_eq!(broken, 5);
        let count = |limit| {
            pauses(async move |pace: &mut Pace| has_more_values_than(limit, body.as_bytes(), pace).await)
        };
        assert_eq!(count.clone()(3), (false, 5));
        assert!(count(2).0);

        let damaged = Bytes::from([whole.as_ref(), b"\xff"].concat());
        let (text, broken) = pauses(async |pace: &mut Pace| super::text(&damaged, pace).await);
        assert_eq!(text, [whole.as_ref(), "\u{fffd}".as_bytes()].concat());
        assert_eq!(broken, 17, "it is checked, measured and copied");
    }
}
