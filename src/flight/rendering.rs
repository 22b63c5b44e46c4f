//! How an answer is written for the client: as upstream's own events, or as a reply of `/chat`.
//!
//! Pure: it turns an event into bytes.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    api::{
        endpoint::framing,
        error::{Error, Original},
        reply,
    },
    cache::CachedAnswer,
    request::ReplyNotes,
    session::SessionStatus,
    upstream::{Reading, UpstreamRequest},
    wire::{
        framer::Framing,
        protocol::{Chunk, Protocol},
        spoken::Spoken,
    },
};

/// How an answer is written for the client.
#[derive(Debug)]
pub(crate) enum Rendering {
    /// Upstream's bytes as they came.
    Unchanged,
    /// `/chat`'s reply in one piece.
    Whole {
        /// Empty without a session.
        session_id: String,
    },
    /// `/chat`'s reply in pieces.
    Pieces(Pieces),
}

/// `/chat`'s reply in pieces.
#[derive(Debug, Clone)]
pub(crate) struct Pieces {
    pub(crate) framing: Framing,
    /// Empty without a session.
    pub(crate) session_id: String,
}

/// `/chat`'s reply in one piece.
#[derive(Serialize)]
struct ChatReply<'a> {
    response: &'a str,
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<usize>,
    /// Only of an answer that did not end by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Box<RawValue>>,
}

/// The data of one piece. On a line the data include the name of the event.
#[derive(Serialize)]
struct Piece<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(flatten)]
    data: &'a T,
}

#[derive(Serialize)]
struct Delta<'a> {
    delta: &'a str,
}

#[derive(Serialize)]
struct ToolCalls {
    tool_calls: Box<RawValue>,
}

/// The last piece of a complete answer.
#[derive(Serialize)]
struct Done<'a> {
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionStatus>,
    /// How many of the session's turns were left out of the prompt; absent when none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<usize>,
    finish_reason: Option<&'a str>,
    cache: Option<&'static str>,
    usage: Usage,
}

/// Tokens by Ollama's count, and durations in nanoseconds.
#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_duration: u64,
    eval_duration: u64,
}

impl Pieces {
    fn write(&self, event: &'static str, data: &impl Serialize) -> Vec<u8> {
        let line = match self.framing {
            Framing::Lines => serde_json::to_vec(&Piece { event: Some(event), data }),
            Framing::Events => serde_json::to_vec(&Piece { event: None, data }),
        };
        let line = line.unwrap_or_default();
        match self.framing {
            Framing::Lines => [&*line, b"\n"].concat(),
            Framing::Events => [b"event: ", event.as_bytes(), b"\ndata: ", &*line, b"\n\n"].concat(),
        }
    }

    /// The pieces that one event of upstream's becomes; empty when it has no text and no calls.
    fn chunk(&self, chunk: &Chunk<'_>) -> Vec<u8> {
        let calls = (!chunk.calls.is_empty()).then(|| {
            let mut spoken = Spoken::default();
            spoken.add(chunk);
            spoken.calls_json()
        });
        self.said(&chunk.thinking, &chunk.text, calls)
    }

    /// The pieces of this thinking, this text and these calls.
    fn said(&self, thinking: &str, text: &str, calls: Option<Box<RawValue>>) -> Vec<u8> {
        let mut pieces = Vec::new();
        for (event, delta) in [("thinking", thinking), ("token", text)] {
            if !delta.is_empty() {
                pieces.extend(self.write(event, &Delta { delta }));
            }
        }
        if let Some(tool_calls) = calls {
            pieces.extend(self.write("tool_calls", &ToolCalls { tool_calls }));
        }
        pieces
    }

    fn done(&self, answer: &CachedAnswer, notes: &ReplyNotes, session: Option<SessionStatus>) -> Vec<u8> {
        let CachedAnswer { spoken, tokens, durations } = answer;
        let usage = Usage {
            prompt_tokens: tokens.prompt,
            completion_tokens: tokens.completion,
            total_tokens: tokens.prompt.saturating_add(tokens.completion),
            total_duration: durations.total,
            load_duration: durations.load,
            prompt_eval_duration: durations.prompt_eval,
            eval_duration: durations.eval,
        };
        let done = Done {
            session_id: &self.session_id,
            session,
            left_out: Some(notes.left_out).filter(|turns| *turns > 0),
            finish_reason: spoken.finish.as_deref(),
            cache: notes.cache.map(crate::cache::CacheStatus::as_str),
            usage,
        };
        self.write("done", &done)
    }
}

impl Rendering {
    /// How upstream's answer is read for this rendering.
    pub(crate) fn reading(&self) -> Reading {
        match self {
            Self::Unchanged => Reading::AsSent,
            Self::Whole { .. } => Reading::Summed,
            Self::Pieces(_) => Reading::Events,
        }
    }

    /// Whether the client gets a reply of `/chat` instead of upstream's bytes.
    pub(super) fn is_own(&self) -> bool {
        match self {
            Self::Unchanged => false,
            Self::Whole { .. } | Self::Pieces(_) => true,
        }
    }

