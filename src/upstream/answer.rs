//! An answer as it arrives: its events, and the accumulated words of the model.
//!
//! It never decides what becomes of the answer.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http_body::Body;
use http_body_util::{BodyExt, Limited};

use crate::{
    api::error::Original,
    cache::CachedAnswer,
    fleet::AttemptFailure,
    host::{Platform, Service},
    platform::{Background, UpstreamFailure},
    wire::{
        framer::{Framer, Framing},
        protocol::{Chunk, Durations},
        spoken::Spoken,
        tokens::Tokens,
    },
};

/// The longest event, in bytes; a whole answer may be one.
const EVENT_LIMIT: usize = 16 << 20;
/// The longest answer that is accumulated, in bytes.
const ANSWER_LIMIT: usize = 16 << 20;
/// How much is read after the terminator, in bytes.
const REST_LIMIT: usize = 64 << 10;

/// An answer of upstream's that has begun without a failure.
pub(crate) enum Opened<B> {
    /// The whole answer, accumulated.
    Spoken(Accumulator),
    /// A whole reply as it came.
    Whole(Original),
    /// A stream, of which the first event has been read.
    Stream { content_type: HeaderValue, first: Bytes, events: Events<B> },
}

/// The events of an answer.
pub(crate) struct Events<B> {
    framing: Framing,
    /// `None` once the body has ended.
    framer: Option<Framer>,
    body: B,
}

impl<B> Events<B>
where
    B: Body<Data = Bytes, Error = UpstreamFailure> + Unpin,
{
    pub(crate) fn new(framing: Framing, body: B) -> Self {
        Self { framing, framer: Some(Framer::new(framing, EVENT_LIMIT)), body }
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the body has ended, so that the last event may be cut off.
    pub(crate) fn has_ended(&self) -> bool {
        self.framer.is_none()
    }

    /// The next event as it came, with its end; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, AttemptFailure> {
        while let Some(framer) = &mut self.framer {
            let event = framer.next_event().map_err(|error| AttemptFailure::Protocol(error.to_string()))?;
            if event.is_some() {
                return Ok(event);
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(piece) = frame?.into_data() {
                        framer.push(piece);
                    }
                }
                // Ollama ends a single object without a line end.
                None => return Ok(self.framer.take().and_then(Framer::finish)),
            }
        }
        Ok(None)
    }

    /// Reads what follows the terminator in the background, so that the connection can serve again.
    pub(crate) fn drain<P: Platform<Body = B>>(self, service: &Service<P>)
    where
        B: crate::platform::MaybeSend + 'static,
    {
        if self.framer.is_some() {
            service.spawn(async move {
                let _ = Limited::new(self.body, REST_LIMIT).collect().await;
            });
        }
    }
}

/// What has been heard of an answer.
#[derive(Debug, Default)]
pub(crate) struct Accumulator {
    /// `None` when the words are not needed.
    spoken: Option<Spoken>,
    tokens: Option<Tokens>,
    durations: Durations,
    /// Whether the answer has text or calls, so that it is worth keeping.
    is_useful: bool,
}

impl Accumulator {
    /// An accumulator that `keeps` the words, or only the counts.
    pub(crate) fn new(keeps: bool) -> Self {
        Self { spoken: keeps.then(Spoken::default), ..Self::default() }
    }

    /// Adds one chunk.
    ///
    /// # Errors
    /// A sentence when the answer is longer than the limit.
    pub(crate) fn add(&mut self, chunk: &Chunk<'_>) -> Result<(), &'static str> {
        self.tokens = chunk.tokens.or(self.tokens);
        self.durations = chunk.durations.unwrap_or(self.durations);
        self.is_useful |= !chunk.text.is_empty() || !chunk.calls.is_empty();
        if let Some(spoken) = &mut self.spoken {
            spoken.add(chunk);
            if spoken.bytes() > ANSWER_LIMIT {
                return Err("the answer is too long");
            }
        }
        Ok(())
    }

    /// How fast the answer was written, in millionths of a token a second: by Ollama's own clock where it tells, else by
    /// the time since the first byte.
    pub(crate) fn speed(&self, since_first_byte: Option<Duration>) -> Option<u64> {
        let nanos = match self.durations.eval {
            0 => u64::try_from(since_first_byte?.as_nanos()).ok()?,
            eval => eval,
        };
        let tokens = u128::from(self.tokens?.completion);
        u64::try_from((tokens * 1_000_000_000_000_000).checked_div(u128::from(nanos))?)
            .ok()
            .filter(|speed| *speed > 0)
    }

    /// Whether the answer has neither text nor calls.
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_useful
    }

    pub(crate) fn tokens(&self) -> Option<Tokens> {
        self.tokens
    }

    /// The complete answer. It takes the words out of the accumulator.
    pub(crate) fn answer(&mut self) -> CachedAnswer {
        let spoken = self.spoken.take().unwrap_or_default();
        CachedAnswer::new(spoken, self.tokens.unwrap_or_default(), self.durations)
    }
}
