//! What decides where a request goes: its model, what is done with it, and who asks.
//!
//! Pure; it is made before the fleet is looked at.

use serde_json::value::RawValue;

use crate::{
    api::{auth::CallerId, endpoint::Work},
    fleet::{ModelName, plan::affinity},
    wire::members::Members,
};

/// Of a prompt, as many bytes decide which host's prompt cache may know it.
const PREFIX: usize = 1024;
/// The options that make Ollama load a model anew (`server/sched.go`, `needsReload`); the first is what `/api/ps` tells.
const RUNNER_OPTIONS: [&str; 7] =
    ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"];

/// What decides where a request goes.
#[derive(Debug)]
pub(crate) struct RoutingKey {
    /// The model that a host must have; `None` when any host will do.
    pub(crate) model: Option<ModelName>,
    /// What takes a slot there; `None` for what asks no model.
    pub(crate) work: Option<Work>,
    /// The runner options, in a canonical form.
    pub(crate) options: String,
    pub(crate) affinity: u64,
    /// Hashes of who asks and of the session; empty without one.
    pub(crate) caller: String,
    pub(crate) session: String,
}

impl RoutingKey {
    /// `session` is empty for none; `prompt` is whatever a host's prompt cache may know the beginning of.
    pub(crate) fn new(
        caller: &CallerId,
        session: &str,
        work: Option<Work>,
        model: Option<&str>,
        request: Option<&Members<'_>>,
        prompt: &[u8],
    ) -> Self {
        let caller = format!("{:016x}", affinity(caller.as_bytes()));
        let known = match session {
            "" => affinity(prompt.get(..PREFIX).unwrap_or(prompt)),
            session => affinity([caller.as_bytes(), session.as_bytes()].concat().as_slice()),
        };
        Self {
            // What is no name goes upstream all the same: Ollama says best what is wrong with it.
            model: model.and_then(ModelName::parse),
            work: work.filter(|_| model.is_some()),
            options: request.map(runner_options).unwrap_or_default(),
            affinity: known,
            session: if session.is_empty() { String::new() } else { format!("{known:016x}") },
            caller,
        }
    }

    /// The key of the lane in which it takes a slot; `None` when it takes none.
    pub(crate) fn lane(&self) -> Option<String> {
        Some(self.model.as_ref()?.lane(self.work?))
    }
}

/// The runner options of a request, as `name=value`, parted by commas.
fn runner_options(request: &Members<'_>) -> String {
    let options = request.object("options");
    let named = RUNNER_OPTIONS.iter().filter_map(|name| Some((*name, options.as_ref()?.raw(name)?)));
    let shift = request.raw("shift").map(|shift| ("shift", shift));
    let text = |(name, value): (&str, &RawValue)| format!("{name}={}", value.get());
    named.chain(shift).map(text).collect::<Vec<_>>().join(",")
}
