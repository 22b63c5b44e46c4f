//! The delivery of an answer: as a stream of events, or in one piece.

/// How an answer is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delivery {
    /// As a stream of events.
    Stream,
    /// In one piece.
    Whole,
}

impl Delivery {
    /// The delivery that a request asks for.
    pub(crate) fn of(streams: bool) -> Self {
        if streams { Self::Stream } else { Self::Whole }
    }

    /// The letter for it in keys and values.
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::Stream => "s",
            Self::Whole => "w",
        }
    }
}
