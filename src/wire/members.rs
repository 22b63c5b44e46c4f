//! Finds the members of a JSON object without parsing their values, and inserts bytes without touching any other byte.
//!
//! It never serialises a body anew: the bytes that a client or a host sent are passed on.
//!
//! No crate serves: `jiter`, `sonic-rs` and derived readers do not give byte offsets together with duplicate names and
//! the case folding of Go's `encoding/json`, which Ollama uses.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde_json::value::RawValue;

/// The members of one JSON object in order, with their values as raw JSON.
pub struct Members<'a> {
    body: &'a [u8],
    list: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Members<'a> {
    /// The members of a body; `None` unless the body is exactly one JSON object in UTF-8, with white space around it at
    /// most.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let mut list = Vec::new();
        Scanner(body).entries(*b"{}", |reader| {
            let name = string(reader.value()?)?;
            reader.take(b':')?;
            list.push((name, reader.value()?));
            Some(())
        })?;
        Some(Self { body, list })
    }

    /// The members of a value; `None` unless it is an object.
    pub(crate) fn of(value: &'a RawValue) -> Option<Self> {
        Self::parse(value.get().as_bytes())
    }

    /// The value of a member, found as Go's `encoding/json` finds it for Ollama: names match without case, and the last
    /// one wins. `null` counts as absent.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.list.iter().rev().find(|(key, _)| same_name(key, name))?;
        (value.get() != "null").then_some(*value)
    }

    /// Whether there is a member of the name, even if it is `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.list.iter().any(|(key, _)| same_name(key, name))
    }

    /// The members in the order of the body, with their names decoded.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Cow<'a, str>, &'a RawValue)> {
        self.list.iter()
    }

    /// The value of a member that is a string. Of several members of the name it is the last that is not `null`, because
    /// Go leaves a string as it is for a `null`.
    pub(crate) fn string(&self, name: &str) -> Option<Cow<'a, str>> {
        string(self.last_value(name)?)
    }

    /// The value of a member that is `true` or `false`, for a field that is a pointer in Ollama: a later `null` takes it
    /// away.
    pub(crate) fn boolean(&self, name: &str) -> Option<bool> {
        self.raw(name)?.get().parse().ok()
    }

    /// The value of a member that is `true` or `false`, for a field that is a plain flag in Ollama: a later `null` leaves
    /// it as it is.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.last_value(name)?.get().parse().ok()
    }

    /// The last value of the name that is not `null`.
    fn last_value(&self, name: &str) -> Option<&'a RawValue> {
        let values = self.list.iter().rev().filter(|(key, _)| same_name(key, name));
        values.map(|(_, value)| *value).find(|value| value.get() != "null")
    }

    /// The value of a member that is a whole number of at least 0.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.raw(name)?.get().parse().ok()
    }

    /// The value of a member that is a number, without its fraction: Ollama reads a whole option as a float first
    /// (`api/types.go`, `FromMap`), so that `2048`, `2048.0` and `2.048e3` are one. A number beyond 64 bits is the nearest
    /// of 64 bits.
    pub(crate) fn whole(&self, name: &str) -> Option<i64> {
        let number: f64 = self.raw(name)?.get().parse().ok()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the fraction is dropped, and the range saturates"
        )]
        Some(number as i64)
    }

    /// The elements of a member that is an array.
    pub(crate) fn array(&self, name: &str) -> Option<Vec<&'a RawValue>> {
        elements(self.raw(name)?)
    }

    /// The members of a member that is an object.
    pub(crate) fn object(&self, name: &str) -> Option<Members<'a>> {
        Members::of(self.raw(name)?)
    }

    /// The byte offset of a value in the body; `None` for a value from another body.
    pub(crate) fn offset(&self, value: &'a RawValue) -> Option<usize> {
        let offset = value.get().as_ptr().addr().checked_sub(self.body.as_ptr().addr())?;
        (offset.checked_add(value.get().len())? <= self.body.len()).then_some(offset)
    }
}

impl fmt::Debug for Members<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Members({})", self.list.len())
    }
}

/// A string value, borrowed when it has no escapes. An unpaired surrogate becomes U+FFFD, as in Go.
pub(crate) fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    let mut rest = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', rest.as_bytes()).is_none() {
        return Some(Cow::Borrowed(rest));
    }
    let mut text = String::with_capacity(rest.len());
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let mut letters = escape.chars();
        let letter = letters.next()?;
        rest = letters.as_str();
        text.push(match letter {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (letter, after) = code_point(rest)?;
                rest = after;
                letter
            }
            other => other,
        });
    }
    text.push_str(rest);
    Some(Cow::Owned(text))
}

