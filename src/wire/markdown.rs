//! Writes a message of any dialect as Markdown, for people to read. Images are mentioned, never included.

use std::{borrow::Cow, fmt::Write as _};

use serde_json::value::RawValue;

use super::dialect::{Image, Message, MessageRole, read};

/// Appends the message under a heading with its role, after a blank line.
pub(crate) fn write(text: &mut String, message: &RawValue) {
    let Message { role, text: words, thinking, images, calls, call_id, tool_name } = read(message);
    let heading = match role {
        MessageRole::System => "System",
        MessageRole::User | MessageRole::Other => "User",
        MessageRole::Assistant => "Assistant",
        MessageRole::Tool => "Tool",
    };
    // Writing into a string cannot fail.
    let _ = write!(text, "\n## {heading}");
    let name = tool_name.into_iter().map(|name| format!("`{name}`"));
    for detail in name.chain(call_id.map(|id| format!("({id})"))).filter(|_| role == MessageRole::Tool) {
        let _ = write!(text, " {detail}");
    }
    text.push('\n');
    if !thinking.is_empty() {
        text.push('\n');
        for line in thinking.trim_end().lines() {
            let _ = writeln!(text, "> {line}");
        }
    }
    if !words.is_empty() {
        if role == MessageRole::Tool {
            fenced(text, "", &words);
        } else {
            let _ = write!(text, "\n{}\n", words.trim_end());
        }
    }
    for image in images {
        let what = match image {
            Image::Data { media, base64 } => Cow::Owned(format!("{media}, {} bytes", decoded(&base64))),
            Image::Url(url) => url,
        };
        let _ = write!(text, "\n*Image: {what}*\n");
    }
    for call in calls.iter() {
        let id = call.id.as_ref().map(|id| format!(" ({id})")).unwrap_or_default();
        let _ = write!(text, "\nCalls `{}`{id}:\n", call.name);
        fenced(text, "json", &call.arguments);
    }
}

/// Appends a code block. Its fence is longer than any run of backticks in the code.
fn fenced(text: &mut String, language: &str, code: &str) {
    let longest = code.split(|letter| letter != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    let _ = write!(text, "\n{fence}{language}\n{}\n{fence}\n", code.trim_end());
}

/// The number of bytes that a base64 text encodes.
fn decoded(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}
