//! What is simulated beside Ollama: a gateway that decides which request goes to which host, and when.
//!
//! The engine tells it all that a real gateway would see, and nothing else, and after each thing it tells it asks
//! what to do now. All times are since the beginning of the run.

use std::time::Duration;

/// A request, by its place among all requests of the run.
pub type RequestId = usize;
/// A host, by its place in the scenario.
pub type HostId = usize;
/// A model, by its place in the scenario.
pub type ModelId = usize;

/// What a gateway can see of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Which one.
    pub id: RequestId,
    /// Who asks: the place in the scenario's callers.
    pub caller: usize,
    /// The conversation that it continues or begins; a lone request has none.
    pub session: Option<u64>,
    /// The model asked for.
    pub model: ModelId,
    /// The context length asked for, in tokens; another one than the loaded model has means a load.
    pub context: u32,
    /// The length of the whole prompt, in tokens, as one may estimate it from its bytes.
    pub prompt_tokens: f64,
}

/// How an attempt at a host failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke off before the first byte.
    Refused,
    /// 503: the queue for loads is full, or the host says so for its own reasons.
    Busy,
    /// 404: the model is not on the host.
    NotFound,
    /// The first byte did not come within [`FIRST_BYTE_LIMIT`].
    TimedOut,
    /// The gateway withdrew it before its first byte.
    Withdrawn,
    /// The answer broke off or stood still after its first byte: the request has ended, nobody else can answer it.
    BrokenOff,
}

/// What Ollama says at the end of an answer about how it came to be.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// How long the request waited for its model to be loaded (`load_duration`).
    pub load: Duration,
    /// How long its prompt took (`prompt_eval_duration`).
    pub prompt: Duration,
    /// The prompt tokens that were evaluated: those not in the prompt cache (`prompt_eval_count`).
    pub prompt_tokens: f64,
    /// How long its answer took (`eval_duration`).
    pub answer: Duration,
    /// The tokens of the answer (`eval_count`).
    pub answer_tokens: f64,
}

/// What a probe of a host finds (`/api/tags` and `/api/ps`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probe {
    /// The models on its disk.
    pub models: Vec<ModelId>,
    /// The models in its memory.
    pub loaded: Vec<LoadedModel>,
}

/// A model in a host's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadedModel {
    /// Which one.
    pub model: ModelId,
    /// The context length it was loaded with, in tokens.
    pub context: u32,
}

/// Why a request is sent to no host (any more).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The gateway has too much to do, or the request waited too long.
    Shed,
    /// It was tried and nothing is left to try.
    Failed,
}

/// What a gateway wants done now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Actions {
    /// Requests to withdraw from the hosts that they are at: unless their first bytes come at this very moment they fail as
    /// [`Failure::Withdrawn`].
    pub withdrawals: Vec<RequestId>,
    /// Requests to send to a host, in this order. Each has arrived, is at no host and has not ended.
    pub dispatches: Vec<(RequestId, HostId)>,
    /// Requests to turn away. Each has arrived, is at no host and has not ended.
    pub refusals: Vec<(RequestId, Refusal)>,
    /// When to ask again even though nothing happened; the last one told holds.
    pub wake_at: Option<Duration>,
}

/// How long the gateway waits for the first byte of an answer.
pub const FIRST_BYTE_LIMIT: Duration = Duration::from_mins(2);
/// How long an answer that has begun may stand still.
pub const BETWEEN_BYTES_LIMIT: Duration = Duration::from_mins(1);
/// How often each host is probed, and how long a probe may take.
pub const PROBE_EVERY: Duration = Duration::from_secs(2);

/// A gateway under simulation. [`Gateway::poll`] is called after each call of any other method.
pub trait Gateway {
    /// A request arrives.
    fn arrive(&mut self, now: Duration, request: &Request);

    /// What to do now.
    fn poll(&mut self, now: Duration) -> Actions;

    /// The first byte of an answer comes; from here on no other host can answer.
    fn first_byte(&mut self, now: Duration, request: RequestId, host: HostId);

    /// An answer is complete.
    fn finished(&mut self, now: Duration, request: RequestId, host: HostId, timings: &Timings);

    /// An attempt failed. Unless it is [`Failure::BrokenOff`] the request is the gateway's again: [`Gateway::poll`]
    /// must send it elsewhere or refuse it, now or later.
    fn failed(&mut self, now: Duration, request: RequestId, host: HostId, failure: Failure);

    /// A background probe ended: what it found, or that the host refused, or did not answer in
    /// time.
    fn probed(&mut self, now: Duration, host: HostId, found: Result<&Probe, Failure>);
}
