//! `multipart/form-data` (RFC 7578): the first text of a name, as Go's `mime/multipart` finds it for Ollama.
//!
//! A pure function over a whole body, which copies that text alone. The well-known crates read a stream, and copy what they
//! skip: an audio file of megabytes.

use memchr::memmem::Finder;

/// The most parts that are looked at, as in Go.
const PART_LIMIT: usize = 1000;
/// The longest headers of a part, in bytes, as in Go.
const HEADERS_LIMIT: usize = 10 << 10;
/// The longest text, in bytes: nothing longer is a name.
const TEXT_LIMIT: usize = 1 << 10;
/// The longest boundary, in bytes (RFC 2046, section 5.1.1).
const BOUNDARY_LIMIT: usize = 70;

/// The first text of this name in a body of this content type; `None` if there is none that can be read. A file is no text.
pub(crate) fn text(content_type: &str, body: &[u8], name: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameter(parameters, "boundary")?;
    if boundary.is_empty() || boundary.len() > BOUNDARY_LIMIT {
        return None;
    }
    let delimiter = format!("--{boundary}");
    let mut parts = Parts { delimiter: Finder::new(&delimiter), rest: body, is_first: true };
    parts.next()?;
    for _ in 0..PART_LIMIT {
        let (is_wanted, content) = headers(parts.rest, name)?;
        parts.rest = content;
        let content = parts.next()?;
        if is_wanted {
            let content = content.get(..TEXT_LIMIT).unwrap_or(content);
            return Some(String::from_utf8_lossy(content).into_owned());
        }
    }
    None
}

/// A body that is cut at its delimiters.
struct Parts<'a, 'b> {
    delimiter: Finder<'b>,
    rest: &'a [u8],
    /// Only the first delimiter may stand at the very beginning.
    is_first: bool,
}

impl<'a> Parts<'a, '_> {
    /// What stands before the next delimiter, without the line end that belongs to the delimiter; the rest begins behind
    /// the delimiter's line.
    fn next(&mut self) -> Option<&'a [u8]> {
        let mut from = 0;
        loop {
            let at = from + self.delimiter.find(self.rest.get(from..)?)?;
            from = at + 1;
            let before = self.rest.get(..at)?;
            let content = match before.strip_suffix(b"\n") {
                Some(content) => content.strip_suffix(b"\r").unwrap_or(content),
                None if before.is_empty() && self.is_first => before,
                None => continue,
            };
            let behind = self.rest.get(at + self.delimiter.needle().len()..)?;
            let line = behind.iter().position(|byte| *byte == b'\n').unwrap_or(behind.len());
            let (line, rest) = behind.split_at(line);
            let is_last = line.starts_with(b"--");
            if is_last || line.trim_ascii().is_empty() {
                self.rest = if is_last { &[] } else { rest.get(1..).unwrap_or_default() };
                self.is_first = false;
                return Some(content);
            }
        }
    }
}

/// Whether a part is the text of this name, and its content.
fn headers<'a>(part: &'a [u8], name: &str) -> Option<(bool, &'a [u8])> {
    let mut rest = part;
    let mut is_wanted = false;
    while part.len() - rest.len() <= HEADERS_LIMIT {
        let end = memchr::memchr(b'\n', rest)?;
        let (line, behind) = (rest.get(..end)?.trim_ascii(), rest.get(end + 1..)?);
        rest = behind;
        if line.is_empty() {
            return Some((is_wanted, rest));
        }
        let line = String::from_utf8_lossy(line);
        let Some((header, value)) = line.split_once(':') else { continue };
        if header.trim().eq_ignore_ascii_case("content-disposition") {
            let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
            let is_file = parameter(parameters, "filename").is_some_and(|file| !file.is_empty());
            let is_field = kind.trim().eq_ignore_ascii_case("form-data") && !is_file;
            is_wanted = is_field && parameter(parameters, "name").as_deref() == Some(name);
        }
    }
    None
}

/// The value of a parameter behind a header's value, without its quotes.
fn parameter(mut parameters: &str, name: &str) -> Option<String> {
    loop {
        let (key, rest) = parameters.split_once('=')?;
        let rest = rest.trim_start();
        let (value, behind) = if let Some(quoted) = rest.strip_prefix('"') {
            unquoted(quoted)?
        } else {
            let (value, behind) = rest.split_once(';').unwrap_or((rest, ""));
            (value.trim().to_owned(), behind)
        };
        if key.trim_start_matches([';', ' ', '\t']).trim().eq_ignore_ascii_case(name) {
            return Some(value);
        }
        parameters = behind;
    }
}

