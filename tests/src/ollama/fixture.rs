//! Answers recorded from a real Ollama 0.33, as `curl -i` showed them. Must never be edited by hand.

use anyhow::{Context as _, Result};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// The text of one recorded exchange.
#[derive(Debug)]
pub struct Recording(&'static str);

macro_rules! recordings {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: Recording =
            Recording(include_str!(concat!("../../fixtures/ollama/", $file)));)*
    };
}

recordings! {
    TAGS = "04-tags.txt";
    CHAT = "07-chat.txt";
    CHAT_STREAM = "08-chat-stream.txt";
    NOT_FOUND = "54-e-chat-404.txt";
    BAD_NAME = "68-e-chat-badname.txt";
    NOT_IMPLEMENTED = "74-e-embed-chatmodel.txt";
    CRASHED = "crash-chat.txt";
    CRASHED_STREAM = "crash-chat-stream.txt";
    BUSY = "overload-chat.txt";
    TERMINATED_STREAM = "sigterm-chat-stream.txt";
}

/// What was recorded, taken apart.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: &'static str,
}

impl Recording {
    /// The head and the body of the answer, without what curl said about it.
    pub(super) fn answer(&self) -> Result<Answer> {
        let start = self.0.find("HTTP/1.1 ").context("no status line")?;
        let text = self.0.get(start..).unwrap_or_default();
        let (head, rest) = text.split_once("\r\n\r\n").context("no end of the head")?;
        let body = rest.split("curl").next().unwrap_or_default();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.get(9..12)).context("no status")?.parse()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").context("no header")?;
            // The length and the coding are of what was sent then.
            if !["Content-Length", "Transfer-Encoding", "Date"].contains(&name) {
                headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
            }
        }
        // The recorder parts exchanges by a line end.
        let body = body.trim_end();
        Ok(Answer { status, headers, body })
    }
}
