//! A JSON value as a sequence of parts, whatever its depth, none of them longer than a step.
//!
//! It reads what was found to be JSON before, and never judges it again. Commas and colons follow from the parts.

use super::{members::letter, pace::STEP};

/// A part of a JSON value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// A bracket or a brace.
    Bracket(u8),
    /// A string or a name begins.
    String,
    /// A number, `true`, `false` or `null` begins.
    Literal,
    /// Text of a string or of a literal, as it stands there.
    Text(&'a str),
    /// A letter of a string that stands there as an escape.
    Letter(char),
    /// The string or the literal ends.
    End,
    /// What stands between values and says nothing.
    Space,
}

/// The parts of a value.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    rest: &'a str,
    place: Place,
}

/// Where the rest of a value begins.
#[derive(Debug, Clone, Copy)]
enum Place {
    Between,
    InString,
    InLiteral,
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b',' | b':')
}

const fn ends_literal(byte: u8) -> bool {
    is_blank(byte) || matches!(byte, b']' | b'}')
}

impl<'a> Parts<'a> {
    /// The parts of a JSON value.
    pub(crate) fn of(json: &'a str) -> Self {
        Self { rest: json, place: Place::Between }
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn between(&mut self) -> Option<Part<'a>> {
        let bytes = self.rest.as_bytes();
        let blanks = bytes.iter().take(STEP).take_while(|byte| is_blank(**byte)).count();
        let (length, place, part) = match bytes.get(blanks)? {
            _ if blanks == STEP => (blanks, Place::Between, Part::Space),
            bracket @ (b'{' | b'}' | b'[' | b']') => (blanks + 1, Place::Between, Part::Bracket(*bracket)),
            b'"' => (blanks + 1, Place::InString, Part::String),
            _ => (blanks, Place::InLiteral, Part::Literal),
        };
        self.rest = self.rest.get(length..)?;
        self.place = place;
        Some(part)
    }

    #[inline]
    fn in_string(&mut self) -> Option<Part<'a>> {
        let bytes = self.rest.as_bytes();
        match bytes.first()? {
            b'"' => {
                self.rest = self.rest.get(1..)?;
                self.place = Place::Between;
                Some(Part::End)
            }
            b'\\' => {
                let (letter, rest) = letter(self.rest.get(1..)?)?;
                self.rest = rest;
                Some(Part::Letter(letter))
            }
            _ => {
                let step = self.rest.floor_char_boundary(STEP);
                self.text(memchr::memchr2(b'"', b'\\', bytes.get(..step)?).unwrap_or(step))
            }
        }
    }

    #[inline]
    fn in_literal(&mut self) -> Option<Part<'a>> {
        let bytes = self.rest.as_bytes();
        match bytes.iter().take(STEP).take_while(|byte| !ends_literal(**byte)).count() {
            0 => {
                self.place = Place::Between;
                Some(Part::End)
            }
            length => self.text(length),
        }
    }

    #[inline]
    fn text(&mut self, length: usize) -> Option<Part<'a>> {
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Part::Text(text))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    #[inline]
    fn next(&mut self) -> Option<Part<'a>> {
        match self.place {
            Place::Between => self.between(),
            Place::InString => self.in_string(),
            Place::InLiteral => self.in_literal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_told_part_by_part() {
        let parts: Vec<_> = Parts::of(" {\"a\\n\\ud83d\\ude00b\" : [1.5,true , \"\"]} ").collect();
        let expected = [
            Part::Bracket(b'{'),
            Part::String,
            Part::Text("a"),
            Part::Letter('\n'),
            Part::Letter('\u{1f600}'),
            Part::Text("b"),
            Part::End,
            Part::Bracket(b'['),
            Part::Literal,
            Part::Text("1.5"),
            Part::End,
            Part::Literal,
            Part::Text("true"),
            Part::End,
            Part::String,
            Part::End,
            Part::Bracket(b']'),
            Part::Bracket(b'}'),
        ];
        assert_eq!(parts, expected);
        assert_eq!(Parts::of("7").collect::<Vec<_>>(), [Part::Literal, Part::Text("7"), Part::End]);
    }

    #[test]
    fn no_part_is_longer_than_a_step() {
        let long = 3 * STEP + 1;
        for json in [
            format!("\"{}\"", "\u{e9}".repeat(long / 2)),
            format!("[{}]", "9".repeat(long)),
            format!("[1,{}2]", " ".repeat(long)),
            format!("\"{}\"", "\\\"".repeat(long / 2)),
            "[".repeat(long),
        ] {
            let mut parts = Parts::of(&json);
            let mut left = parts.left();
            while let Some(part) = parts.next() {
                assert!(left - parts.left() <= STEP, "{part:?}");
                left = parts.left();
            }
            assert_eq!(left, 0);
        }
    }
}
