//! The ports: what the core needs from the outside, one small trait per capability.
//!
//! A host implements them and moves bytes; it never decides. `http`, `http_body` and `bytes` types are the
//! currency. Time limits are data that travels with a call: the host enforces them, the core never races timers.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use http_body::Body;

pub use crate::flight::{Flights, Orphans};
use crate::{config::Config, fleet::book::FleetBook, journal::Event, metrics::Metrics, store::Store};

/// `Send` where threads exist, nothing on wasm, so that a Spin host may hold an `Rc`.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSend: Send {}
#[cfg(not(target_family = "wasm"))]
impl<T: Send> MaybeSend for T {}

/// `Send` where threads exist, nothing on wasm, so that a Spin host may hold an `Rc`.
#[cfg(target_family = "wasm")]
pub trait MaybeSend {}
#[cfg(target_family = "wasm")]
impl<T> MaybeSend for T {}

/// `Sync` where threads exist, nothing on wasm.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSync: Sync {}
#[cfg(not(target_family = "wasm"))]
impl<T: Sync> MaybeSync for T {}

/// `Sync` where threads exist, nothing on wasm.
#[cfg(target_family = "wasm")]
pub trait MaybeSync {}
#[cfg(target_family = "wasm")]
impl<T> MaybeSync for T {}

/// How long each phase of an upstream call may take. The host enforces them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the start until the connection stands, name resolution and TLS included.
    pub connect: Duration,
    /// From the sent request until the response head. Ollama withholds the head while it loads a model.
    pub first_byte: Duration,
    /// Between two pieces of the response body.
    pub between_bytes: Duration,
    /// From the start until the end of the response body, if that is limited.
    pub total: Option<Duration>,
}

/// Why an upstream call, or the body of its answer, failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamFailure {
    /// No connection: refused, unresolvable or not allowed.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// A limit passed.
    #[error("timed out {0}")]
    TimedOut(Phase),
    /// The peer broke off, or did not speak HTTP.
    #[error("protocol: {0}")]
    Protocol(String),
}

/// The phase in which a limit passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Making the connection.
    Connect,
    /// Waiting for the response head.
    FirstByte,
    /// Waiting for more of the body.
    BetweenBytes,
    /// Until the end of the body.
    Total,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Connect => "while connecting",
            Self::FirstByte => "before the first byte",
            Self::BetweenBytes => "between two bytes",
            Self::Total => "before the end",
        })
    }
}

/// Sends requests to backend hosts.
pub trait Upstream: MaybeSend + MaybeSync {
    /// The response body, which yields data as it arrives. Dropping it closes the upstream connection
    /// unless the body was complete.
    type Body: Body<Data = Bytes, Error = UpstreamFailure> + Unpin + MaybeSend + 'static;

    /// Sends `request` and resolves with the response head. Dropping the future gives the call up.
    fn send(
        &self,
        request: http::Request<Bytes>,
        limits: Limits,
    ) -> impl Future<Output = Result<http::Response<Self::Body>, UpstreamFailure>> + MaybeSend;
}

/// Tells the time.
pub trait Clock: MaybeSend + MaybeSync {
    /// Time since an arbitrary origin that stays fixed while the host lives; never goes back.
    fn now(&self) -> Duration;
}

/// Waits.
pub trait Timer: MaybeSend + MaybeSync {
    /// Resolves once `time` has passed.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + MaybeSend + 'static;
}

/// Gives randomness, good enough for identifiers that must not be guessed.
pub trait Entropy: MaybeSend + MaybeSync {
    /// 64 random bits.
    fn random(&self) -> u64;
}

/// Runs work that outlives the request which started it.
pub trait Background: MaybeSend + MaybeSync {
    /// Starts `task`. A host that shuts down waits for it, within its own limit.
    fn spawn(&self, task: impl Future<Output = ()> + MaybeSend + 'static);
}

/// Takes what the service has to say to its operator.
pub trait Journal: MaybeSend + MaybeSync {
    /// Writes one event; must not block and must not fail.
    fn record(&self, event: &Event<'_>);
}

/// Everything a handler needs; cheap to clone, shared by all requests.
pub trait Host: Upstream + Clock + Timer + Entropy + Background + Journal + Clone + 'static {
    /// Where shared state lives.
    type Store: Store;
    /// Where counters live.
    type Metrics: Metrics;

    /// The form of this host, for `paddock_build_info` and for messages.
    fn form(&self) -> crate::settings::Form;
    /// The checked settings.
    fn config(&self) -> &Config;
    /// Shared state.
    fn store(&self) -> &Self::Store;
    /// Counters.
    fn metrics(&self) -> &Self::Metrics;
    /// What this process knows of the fleet: all there is without Redis, and what is gone by while Redis is away. It was
    /// given the hosts of the configuration.
    fn fleet(&self) -> &FleetBook;
    /// The loads that are seen through although their clients left.
    fn orphans(&self) -> &Orphans;
    /// The flights that others may join.
    fn flights(&self) -> &Flights;
}
