//! What is asked upstream.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;

use super::RoutingKey;
use crate::{
    host::{Platform, Service},
    platform::Timeouts,
    wire::protocol::Protocol,
};

/// What is asked upstream.
#[derive(Debug)]
pub(crate) struct UpstreamRequest {
    pub(crate) method: Method,
    pub(crate) path: Cow<'static, str>,
    pub(crate) body: Bytes,
    /// The model, as the caller spelled it.
    pub(crate) model: Option<String>,
    /// What decides where it goes.
    pub(crate) routing_key: RoutingKey,
    /// How a model's answer is to be read; `None` where no model speaks.
    pub(crate) protocol: Option<Protocol>,
    /// Whether the answer was asked for in pieces.
    pub(crate) streams: bool,
    /// How far the answer is read before anybody is told.
    pub(crate) reading: Reading,
}

/// How a successful answer of a model is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As events where upstream streams, else in one piece.
    AsSent,
    /// As events, whatever upstream calls it.
    Events,
    /// As events, up to the terminator, summed up.
    Summed,
}

impl UpstreamRequest {
    /// Whether the client gets its answer in pieces.
    pub(crate) fn streams_to_client(&self) -> bool {
        self.streams && self.reading != Reading::Summed
    }

    /// The limits of the call.
    pub(crate) fn limits<P: Platform>(&self, service: &Service<P>) -> Timeouts {
        if self.streams { service.config().timeouts.upstream } else { service.config().whole_limits() }
    }
}
