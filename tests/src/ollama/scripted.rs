//! What the stand-in answers, as a value: nothing here touches a socket or a clock.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{
    asked::words,
    fixture::Recording,
    shapes::{events, line, object, stream, whole, with},
};

/// A gate in an answer, which a test opens. Clones are the same one; it is closed at first.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Gate {
    /// Lets so many waits through, those to come included.
    pub fn open(&self, waits: usize) {
        self.0.add_permits(waits);
    }
}

/// A wait before something happens.
#[derive(Debug, Clone)]
pub enum Pause {
    /// As long as this.
    For(Duration),
    /// Until a test opens the gate, each opening for one wait.
    At(Gate),
    /// Until the peer gives up.
    Forever,
}

impl Pause {
    /// No wait.
    pub const NONE: Self = Self::For(Duration::ZERO);

    /// Waits.
    pub(super) async fn wait(&self) {
        match self {
            Self::For(time) if time.is_zero() => {}
            Self::For(time) => tokio::time::sleep(*time).await,
            Self::At(gate) => {
                // A gate is never removed, so that the wait ends well.
                if let Ok(permit) = gate.0.acquire().await {
                    permit.forget();
                }
            }
            Self::Forever => std::future::pending().await,
        }
    }
}

/// A part of a body, and the wait before it.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The wait.
    pub after: Pause,
    /// The bytes.
    pub bytes: Bytes,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As HTTP wants it.
    Clean,
    /// The connection closes without the last chunk, as when Ollama gets SIGTERM.
    Cut,
    /// The connection is reset.
    Reset,
    /// Never.
    Hang,
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Scripted {
    /// The wait before the head.
    pub head_after: Pause,
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub pieces: Vec<Piece>,
    /// Its end.
    pub end: End,
}

impl Scripted {
    /// No head, ever.
    pub fn hang() -> Self {
        Self { head_after: Pause::Forever, ..Self::proxy(StatusCode::OK) }
    }

    /// What a proxy before Ollama says with this status.
    pub fn proxy(status: StatusCode) -> Self {
        let page = format!("<html><body><h1>{status}</h1></body></html>");
        Self::whole(status, "text/html", page)
    }

    /// A recorded answer, byte by byte: what was streamed comes an event or a line a piece.
    pub fn replay(recording: &Recording) -> Result<Self> {
        let answer = recording.answer()?;
        let mut scripted = Self::new(answer.status, answer.lasting_headers(), answer.pieces());
        if let Some(length) = answer.headers.get(header::CONTENT_LENGTH) {
            // The answer to HEAD tells the length of what it leaves out.
            if recording.method() == "HEAD" {
                scripted.headers.insert(header::CONTENT_LENGTH, length.clone());
            } else {
                scripted = scripted.sized();
            }
        }
        Ok(scripted)
    }

    /// The recorded answer of this name.
    pub fn recorded(name: &str) -> Result<Self> {
        Self::replay(&Recording::named(name)?)
    }

    /// The recorded chat stream in which the model's process died: words, then an error in a line of its own.
    pub fn crashed_in_stream() -> Result<Self> {
        Self::crashed(super::CHAT)
    }

    /// The recorded stream from this path in which the model's process died. It ends as HTTP wants it, without what
    /// ends an answer of its protocol; only Ollama's own protocol says that there was an error.
    pub fn crashed(path: &str) -> Result<Self> {
        Self::recorded(&format!("crash/{}-stream", Self::short_name(path)?))
    }

    /// The recorded stream from this path of an Ollama that was stopped: words, then the connection is gone.
    pub fn terminated(path: &str) -> Result<Self> {
        let recorded = match Self::short_name(path)? {
            "api-chat" => "midstream",
            name => name,
        };
        Ok(Self { end: End::Cut, ..Self::recorded(&format!("cancel/server-sigterm-{recorded}"))? })
    }