/// The character of the escape `\u`, which may need a second escape as its surrogate pair, and the rest of the text.
fn code_point(escape: &str) -> Option<(char, &str)> {
    let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
    let (first, after) = (unit(escape)?, escape.get(4..)?);
    let second = after.strip_prefix("\\u").and_then(unit);
    let letter = char::decode_utf16([first].into_iter().chain(second)).next()?;
    let letter = letter.unwrap_or(char::REPLACEMENT_CHARACTER);
    let is_pair = letter.len_utf16() == 2;
    Some((letter, if is_pair { after.get(6..)? } else { after }))
}

/// The elements of an array value.
pub(crate) fn elements(value: &RawValue) -> Option<Vec<&RawValue>> {
    let mut list = Vec::new();
    Scanner(value.get().as_bytes()).entries(*b"[]", |reader| {
        list.push(reader.value()?);
        Some(())
    })?;
    Some(list)
}

/// The offset at which a further member of a body's object is inserted, behind all others. Of several members of a name
/// Ollama reads the last.
pub(crate) fn end_of_members(body: &[u8]) -> usize {
    memchr::memrchr(b'}', body).unwrap_or(body.len())
}

/// Inserts bytes into a body, each before the byte at its offset; an offset past the end means the end. Insertions at
/// the same offset keep their order.
pub(crate) fn insert(body: &[u8], mut insertions: Vec<(usize, &[u8])>) -> Bytes {
    insertions.sort_by_key(|(at, _)| *at);
    let added: usize = insertions.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut whole = Vec::with_capacity(body.len().saturating_add(added));
    let mut rest = body;
    let mut done = 0;
    for (at, bytes) in insertions {
        let (before, after) = rest.split_at((at - done).min(rest.len()));
        whole.extend_from_slice(before);
        whole.extend_from_slice(bytes);
        rest = after;
        done = at;
    }
    whole.extend_from_slice(rest);
    whole.into()
}

