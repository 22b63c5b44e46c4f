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
    fleet::{AttemptFailure, broken, media_type},
    host::{Platform, Service},
    platform::{Background, UpstreamFailure},
    process::WholeHead,
    wire::{
        framer::{Framer, Framing},
        members::Members,
        protocol::{self, Chunk, Durations, Protocol},
        repetition::{Repetition, is_repeated},
        spoken::Spoken,
        tokens::Tokens,
    },
};

/// The detail of a whole answer that is not what it should be.
pub(crate) const NO_OBJECT: &str = "the answer is no JSON object";
/// The longest event, in bytes; a whole answer may be one.
const EVENT_LIMIT: usize = 16 << 20;
/// The longest answer that is accumulated, in bytes.
pub(crate) const ANSWER_LIMIT: usize = 16 << 20;
/// Why an answer ended that Ollama ended because it repeats itself. Ollama has no word for it.
pub(crate) const REPEATED: &str = "repeat";
/// How much is read after the terminator, in bytes.
const REST_LIMIT: usize = 64 << 10;

/// An answer of upstream's that has begun without a failure.
pub(crate) enum Opened<B> {
    /// The whole answer, accumulated.
    Spoken(Accumulator),
    /// A whole reply as it came.
    Whole(WholeAnswer),
    /// A whole reply that is too long to wait for: what came of it, and the rest.
    Passing { head: WholeHead, start: Bytes, body: B },
    /// A stream, of which the first event has been read.
    Stream { content_type: HeaderValue, first: Bytes, events: Events<B> },
}

/// A whole reply as it came, and what it says.
pub(crate) struct WholeAnswer {
    pub(crate) original: Original,
    pub(crate) tokens: Option<Tokens>,
    /// Whether it is complete and not empty, so that it is worth keeping.
    pub(crate) says_something: bool,
}

impl WholeAnswer {
    /// Reads a reply of this protocol, or of an endpoint without one.
    ///
    /// # Errors
    /// A failure that the host reports with a status of success, and one for a reply that is cut off.
    pub(crate) fn read(protocol: Option<Protocol>, original: Original) -> Result<Self, AttemptFailure> {
        let no_json = || broken(NO_OBJECT);
        let Some(protocol) = protocol else {
            let Some(reply) = Members::parse(&original.body) else {
                let is_text = is_text(original.content_type.as_ref());
                let answer = Self { original, tokens: None, says_something: false };
                return if is_text { Ok(answer) } else { Err(no_json()) };
            };
            if let Some(error) = protocol::failure(&reply) {
                return Err(AttemptFailure::told(&error));
            }
            let says_something = protocol::says_something(&reply);
            return Ok(Self { original, tokens: None, says_something });
        };
        let chunk = protocol.read_whole(&original.body).ok_or_else(no_json)?;
        if let Some(error) = &chunk.error {
            return Err(AttemptFailure::told(error));
        }
        if !chunk.end && !is_repeated(&chunk) {
            return Err(AttemptFailure::Unfinished);
        }
        let mut heard = Accumulator::new(false);
        heard.add(&chunk);
        let (tokens, says_something) = (chunk.tokens, chunk.end && !heard.is_empty());
        Ok(Self { original, tokens, says_something })
    }
}

/// Whether a whole answer is plain text, as a transcription may be; every other one is a JSON object.
pub(crate) fn is_text(content_type: Option<&HeaderValue>) -> bool {
    media_type(content_type).eq_ignore_ascii_case(b"text/plain")
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
    /// The events of a body that begins with `start`.
    pub(crate) fn new(framing: Framing, start: Bytes, body: B) -> Self {
        let mut framer = Framer::new(framing, EVENT_LIMIT);
        framer.push(start);
        Self { framing, framer: Some(framer), body }
    }

    /// The bytes behind the events that were taken, as far as they came, and the rest of the body unless it has ended.
    pub(crate) fn into_rest(self) -> (Bytes, Option<B>) {
        match self.framer {
            Some(framer) => (framer.into_rest(), Some(self.body)),
            None => (Bytes::new(), None),
        }
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
            let event = framer.next_event().map_err(|error| AttemptFailure::TooLong(error.limit))?;
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
    /// Whether the words became too many, so that they were dropped.
    is_too_long: bool,
    repetition: Repetition,
    is_stopped: bool,
}

impl Accumulator {
    /// An accumulator that `keeps` the words, or only the counts.
    pub(crate) fn new(keeps: bool) -> Self {
        Self { spoken: keeps.then(Spoken::default), ..Self::default() }
    }

    /// Adds one chunk. Of an answer that is longer than [`ANSWER_LIMIT`] no words are kept.
    pub(crate) fn add(&mut self, chunk: &Chunk<'_>) {
        self.tokens = chunk.tokens.or(self.tokens);
        self.durations = chunk.durations.unwrap_or(self.durations);
        self.is_useful |= !chunk.text.is_empty() || !chunk.calls.is_empty();
        self.repetition.add(chunk);
        let Some(spoken) = &mut self.spoken else { return };
        if self.is_too_long {
            spoken.add(&Chunk { finish: chunk.finish.clone(), ..Chunk::default() });
            return;
        }
        spoken.add(chunk);
        if spoken.bytes() > ANSWER_LIMIT {
            self.is_too_long = true;
            spoken.forget_words();
        }
    }

    /// Whether the words became too many, so that none are kept.
    pub(crate) fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    /// Ends an answer without a terminator, as Ollama ends one that repeats itself; `false` where it does not, so that it
    /// is cut off. Such an answer must not be kept.
    pub(crate) fn stop(&mut self) -> bool {
        self.is_stopped = self.repetition.is_limit();
        if self.is_stopped
            && let Some(spoken) = &mut self.spoken
        {
            spoken.finish = Some(REPEATED.to_owned());
        }
        self.is_stopped
    }

    /// Whether Ollama ended it because it repeats itself.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped
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
