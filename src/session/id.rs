//! The id that a client gives a session, and the key under which a store keeps the session.
//!
//! An id is checked once, where its request enters. It never reaches a store, a log or a label.

use sha2::{Digest, Sha256};

use crate::api::{
    auth::{CallerId, Owner},
    error::Error,
};

/// The longest session id, in characters.
const SESSION_ID_LIMIT: usize = 128;

/// The id of a session, checked.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Box<str>);

impl std::fmt::Debug for SessionId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SessionId(..)")
    }
}

impl SessionId {
    /// The id that a client wrote.
    ///
    /// # Errors
    /// [`Error::InvalidSessionId`] for an empty id, one of more than 128 characters, or one with control characters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let is_valid = !text.is_empty()
            && text.chars().count() <= SESSION_ID_LIMIT
            && !text.chars().any(char::is_control);
        if is_valid { Ok(Self(text.into())) } else { Err(Error::InvalidSessionId) }
    }

    /// The id as the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The session that a request names. The request is refused for an invalid id when its session is loaded, so that what
/// else is wrong with the request is told first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestedSession {
    /// The request names none.
    None,
    /// The request names this one.
    Named(SessionId),
    /// The request names one by an invalid id.
    Invalid,
}

impl RequestedSession {
    /// The session that a client named; none by an empty text.
    pub(crate) fn of(text: &str) -> Self {
        match text {
            "" => Self::None,
            text => SessionId::parse(text).map_or(Self::Invalid, Self::Named),
        }
    }

    /// Whether the request names no session, by a valid id or by an invalid one.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The id, where there is a valid one.
    pub(crate) fn id(&self) -> Option<&SessionId> {
        match self {
            Self::Named(id) => Some(id),
            Self::None | Self::Invalid => None,
        }
    }

    /// The id of the session that is to be loaded.
    ///
    /// # Errors
    /// [`Error::InvalidSessionId`]
    pub(crate) fn checked(&self) -> Result<Option<&SessionId>, Error> {
        match self {
            Self::Invalid => Err(Error::InvalidSessionId),
            Self::None | Self::Named(_) => Ok(self.id()),
        }
    }
}

/// The key of a session in the store: a hash of the caller id and the session id. So ids never appear there, and the id
/// of another caller's session leads to a session of one's own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    key: [u8; 32],
    owner: Owner,
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SessionKey(..)")
    }
}

impl SessionKey {
    /// The key of the caller's session `id`.
    pub fn of(caller: &CallerId, id: &SessionId) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"paddock session 1\0");
        hash.update(caller.as_bytes());
        hash.update(id.as_str().as_bytes());
        Self { key: hash.finalize().into(), owner: caller.owner() }
    }

    /// The 256 bits of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.key
    }

    /// Whose share the session uses.
    pub fn owner(&self) -> Owner {
        self.owner
    }
}
