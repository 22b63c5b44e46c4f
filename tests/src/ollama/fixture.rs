//! Exchanges recorded from a real Ollama 0.33, as `curl -i` showed them. Must never be edited by hand.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// One recorded exchange.
#[derive(Debug, Clone, Copy)]
pub struct Recording {
    name: &'static str,
    text: &'static str,
}

macro_rules! recordings {
    ($($name:literal)*) => {
        const RECORDINGS: &[Recording] = &[
            $(Recording {
                name: $name,
                text: include_str!(concat!("../../fixtures/ollama/", $name, ".txt")),
            },)*
        ];
    };
}

recordings! {
    "01-root" "02-head-root" "03-version" "04-tags" "05-ps-before" "06-show" "07-chat" "08-chat-stream"
    "09-chat-logprobs" "10-chat-json-schema" "11-chat-length" "12-generate" "13-generate-stream"
    "14-generate-raw" "15-generate-load" "16-embed" "17-embed-one" "18-embed-dimensions" "19-embeddings-old"
    "20-ps-loaded" "21-v1-models" "22-v1-model" "23-v1-chat" "24-v1-chat-stream" "25-v1-chat-stream-usage"
    "26-v1-completions" "27-v1-completions-stream" "28-v1-embeddings" "29-v1-embeddings-base64"
    "30-v1-responses" "31-v1-responses-stream" "32-v1-messages" "33-v1-messages-stream" "34-tools-chat"
    "35-tools-chat-stream" "36-tools-chat-result" "37-tools-v1-chat" "38-tools-v1-chat-stream"
    "39-think-chat" "40-think-chat-stream" "41-think-off-chat" "42-think-v1-chat" "43-think-v1-chat-stream"
    "44-think-v1-messages" "45-head-tags" "46-head-version" "47-copy" "48-create-from-stream"
    "49-create-from" "50-delete" "51-delete-2" "52-pull-no-registry" "53-pull-no-registry-nostream"
    "54-e-chat-404" "55-e-chat-stream-404" "56-e-generate-404" "57-e-embed-404" "58-e-show-404"
    "59-e-delete-404" "60-e-copy-404" "61-e-v1-chat-404" "62-e-v1-model-404" "63-e-v1-messages-404"
    "64-e-chat-nomodel" "65-e-chat-nobody" "66-e-chat-badjson" "67-e-chat-badtype" "68-e-chat-badname"
    "69-e-v1-chat-nomessages" "70-e-v1-chat-badjson" "71-e-chat-tools" "72-e-chat-think"
    "73-e-chat-embedmodel" "74-e-embed-chatmodel" "75-e-embed-toolong" "76-e-chat-toolong"
    "77-e-notfound-path" "78-e-method" "79-e-options-cors" "80-e-cors-denied" "81-e-host-denied"
    "82-e-blob-head-404" "83-unload" "84-ps-after-unload" "85-status"
    "cancel/server-sigterm-midstream" "cancel/server-sigterm-v1-chat" "cancel/server-sigterm-v1-messages"
    "cancel/server-sigterm-v1-responses" "cancel/stream-client-gone"
    "crash/api-chat" "crash/api-chat-stream" "crash/api-generate-stream" "crash/v1-chat-stream"
    "crash/v1-messages-stream" "crash/v1-responses-stream" "overload/api-chat-1"
    "overload/api-chat-2" "overload/api-chat-3" "overload/api-chat-4" "overload/api-chat-5"
    "overload/api-chat-6" "overload/v1-chat-1" "overload/v1-chat-2" "overload/v1-messages-1"
    "overload/v1-messages-2" "overload/v1-messages-3" "overload/v1-messages-4" "overload/v1-messages-5"
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Every header, those of the transport too.
    pub headers: HeaderMap,
    /// The body, byte by byte.
    pub body: &'static str,
}

impl Recording {
    /// The exchange of this name, such as `07-chat` or `crash/api-chat-stream`.
    pub fn named(name: &str) -> Result<Self> {
        let found = RECORDINGS.iter().find(|recording| recording.name == name);
        found.copied().with_context(|| format!("there is no recording {name}"))
    }

    /// Every numbered exchange: all that was asked of a healthy Ollama.
    pub fn all() -> impl Iterator<Item = Self> {
        RECORDINGS
            .iter()
            .copied()
            .filter(|recording| recording.name.starts_with(|first: char| first.is_ascii_digit()))
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The method of the request. Empty, like the path, where the recorder did not note the request.
    pub fn method(&self) -> &'static str {
        self.asked().next().and_then(|line| line.split(' ').next()).unwrap_or_default()
    }