/// Go folds two letters outside ASCII (the long s and the Kelvin sign) to letters inside it.
fn same_name(left: &str, right: &str) -> bool {
    let fold = |letter: char| match letter {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    left == right || left.chars().map(fold).eq(right.chars().map(fold))
}

/// The rest of a JSON text. Readers derived from types would add 60 kB to a component.
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// Reads the whole text, which must be a list of entries in brackets.
    fn entries(
        &mut self,
        [open, close]: [u8; 2],
        mut entry: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.take(open)?;
        if self.take(close).is_none() {
            entry(self)?;
            while self.take(close).is_none() {
                self.take(b',')?;
                entry(self)?;
            }
        }
        self.skip_space();
        self.0.is_empty().then_some(())
    }

    fn skip_space(&mut self) {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    /// Consumes a byte and the white space before it.
    fn take(&mut self, byte: u8) -> Option<()> {
        self.skip_space();
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    fn value(&mut self) -> Option<&'a RawValue> {
        let mut values = serde_json::Deserializer::from_slice(self.0).into_iter();
        let value = values.next()?.ok()?;
        self.0 = self.0.get(values.byte_offset()..)?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(body: &str) -> Members<'_> {
        Members::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn only_one_whole_object_in_utf_8_has_members() {
        for body in [
            "",
            "[]",
            "1",
            "null",
            "{",
            "{}{}",
            "{} x",
            "{\"a\":}",
            "{\"a\":1,}",
            "\"{}\"",
            "{1:2}",
            "{\u{c}}",
            "{,}",
            "{\"a\" 1}",
        ] {
            assert!(Members::parse(body.as_bytes()).is_none(), "{body}");
        }
        assert!(Members::parse(b"{\"a\":\"\xff\"}").is_none());
        assert!(Members::parse(b" \r\n{} \n").is_some());
    }

    #[test]
    fn names_match_without_case_and_the_last_one_wins() {
        let body =
            members(r#"{"Model":"a","mo\u0064EL":"b","stream":true,"stream":null,"\u017fEED":7,"thinK":1}"#);
        assert_eq!(body.string("model").as_deref(), Some("b"));
        assert!(body.raw("stream").is_none());
        assert_eq!(body.number("seed"), Some(7));
        assert_eq!(body.number("think"), Some(1));
        assert!(body.raw("mode").is_none());
    }

    #[test]
    fn a_later_null_leaves_a_string_and_takes_anything_else_away() {
        let members =
            Members::parse(br#"{"a":"x","A":null,"b":true,"b":null,"c":null,"d":1,"d":"y"}"#).unwrap();
        assert_eq!((members.string("a").as_deref(), members.raw("a").is_none()), (Some("x"), true));
        assert_eq!((members.boolean("b"), members.flag("b"), members.string("c")), (None, Some(true), None));
        assert_eq!((members.string("d").as_deref(), members.whole("d")), (Some("y"), None));
        assert!(members.has("c") && members.has("C") && !members.has("e"));
    }

    #[test]
    fn values_are_read_by_their_type_alone() {
        let body = members(
            r#"{"s":"plain","e":"a\n\u00e9\ud83d","t":true,"n":19,"a":[1,{"b":2}],"o":{"x":"y"},"f":1.5}"#,
        );
        assert!(matches!(body.string("s"), Some(Cow::Borrowed("plain"))));
        assert!(body.string("e").unwrap().starts_with("a\né\u{fffd}"));
        assert_eq!(body.boolean("t"), Some(true));
        assert_eq!(body.number("n"), Some(19));
        let array: Vec<_> = body.array("a").unwrap().iter().map(|value| value.get()).collect();
        assert_eq!(array, ["1", "{\"b\":2}"]);
        assert_eq!(body.object("o").unwrap().string("x").as_deref(), Some("y"));
        assert!(body.string("n").is_none() && body.boolean("s").is_none() && body.number("f").is_none());
        assert!(body.array("o").is_none() && body.object("a").is_none() && body.string("absent").is_none());
        assert!(!format!("{body:?}").contains("plain"));
    }

    #[test]
    fn escapes_are_read_as_go_reads_them() {
        for (json, text) in [
            (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r#""\u0041\uD83E\uDD99!""#, "A🦙!"),
            (r#""\ud83ex\ude00\ud83e\u0041\\u0041""#, "\u{fffd}x\u{fffd}\u{fffd}A\\u0041"),
            (r#""é\u00e9""#, "éé"),
        ] {
            let value = RawValue::from_string(json.to_owned()).unwrap();
            assert_eq!(string(&value).as_deref(), Some(text), "{json}");
        }
        for json in [r#"{"a":"\x"}"#, r#"{"a":"\u12"}"#, "{\"a\":\"\n\"}"] {
            assert!(Members::parse(json.as_bytes()).is_none(), "{json}");
        }
    }

    #[test]
    fn an_offset_is_where_the_value_starts() {
        let text = " { \"messages\" : [ {\"role\":\"user\"} ,2] } ";
        let body = members(text);
        let messages = body.array("messages").unwrap();
        assert_eq!(body.offset(messages[0]), text.find("{\"role"));
        assert_eq!(body.offset(messages[1]), text.find('2'));
        assert_eq!(body.offset(body.raw("messages").unwrap()), text.find('['));
        let elsewhere = RawValue::from_string(format!("\"{}\"", "x".repeat(100))).unwrap();
        let other = members(text);
        assert_eq!(other.offset(&elsewhere), None);
    }

    #[test]
    fn insertions_keep_their_order_and_the_end_is_the_last_place() {
        assert_eq!(insert(b"abc", vec![]), "abc");
        assert_eq!(insert(b"abc", vec![(1, b"1")]), "a1bc");
        assert_eq!(insert(b"abc", vec![(3, b"3"), (0, b"x"), (9, b"9"), (0, b"y")]), "xyabc39");
    }

    proptest! {
        #[test]
        fn offsets_and_insertions_leave_every_other_byte(
            names in proptest::collection::vec("[a-zé\"\\\\]{0,4}", 1..6),
            space in "[ \n\t]{0,3}",
            text in "\\PC{0,12}",
            pick in any::<prop::sample::Index>(),
        ) {
            let value = serde_json::to_string(&text).unwrap();
            let list: Vec<_> = names
                .iter()
                .map(|name| format!("{space}{}{space}:{space}{value}{space}", serde_json::to_string(name).unwrap()))
                .collect();
            let body = format!("{space}{{{}}}{space}", list.join(","));
            let members = members(&body);
            prop_assert_eq!(members.list.len(), names.len());
            let raw = members.raw(&names[pick.index(names.len())]).unwrap();
            prop_assert_eq!(string(raw).unwrap(), text.as_str());
            let at = members.offset(raw).unwrap();
            prop_assert!(body[at..].starts_with(&value));
            let longer = insert(body.as_bytes(), vec![(at, b"[1,"), (at + value.len(), b"]")]);
            let after = &body[at + value.len()..];
            prop_assert_eq!(longer, format!("{}[1,{value}]{after}", &body[..at]));
        }
    }
}
