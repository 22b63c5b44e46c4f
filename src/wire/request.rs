//! The body of a request before its members are known: in UTF-8 as Ollama reads it, and how much is in it.
//!
//! It never changes what goes upstream; only what Paddock reads of it.

use bytes::Bytes;

/// The most values that a request may have whose messages Paddock itself reads: `/chat`, and a turn of a session.
pub(crate) const VALUES_LIMIT: usize = 1 << 16;

/// The body in UTF-8. Ollama reads each byte that is not UTF-8 as U+FFFD (`encoding/json`, `unquote`).
pub(crate) fn text(body: &Bytes) -> Bytes {
    if std::str::from_utf8(body).is_ok() {
        return body.clone();
    }
    let length = body
        .utf8_chunks()
        .map(|chunk| chunk.valid().len() + chunk.invalid().len() * char::REPLACEMENT_CHARACTER.len_utf8());
    let mut text = String::with_capacity(length.sum());
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text.into()
}

/// Whether a JSON text has more than `limit` values and lists. It keeps nothing, and reads no further than it must.
pub(crate) fn has_more_values_than(limit: usize, text: &[u8]) -> bool {
    let (mut rest, mut count) = (text, 1);
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'"' => rest = after_string(rest),
            b',' | b'[' | b'{' => count += 1,
            _ => {}
        }
        if count > limit {
            return true;
        }
    }
    false
}

/// What follows a string of which the first quotation mark has been read.
pub(super) fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        let is_escape = rest.get(at) == Some(&b'\\');
        rest = rest.get(at + 1 + usize::from(is_escape)..).unwrap_or_default();
        if !is_escape {
            return rest;
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(text(&Bytes::from_static(body)), expected, "{body:?}");
        }
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (text, count) in
            [("1", 1), ("{}", 2), (r#"{"a":[1,2,"\\",{}]}"#, 7), (r#"["[,{\"[", "\\",""]"#, 4), ("\"[,", 1)]
        {
            assert!(has_more_values_than(count - 1, text.as_bytes()), "{text}");
            assert!(!has_more_values_than(count, text.as_bytes()), "{text}");
        }
    }
}