    /// The path of the request.
    pub fn path(&self) -> &'static str {
        self.asked().next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default()
    }

    /// The body of the request; empty when it had none.
    pub fn request_body(&self) -> &'static str {
        self.asked().nth(1).unwrap_or_default()
    }

    /// What was answered.
    pub fn answer(&self) -> Result<Answer> {
        let start = self.text.find("HTTP/1.1 ").context("no status line")?;
        let text = self.text.get(start..).unwrap_or_default();
        let (head, rest) = text.split_once("\r\n\r\n").context("no end of the head")?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.get(9..12)).context("no status")?.parse()?;
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").context("no header")?;
            headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        Ok(Answer { status, headers, body: self.body(rest) })
    }

    /// The body without what its recorder added: what curl said at its end, or one line end after the exchange.
    fn body(&self, rest: &'static str) -> &'static str {
        let said = rest.find("curl: (").or_else(|| rest.find("curl exit "));
        match said.and_then(|said| rest.get(..said)) {
            Some(body) => body,
            None if self.asked().next().is_some() => rest.strip_suffix('\n').unwrap_or(rest),
            None => rest,
        }
    }

    /// The request's lines: method and path, then the body.
    fn asked(&self) -> impl Iterator<Item = &'static str> {
        self.text.lines().map_while(|line| line.strip_prefix("> "))
    }
}

impl Answer {
    /// The body as it came: an event or a line a piece where it is a stream, else in one piece.
    pub fn pieces(&self) -> Vec<Bytes> {
        let pieces: Vec<_> = match self.media_type() {
            "text/event-stream" => self.body.split_inclusive("\n\n").collect(),
            "application/x-ndjson" => self.body.split_inclusive('\n').collect(),
            _ => vec![self.body],
        };
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        pieces.map(|piece| Bytes::from_static(piece.as_bytes())).collect()
    }

    /// The type of the body; empty when it has none.
    pub fn media_type(&self) -> &str {
        self.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The headers without those of the transport, which are of what was sent then.
    pub(super) fn lasting_headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        for name in [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING, http::header::DATE] {
            headers.remove(name);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::artifacts::workspace;

    fn files(folder: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names.extend(files(&path));
            } else {
                names.push(path.to_string_lossy().into_owned());
            }
        }
        names
    }

    #[test]
    fn every_recorded_answer_can_be_replayed() {
        let root = workspace().join("tests/fixtures/ollama");
        for file in files(&root) {
            let name = file.strip_prefix(&format!("{}/", root.display())).unwrap().trim_end_matches(".txt");
            // Its client left before there was an answer.
            if name != "cancel/nostream-client-gone" {
                Recording::named(name).unwrap().answer().unwrap();
            }
        }
    }

    #[test]
    fn what_a_recorder_added_is_no_part_of_a_body() {
        let mut lengths = 0;
        for recording in RECORDINGS {
            let answer = recording.answer().unwrap();
            let length =
                answer.headers.get("content-length").map(|value| value.to_str().unwrap().parse().unwrap());
            // The recorder also replaced the registry's name, and what answers HEAD has no body.
            if recording.method() != "HEAD" && !answer.body.contains("MODEL_REGISTRY") {
                assert!(length.is_none_or(|length: usize| length == answer.body.len()), "{}", recording.name);
                lengths += usize::from(length.is_some());
            }
            assert!(!answer.body.contains("curl"), "{}", recording.name);
        }
        assert!(lengths > 60, "{lengths}");
    }

    #[test]
    fn requests_are_known_with_their_bodies() {
        let asked = |name| {
            let recording = Recording::named(name).unwrap();
            (recording.method(), recording.path(), recording.request_body())
        };
        assert_eq!(asked("22-v1-model"), ("GET", "/v1/models/smollm2:135m", ""));
        assert_eq!(asked("50-delete"), ("DELETE", "/api/delete", "{\"model\":\"scratch-31434:1\"}"));
        assert_eq!(asked("overload/api-chat-2"), ("", "", ""));
        assert_eq!(Recording::all().count(), 85);
        assert!(Recording::all().all(|recording| recording.path().starts_with('/')));
    }

    #[test]
    fn a_stream_comes_an_event_a_piece() {
        let pieces = |name| Recording::named(name).unwrap().answer().unwrap().pieces();
        assert_eq!(pieces("33-v1-messages-stream").len(), 12);
        assert_eq!(pieces("27-v1-completions-stream").last().unwrap(), "data: [DONE]\n\n");
        assert_eq!(pieces("08-chat-stream").len(), 8);
        assert_eq!(pieces("06-show").len(), 1);
        assert_eq!(pieces("02-head-root").len(), 0);
    }
}