/// What stands before the closing quote, and what stands behind it.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORM: &str = "multipart/form-data; boundary=xyz";
    const FILE: &str = "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
                        Content-Type: audio/wav\r\n\r\nRIFF\r\n--xy\r\nmodel--xyz\r\n";

    fn field(head: &str, value: &str) -> String {
        format!("--xyz\r\nContent-Disposition: form-data; {head}\r\n\r\n{value}\r\n")
    }

    fn model(content_type: &str, body: &str) -> Option<String> {
        text(content_type, body.as_bytes(), "model")
    }

    #[test]
    fn the_first_text_of_a_name_is_found_wherever_it_stands() {
        let model_field = field("name=\"model\"", "gemma3n");
        let second = field("name=\"model\"", "other");
        for body in [
            format!("{model_field}{FILE}--xyz--\r\n"),
            format!("{FILE}{model_field}--xyz--"),
            format!("preamble\r\n{FILE}{model_field}{second}--xyz--"),
            format!("{model_field}--xyz  \r\n\r\nx\r\n--xyz--"),
            format!("{}{model_field}--xyz--", field("name=\"model\"; filename=\"f\"", "a file")),
            format!("{}--xyz--", field("filename=\"\"; NAME=model", "gemma3n")),
            format!("{}--xyz--", field("name=\"m\\odel\"", "gemma3n")),
            format!("{model_field}--xyz--").replace("\r\n", "\n"),
            format!("{}--xyz--", model_field.replace("Content-Disposition: ", "content-disposition:")),
        ] {
            assert_eq!(model(FORM, &body).as_deref(), Some("gemma3n"), "{body}");
        }
        for content_type in
            ["Multipart/Form-Data; charset=utf-8; boundary=\"xyz\"", "multipart/form-data;BOUNDARY=xyz;x=1"]
        {
            let body = format!("{model_field}--xyz--");
            assert_eq!(model(content_type, &body).as_deref(), Some("gemma3n"), "{content_type}");
        }
        assert_eq!(model(FORM, &format!("{}--xyz--", field("name=\"model\"", ""))).as_deref(), Some(""));
    }

    #[test]
    fn what_is_no_such_text_is_none() {
        let whole = format!("{}--xyz--", field("name=\"model\"", "gemma3n"));
        for (content_type, body) in [
            ("application/json", whole.clone()),
            ("multipart/form-data", whole.clone()),
            ("multipart/form-data; boundary=", whole.clone()),
            ("multipart/form-data; boundary=other", whole.clone()),
            (FORM, String::new()),
            (FORM, field("name=\"model\"", "cut")),
            (FORM, format!("{}--xyz--", field("name=\"models\"", "x"))),
            (FORM, format!("{FILE}--xyz--\r\n{whole}")),
            (FORM, format!("{}--xyz--", field("name=\"file\"; filename=\"a\"", "--xyz \r\nx"))),
            (FORM, format!("{}--xyz--", whole.replace("form-data;", "attachment;"))),
            (FORM, format!("--xyz\r\n{}", "x: y\r\n".repeat(10_000))),
            (FORM, "{\"model\":\"gemma3n\"}".to_owned()),
        ] {
            assert_eq!(model(content_type, &body), None, "{content_type} {body:.200}");
        }
        let long = format!("{}--xyz--", field("name=\"model\"", &"x".repeat(1 << 20)));
        assert_eq!(model(FORM, &long).map(|name| name.len()), Some(TEXT_LIMIT));
    }

    proptest! {
        #[test]
        fn nothing_panics(head in "[a-z;=\"\\\\ \r\n:-]{0,60}", value in "[x\r\n-]{0,40}", kind in "[a-z;=\"/ \\\\-]{0,40}") {
            let _ = model(FORM, &format!("--xyz\r\nContent-Disposition:{head}\r\n\r\n{value}\r\n--xyz--"));
            let _ = model(&format!("multipart/form-data;{kind}"), &value);
        }
    }
}
