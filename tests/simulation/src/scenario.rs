//! What a scenario is made of: a herd, its models, who asks for what, and what goes wrong. Plain data.

use std::time::Duration;

/// A herd and its traffic.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// One word.
    pub name: &'static str,
    /// What it is there to show, and why a perfect router would be comfortable in it (or not).
    pub purpose: &'static str,
    /// The servers.
    pub hosts: &'static [HostSpec],
    /// The models that are asked for.
    pub models: &'static [ModelSpec],
    /// Who asks.
    pub callers: &'static [Caller],
    /// How conversations begin.
    pub arrivals: Arrivals,
    /// The work that arrives, as a part of what all hosts together could do if each were always busy, no model
    /// were ever loaded and nothing a prompt cache can hold were evaluated twice.
    pub load: f64,
    /// Requests in one run.
    pub requests: usize,
    /// What goes wrong, and when.
    pub faults: &'static [Fault],
}

/// One Ollama server.
#[derive(Debug, Clone, Copy)]
pub struct HostSpec {
    /// Tokens a second that it generates when it does nothing else, with a model of size 1.
    pub token_speed: f64,
    /// Prompt tokens a second that it evaluates when it does nothing else, with a model of size 1.
    pub prompt_speed: f64,
    /// How many models its memory holds at once (`OLLAMA_MAX_LOADED_MODELS`).
    pub memory: usize,
    /// Requests that a loaded model answers at once (`OLLAMA_NUM_PARALLEL`).
    pub slots: usize,
    /// Requests that may wait for a model to be loaded (`OLLAMA_MAX_QUEUE`).
    pub max_queue: usize,
    /// Which models are on its disk, as places in [`Scenario::models`].
    pub models: &'static [usize],
}

impl HostSpec {
    /// How much slower each of `running` requests to one model is than if it were alone: a batch shares the reading of
    /// the weights, so that four requests at once get 1.8 times as much done as one.
    pub fn batch_cost(running: usize) -> f64 {
        const EACH: f64 = 0.4;
        1.0 + EACH * f64::from(u32::try_from(running.saturating_sub(1)).unwrap_or(u32::MAX))
    }

    /// How much more it gets done with all slots of one model at work than with one.
    pub fn gain(&self) -> f64 {
        f64::from(u32::try_from(self.slots).unwrap_or(u32::MAX)) / Self::batch_cost(self.slots)
    }
}

/// One model.
#[derive(Debug, Clone, Copy)]
pub struct ModelSpec {
    /// How long a host takes to load it.
    pub load: Duration,
    /// How much work a token is, beside a model of size 1.
    pub size: f64,
}

/// One caller, or a group of like ones that count as one.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Its part of all conversations, beside the other callers' numbers.
    pub weight: f64,
    /// Which model a conversation of its is with: places in [`Scenario::models`] with their weights.
    pub models: &'static [(usize, f64)],
    /// The context lengths it asks for (`num_ctx`), with their weights, chosen anew for each conversation.
    pub contexts: &'static [(u32, f64)],
    /// Tokens at the beginning of each of its prompts that are the same in all of them.
    pub shared_prompt: f64,
    /// Tokens that each turn adds to the prompt.
    pub prompt: Length,
    /// Tokens of an answer.
    pub answer: Length,
    /// Turns of a conversation: 1 is a lone request without a session.
    pub turns: Length,
    /// The mean time from an answer to the next turn; how long one thinks is exponential.
    pub thinking: Duration,
}

/// A length whose logarithm is normal.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    /// As many are shorter as are longer.
    pub median: f64,
    /// The standard deviation of the logarithm; 0 is always the median.
    pub spread: f64,
    /// What is longer is cut to this.
    pub longest: f64,
}

impl Length {
    /// Always the same.
    pub const fn always(length: f64) -> Self {
        Self { median: length, spread: 0.0, longest: length }
    }
}

/// How conversations begin.
#[derive(Debug, Clone, Copy)]
pub enum Arrivals {
    /// Each independent of the others, at one rate.
    Poisson,
    /// The same, but the rate changes between calm and bursts. The mean rate is what [`Scenario::load`] asks for.
    Bursts {
        /// The rate in a burst, beside the rate in calm.
        factor: f64,
        /// How long calm lasts in the mean.
        calm: Duration,
        /// How long a burst lasts in the mean.
        burst: Duration,
    },
}

/// A time in which a host does not do as it should.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The host's place in [`Scenario::hosts`].
    pub host: usize,
    /// When it begins.
    pub from: Duration,
    /// When the host is well again.
    pub until: Duration,
    /// What it does.
    pub kind: FaultKind,
}

/// What a faulty host does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FaultKind {
    /// The process has died: connections are refused, open requests break off, and it comes back with no model loaded.
    Refuse,
    /// It accepts requests and nothing moves: no token, no load, no reply to a probe.
    Hang,
    /// It answers new requests with 503; open ones go on.
    Busy,
    /// Everything takes this many times as long.
    Slow(f64),
}
