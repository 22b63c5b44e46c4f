//! Finds the members of a JSON object without parsing their values, and inserts bytes without touching any other byte.
//!
//! It never serialises a body anew: the bytes that a client or a host sent are passed on.
//!
//! No crate serves: `jiter`, `sonic-rs` and derived readers do not give byte offsets together with duplicate names and
//! the case folding of Go's `encoding/json`, which Ollama uses.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::pace::{Pace, STEP};

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
        let (members, rest) = Self::first(body)?;
        rest.trim_ascii_start().is_empty().then_some(members)
    }

    /// The members of a request's body; `None` unless the body begins with a JSON object. Ollama does not look at what
    /// follows it.
    ///
    /// # Errors
    /// [`TooManyMembers`]
    pub(crate) async fn of_request(body: &'a [u8], pace: &mut Pace) -> Result<Option<Self>, TooManyMembers> {
        Ok(Self::first_in_steps(body, MEMBERS_LIMIT, pace).await?.map(|(members, _)| members))
    }

    /// As [`Members::parse`]. A pause may come between two members, and never within one: a value is checked in one go.
    pub(crate) async fn parse_in_steps(body: &'a [u8], pace: &mut Pace) -> Option<Self> {
        let (members, rest) = Self::first_in_steps(body, usize::MAX, pace).await.ok().flatten()?;
        rest.trim_ascii_start().is_empty().then_some(members)
    }

    /// The members of the object that a text begins with, and the rest of the text.
    fn first(body: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut list = Vec::new();
        let mut scanner = Scanner(body);
        scanner.members(|name, value| {
            list.push((name, value));
            Some(())
        })?;
        Some((Self::ending_at(scanner, body, list), scanner.0))
    }

    /// The same of an object with at most `limit` members.
    async fn first_in_steps(
        body: &'a [u8],
        limit: usize,
        pace: &mut Pace,
    ) -> Result<Option<(Self, &'a [u8])>, TooManyMembers> {
        let mut list = Vec::new();
        let mut scanner = Scanner(body);
        let mut goes_on = scanner.begins(b'{', b'}');
        while goes_on == Some(true) {
            let left = scanner.0.len();
            let Some(member) = scanner.member() else { return Ok(None) };
            if list.len() == limit {
                return Err(TooManyMembers);
            }
            list.push(member);
            goes_on = scanner.goes_on(b'}');
            pace.count(left - scanner.0.len()).await;
        }
        Ok(goes_on.map(|_| (Self::ending_at(scanner, body, list), scanner.0)))
    }

    fn ending_at(scanner: Scanner<'a>, body: &'a [u8], list: Vec<(Cow<'a, str>, &'a RawValue)>) -> Self {
        let end = body.len().saturating_sub(scanner.0.len() + 1);
        Self { body, list, end }
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

    /// As [`Members::array`].
    pub(crate) async fn array_in_steps(&self, name: &str, pace: &mut Pace) -> Option<Vec<&'a RawValue>> {
        elements_in_steps(self.raw(name)?, usize::MAX, pace).await
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
        let (letter, after) = letter(escape)?;
        rest = after;
        piece(letter.encode_utf8(&mut [0; 4]));
    }
    piece(rest);
    Some(())
}

/// The letter that an escape stands for, behind its backslash, and the rest of the text.
pub(super) fn letter(escape: &str) -> Option<(char, &str)> {
    let mut letters = escape.chars();
    let letter = match letters.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return code_point(letters.as_str()),
        other => other,
    };
    Some((letter, letters.as_str()))
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
    let mut scanner = Scanner(value.get().as_bytes());
    let mut goes_on = scanner.begins(b'[', b']')?;
    while goes_on {
        list.push(scanner.value()?);
        goes_on = scanner.goes_on(b']')?;
    }
    Some(list)
}

/// The same, also `None` for more than `most` elements. A pause may come between two elements.
pub(crate) async fn elements_in_steps<'a>(
    value: &'a RawValue,
    most: usize,
    pace: &mut Pace,
) -> Option<Vec<&'a RawValue>> {
    let mut list = Vec::new();
    let mut scanner = Scanner(value.get().as_bytes());
    let mut goes_on = scanner.begins(b'[', b']')?;
    while goes_on {
        let element = scanner.value()?;
        if list.len() >= most {
            return None;
        }
        list.push(element);
        goes_on = scanner.goes_on(b']')?;
        pace.count(element.get().len()).await;
    }
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
pub(crate) async fn insert(body: &[u8], mut insertions: Vec<(usize, &[u8])>, pace: &mut Pace) -> Bytes {
    insertions.sort_by_key(|(at, _)| *at);
    let added: usize = insertions.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut whole = Vec::with_capacity(body.len().saturating_add(added));
    let mut rest = body;
    let mut done = 0;
    for (at, bytes) in insertions {
        let (before, after) = rest.split_at((at - done).min(rest.len()));
        extend(&mut whole, before, pace).await;
        extend(&mut whole, bytes, pace).await;
        rest = after;
        done = at;
    }
    extend(&mut whole, rest, pace).await;
    whole.into()
}

async fn extend(whole: &mut Vec<u8>, bytes: &[u8], pace: &mut Pace) {
    for step in bytes.chunks(STEP) {
        pace.count(step.len()).await;
        whole.extend_from_slice(step);
    }
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

/// The rest of a JSON text. Readers derived from types would add 60 kB to a component.
#[derive(Clone, Copy)]
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// Reads the members of an object that the text begins with, until one says that it is enough.
    fn members(&mut self, mut member: impl FnMut(Cow<'a, str>, &'a RawValue) -> Option<()>) -> Option<()> {
        let mut goes_on = self.begins(b'{', b'}')?;
        while goes_on {
            let (name, value) = self.member()?;
            member(name, value)?;
            goes_on = self.goes_on(b'}')?;
        }
        Some(())
    }

    fn member(&mut self) -> Option<(Cow<'a, str>, &'a RawValue)> {
        let name = string(self.value()?)?;
        self.take(b':')?;
        Some((name, self.value()?))
    }

    /// Reads the first bracket of a list; gives whether an entry follows.
    fn begins(&mut self, open: u8, close: u8) -> Option<bool> {
        self.take(open)?;
        Some(self.take(close).is_none())
    }

    /// Reads what stands behind an entry of a list; gives whether another one follows.
    fn goes_on(&mut self, close: u8) -> Option<bool> {
        if self.take(close).is_some() {
            return Some(false);
        }
        self.take(b',')?;
        Some(true)
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
