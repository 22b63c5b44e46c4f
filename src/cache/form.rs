//! The form of an answer: a stream of events, or one piece.

/// Whether an answer was received in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Delivery {
    /// As a stream of events.
    Stream,
    /// In one piece.
    Whole,
}

impl Delivery {
    /// The form of a request that streams or does not.
    pub fn of(streams: bool) -> Self {
        if streams { Self::Stream } else { Self::Whole }
    }

    /// One letter for it, in keys and values.
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::Stream => "s",
            Self::Whole => "w",
        }
    }
}