    /// The content type of the stream; `None` where it is upstream's.
    pub(super) fn content_type(&self) -> Option<HeaderValue> {
        match self {
            Self::Unchanged | Self::Whole { .. } => None,
            Self::Pieces(pieces) => Some(reply::stream_type(pieces.framing)),
        }
    }

    /// The whole reply of `/chat` with this answer.
    pub(super) fn whole(&self, answer: &CachedAnswer, is_stopped: bool, left_out: usize) -> Original {
        let session_id = match self {
            Self::Whole { session_id } | Self::Pieces(Pieces { session_id, .. }) => session_id,
            Self::Unchanged => "",
        };
        let spoken = &answer.spoken;
        let reply = ChatReply {
            response: &spoken.text,
            session_id,
            left_out: Some(left_out).filter(|turns| *turns > 0),
            finish_reason: spoken.finish.as_deref().filter(|_| is_stopped),
            thinking: &spoken.thinking,
            tool_calls: (!spoken.calls.is_empty()).then(|| spoken.calls_json()),
        };
        let body = serde_json::to_vec(&reply).unwrap_or_default().into();
        let content_type = Some(HeaderValue::from_static("application/json"));
        Original { status: StatusCode::OK, content_type, body }
    }

    /// Whether the client can get a head and comment lines before upstream's first event.
    pub(super) fn speaks_early(&self, upstream_request: &UpstreamRequest) -> bool {
        match self {
            Self::Whole { .. } => false,
            Self::Pieces(pieces) => pieces.framing == Framing::Events,
            Self::Unchanged => {
                upstream_request.streams
                    && upstream_request.protocol.is_some_and(|protocol| framing(protocol) == Framing::Events)
            }
        }
    }

    /// The bytes that one event becomes; `None` when it becomes nothing.
    pub(super) fn piece(&self, event: &Bytes, chunk: &Chunk<'_>) -> Option<Bytes> {
        match self {
            Self::Unchanged => Some(event.clone()),
            Self::Whole { .. } => None,
            Self::Pieces(pieces) => {
                Some(pieces.chunk(chunk)).filter(|piece| !piece.is_empty()).map(Bytes::from)
            }
        }
    }

    /// The bytes that the terminator becomes. Where there is a session, they report what became of the turn.
    pub(super) fn last(
        &self,
        event: &Bytes,
        chunk: &Chunk<'_>,
        answer: &CachedAnswer,
        notes: &ReplyNotes,
        session: Option<SessionStatus>,
    ) -> Bytes {
        match self {
            Self::Unchanged | Self::Whole { .. } => {
                session.map_or_else(|| event.clone(), |status| told(event, status))
            }
            Self::Pieces(pieces) => {
                [pieces.chunk(chunk), pieces.done(answer, notes, session)].concat().into()
            }
        }
    }

    /// The bytes behind the last event of a stream without a terminator that did not fail; `None` where there are none,
    /// because the stream is upstream's.
    pub(super) fn stop(
        &self,
        answer: &CachedAnswer,
        notes: &ReplyNotes,
        session: Option<SessionStatus>,
    ) -> Option<Bytes> {
        match self {
            Self::Unchanged | Self::Whole { .. } => None,
            Self::Pieces(pieces) => Some(pieces.done(answer, notes, session).into()),
        }
    }

    /// The event that ends a stream with a failure.
    pub(super) fn failure(&self, error: &Error, protocol: Option<Protocol>, request_id: &str) -> Bytes {
        match (self, protocol) {
            (Self::Pieces(pieces), _) => {
                let message = error.to_string();
                pieces.write("error", &error.detailed(&message)).into()
            }
            (Self::Unchanged | Self::Whole { .. }, Some(protocol)) => error.event(protocol, request_id),
            (Self::Unchanged | Self::Whole { .. }, None) => Bytes::new(),
        }
    }
}

/// Upstream's last event with the status of the turn: on a line as one more member, in server-sent events as a comment before
/// the event, which readers skip. Every other byte stays.
fn told(event: &Bytes, status: SessionStatus) -> Bytes {
    let status = status.as_str();
    let brace =
        event.trim_ascii_start().starts_with(b"{").then(|| event.iter().rposition(|byte| *byte == b'}'));
    match brace.flatten().and_then(|end| event.split_at_checked(end)) {
        Some((members, end)) => [members, b",\"session\":\"", status.as_bytes(), b"\"", end].concat().into(),
        None => [b": x-session ", status.as_bytes(), b"\n\n", event].concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_tells_what_became_of_the_turn_and_keeps_its_bytes() {
        for (event, expected) in [
            (
                "{\"message\":{\"content\":\"}\"}, \"done\":true }\n",
                "{\"message\":{\"content\":\"}\"}, \"done\":true ,\"session\":\"stored\"}\n",
            ),
            (" {\"done\":true,\"x\":{}}\r\n", " {\"done\":true,\"x\":{},\"session\":\"stored\"}\r\n"),
            ("data: [DONE]\n\n", ": x-session stored\n\ndata: [DONE]\n\n"),
            (
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
                ": x-session stored\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ),
        ] {
            let event = Bytes::from_static(event.as_bytes());
            assert_eq!(told(&event, SessionStatus::Stored), expected, "{event:?}");
        }
    }
}