    fn short_name(path: &str) -> Result<&'static str> {
        Ok(match path {
            super::CHAT => "api-chat",
            "/api/generate" => "api-generate",
            "/v1/chat/completions" => "v1-chat",
            "/v1/messages" => "v1-messages",
            "/v1/responses" => "v1-responses",
            _ => bail!("no fault of {path} was recorded"),
        })
    }

    /// The recorded chat stream of an Ollama that was stopped.
    pub fn cut() -> Result<Self> {
        Self::terminated(super::CHAT)
    }

    /// The same stream with another end.
    pub fn unfinished(end: End) -> Result<Self> {
        Ok(Self { end, ..Self::cut()? })
    }

    /// A complete stream that says `text`, a word a line.
    pub fn saying(text: &str) -> Result<Self> {
        Self::stream("llama3.2", text, 0)
    }

    /// A stream that begins well and goes on with `line`.
    pub fn with_line(line: impl Into<Bytes>) -> Result<Self> {
        let mut scripted = Self::saying("well begun")?;
        scripted.pieces.pop();
        scripted.pieces.push(Piece { after: Pause::NONE, bytes: line.into() });
        Ok(scripted)
    }

    /// The whole answer in one object without line end, as Ollama answers when it is not to stream.
    pub fn single(model: &str, text: &str, prompt_tokens: usize) -> Result<Self> {
        let object = counted(object("07-chat")?, prompt_tokens, text)?;
        whole("07-chat", &filled(object, model, text)?)
    }

    /// The recorded stream, saying `text`.
    pub fn stream(model: &str, text: &str, prompt_tokens: usize) -> Result<Self> {
        let recorded = events("08-chat-stream")?;
        let (first, last) = recorded.first().zip(recorded.last()).context("no line")?;
        let mut pieces = Vec::new();
        for word in words(text) {
            pieces.push(line(&filled(first.clone(), model, word)?));
        }
        pieces.push(line(&filled(counted(last.clone(), prompt_tokens, text)?, model, "")?));
        stream("08-chat-stream", pieces)
    }

    /// A text in one piece.
    pub(super) fn whole(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self::new(status, headers, [text.into()]).sized()
    }

    /// The same after a wait.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self { head_after: Pause::For(wait), ..self }
    }

    /// The same with a gate before the head.
    #[must_use]
    pub fn behind(self, gate: &Gate) -> Self {
        Self { head_after: Pause::At(gate.clone()), ..self }
    }

    /// The same with a gate before each piece of the body but the first.
    #[must_use]
    pub fn gated(mut self, gate: &Gate) -> Self {
        for piece in self.pieces.iter_mut().skip(1) {
            piece.after = Pause::At(gate.clone());
        }
        self
    }

    /// The same with a wait before each piece of the body.
    #[must_use]
    pub fn slowly(mut self, wait: Duration) -> Self {
        for piece in &mut self.pieces {
            piece.after = Pause::For(wait);
        }
        self
    }

    /// The same body in pieces of this size, wherever that cuts.
    #[must_use]
    pub fn in_pieces_of(mut self, size: usize) -> Self {
        let whole: Vec<u8> = self.pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
        let piece = |bytes: &[u8]| Piece { after: Pause::NONE, bytes: Bytes::copy_from_slice(bytes) };
        self.pieces = whole.chunks(size.max(1)).map(piece).collect();
        self
    }

    /// The same up to this many pieces, then this end.
    #[must_use]
    pub fn ending_after(mut self, pieces: usize, end: End) -> Self {
        self.pieces.truncate(pieces);
        let is_sized = self.headers.contains_key(header::CONTENT_LENGTH);
        // A length that is not reached would be another fault.
        let scripted = if is_sized && end == End::Clean { self.sized() } else { self };
        Self { end, ..scripted }
    }

    /// The same with another header.
    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: &'static str) -> Self {
        self.headers.insert(name, HeaderValue::from_static(value));
        self
    }

    pub(super) fn new(
        status: StatusCode,
        headers: HeaderMap,
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> Self {
        let pieces = pieces.into_iter().map(|bytes| Piece { after: Pause::NONE, bytes }).collect();
        Self { head_after: Pause::NONE, status, headers, pieces, end: End::Clean }
    }

    /// With the length of the body in the head.
    pub(super) fn sized(mut self) -> Self {
        let length: usize = self.pieces.iter().map(|piece| piece.bytes.len()).sum();
        self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        self
    }
}

fn filled(object: Value, model: &str, content: &str) -> Result<Value> {
    with(object, [("/model", model.into()), ("/message/content", content.into())])
}

fn counted(object: Value, prompt: usize, text: &str) -> Result<Value> {
    with(object, [("/prompt_eval_count", prompt.into()), ("/eval_count", words(text).count().into())])
}
