//! Finds the members of a JSON object without parsing their values, and inserts bytes without touching any other byte.
//!
//! It never serialises a body anew: the bytes that a client or a host sent are passed on.
//!
//! No crate serves: `jiter`, `sonic-rs` and derived readers do not give byte offsets together with duplicate names and
//! the case folding of Go's `encoding/json`, which Ollama uses.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::request;

/// The members of one JSON object in order, with their values as raw JSON.
pub struct Members<'a> {
    body: &'a [u8],
    list: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// The offset of the object's closing brace.
    end: usize,
}

/// The most members that the object of a request may have. Ollama knows about thirty.
pub(crate) const MEMBERS_LIMIT: usize = 4096;

/// A request's object has more than [`MEMBERS_LIMIT`] members.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyMembers;

impl<'a> Members<'a> {
    /// The members of a body; `None` unless the body is exactly one JSON object in UTF-8, with white space around it at
    /// most.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (members, rest) = Self::first(body, usize::MAX).ok().flatten()?;
        rest.trim_ascii_start().is_empty().then_some(members)
    }

    /// The members of a request's body; `None` unless the body begins with a JSON object. Ollama does not look at what
    /// follows it.
    ///
    /// # Errors
    /// [`TooManyMembers`]
    pub(crate) fn of_request(body: &'a [u8]) -> Result<Option<Self>, TooManyMembers> {
        Ok(Self::first(body, MEMBERS_LIMIT)?.map(|(members, _)| members))
    }

    /// The members of the object that a text begins with, and the rest of the text.
    fn first(body: &'a [u8], limit: usize) -> Result<Option<(Self, &'a [u8])>, TooManyMembers> {
        let mut list = Vec::new();
        let mut is_full = false;
        let mut scanner = Scanner(body);
        let read = scanner.members(|name, value| {
            is_full = list.len() == limit;
            list.push((name, value));
            (!is_full).then_some(())
        });
        if is_full {
            return Err(TooManyMembers);
        }
        let end = body.len().saturating_sub(scanner.0.len() + 1);
        Ok(read.map(|()| (Self { body, list, end }, scanner.0)))
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

    /// The elements of a member that is an array.
    pub(crate) fn array(&self, name: &str) -> Option<Vec<&'a RawValue>> {
        elements(self.raw(name)?)
    }

    /// The members of a member that is an object.
    pub(crate) fn object(&self, name: &str) -> Option<Members<'a>> {
        Members::of(self.raw(name)?)
    }

    /// The offset at which a further member of the object is inserted, behind all others. Of several members of a name
    /// Ollama reads the last.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// The values of all members of the name, in the order of the body.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &'a RawValue> {
        self.list.iter().filter(move |(key, _)| same_name(key, name)).map(|(_, value)| *value)
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
    let written = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr(b'\\', written.as_bytes()).is_none() {
        return Some(Cow::Borrowed(written));
    }
    let mut text = String::with_capacity(written.len());
    unescape(written, |piece| text.push_str(piece))?;
    Some(Cow::Owned(text))
}

/// Gives the text of a string, which stands between its quotation marks as `written`, piece by piece.
fn unescape(written: &str, mut piece: impl FnMut(&str)) -> Option<()> {
    let mut rest = written;
    while let Some((plain, escape)) = rest.split_once('\\') {
        piece(plain);
        let mut letters = escape.chars();
        let letter = letters.next()?;
        rest = letters.as_str();
        let letter = match letter {
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
        };
        piece(letter.encode_utf8(&mut [0; 4]));
    }
    piece(rest);
    Some(())
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
    Scanner(value.get().as_bytes()).entries(*b"[]", |scanner| {
        list.push(scanner.value()?);
        Some(())
    })?;
    Some(list)
}

/// Calls `member` with each member of a value that is an object, and keeps none.
pub(super) fn each_member<'a>(value: &'a RawValue, mut member: impl FnMut(Cow<'a, str>, &'a RawValue)) {
    let _ = Scanner(value.get().as_bytes()).members(|name, value| {
        member(name, value);
        Some(())
    });
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

/// The longest name that is folded, in bytes; no name of a field is nearly as long.
const FOLDED_LIMIT: usize = 128;

/// A name as Go folds it to find its field. Two letters outside ASCII, the long s and the Kelvin sign, are letters inside
/// it.
pub(crate) fn folded(name: &str) -> Cow<'_, str> {
    let is_folded = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if name.len() > FOLDED_LIMIT || name.bytes().all(is_folded) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.chars().map(fold).collect())
}

fn fold(letter: char) -> char {
    match letter {
        'ſ' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

fn same_name(left: &str, right: &str) -> bool {
    left == right || left.chars().map(fold).eq(right.chars().map(fold))
}

/// A part of a JSON value, in the order in which it is written.
#[derive(Debug)]
pub(crate) enum Token<'a> {
    /// A bracket or a brace.
    Bracket(u8),
    /// A string or a name, as it stands between its quotation marks.
    String(&'a str),
    /// A number, `true`, `false` or `null`.
    Literal(&'a str),
}

impl Token<'_> {
    /// Gives the text of a string piece by piece, and any other token as it is written.
    pub(crate) fn text(&self, mut piece: impl FnMut(&[u8])) {
        match self {
            Self::Bracket(bracket) => piece(&[*bracket]),
            Self::Literal(written) => piece(written.as_bytes()),
            // The text was read before, so that every escape is one.
            Self::String(written) => drop(unescape(written, |text| piece(text.as_bytes()))),
        }
    }
}

/// The parts of a value, whatever its depth. Commas and colons follow from them.
pub(crate) fn tokens(value: &RawValue) -> impl Iterator<Item = Token<'_>> {
    let mut rest = value.get();
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\n', '\r', '\t', ',', ':']);
        let byte = *rest.as_bytes().first()?;
        let token = match byte {
            b'{' | b'}' | b'[' | b']' => 1,
            b'"' => rest.len() - request::after_string(rest.get(1..)?.as_bytes()).len(),
            _ => rest.find([' ', '\n', '\r', '\t', ',', ':', ']', '}']).unwrap_or(rest.len()),
        };
        let (written, after) = rest.split_at_checked(token)?;
        rest = after;
        Some(match byte {
            b'{' | b'}' | b'[' | b']' => Token::Bracket(byte),
            b'"' => Token::String(written.get(1..token - 1)?),
            _ => Token::Literal(written),
        })
    })
}

/// The rest of a JSON text. Readers derived from types would add 60 kB to a component.
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// Reads the members of an object that the text begins with, until one says that it is enough.
    fn members(&mut self, mut member: impl FnMut(Cow<'a, str>, &'a RawValue) -> Option<()>) -> Option<()> {
        self.entries(*b"{}", |scanner| {
            let name = string(scanner.value()?)?;
            scanner.take(b':')?;
            member(name, scanner.value()?)
        })
    }

    /// Reads a list of entries in brackets that the text begins with.
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
        Some(())
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
mod tests;
