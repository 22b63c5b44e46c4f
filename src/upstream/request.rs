//! A request as it goes upstream.
//!
//! Pure; it does not say which host is asked.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method};

use super::RoutingKey;
use crate::{
    api::{endpoint::Endpoint, memory_budget::HeldBytes},
    host::{Platform, Service},
    platform::Timeouts,
    wire::protocol::Protocol,
};

/// A request as it goes upstream.
#[derive(Debug)]
pub(crate) struct UpstreamRequest {
    pub(crate) method: Method,
    pub(crate) path: Cow<'static, str>,
    pub(crate) body: Bytes,
    /// The content type of the body; `None` for JSON.
    pub(crate) content_type: Option<HeaderValue>,
    /// The model, as the client spelled it.
    pub(crate) model: Option<String>,
    /// What decides which host is asked.
    pub(crate) routing_key: RoutingKey,
    /// The protocol of the answer; `None` where no model answers.
    pub(crate) protocol: Option<Protocol>,
    /// Whether the client asked for a stream.
    pub(crate) streams: bool,
    /// How the answer is read before a client gets a head.
    pub(crate) reading: Reading,
    /// The bytes of the body, as they count in the memory budget.
    pub(crate) held: HeldBytes,
}

/// How a successful answer of a model is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As events where upstream streams, else in one piece.
    AsSent,
    /// As events, whatever content type upstream gives.
    Events,
    /// As events, accumulated up to the terminator.
    Summed,
}

impl UpstreamRequest {
    /// The endpoint that a host is asked.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        Endpoint::of_path(&self.path)
    }

    /// Whether the client gets a stream.
    pub(crate) fn streams_to_client(&self) -> bool {
        self.streams && self.reading != Reading::Summed
    }

    /// The time limits of the call.
    pub(crate) fn limits<P: Platform>(&self, service: &Service<P>) -> Timeouts {
        if self.streams { service.config().timeouts.upstream } else { service.config().whole_limits() }
    }
}
