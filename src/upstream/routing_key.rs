//! The routing key: what decides which host a request goes to, which is its model, its work, its caller and its session.
//!
//! Pure; it is made before the fleet is looked at.

use serde_json::value::RawValue;

use crate::{
    api::{auth::CallerId, endpoint::Work},
    fleet::{ModelName, plan::affinity, snapshot::Flow},
    session::SessionId,
    wire::members::Members,
};

/// How many bytes of a prompt decide which host's prompt cache may know it.
const PREFIX: usize = 1024;
/// The options that make Ollama load a model again (`server/sched.go`, `needsReload`). `/api/ps` reports the first of them.
const RUNNER_OPTIONS: [&str; 7] =
    ["num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"];

/// What decides which host a request goes to.
#[derive(Debug)]
pub(crate) struct RoutingKey {
    /// The model that a host must have; `None` when any host will do.
    pub(crate) model: Option<ModelName>,
    /// The work for which the request takes a slot; `None` where no model works.
    pub(crate) work: Option<Work>,
    /// The runner options, in a canonical form.
    pub(crate) options: String,
    pub(crate) affinity: u64,
    /// The hash of the caller.
    pub(crate) caller: String,
    /// The hash of the session; empty without a session.
    pub(crate) session: String,
}

impl RoutingKey {
    /// The key of one request. `prompt` is the text whose beginning a host's prompt cache may
    /// know.
    pub(crate) fn new(
        caller: &CallerId,
        session: Option<&SessionId>,
        work: Option<Work>,
        model: Option<&str>,
        request: Option<&Members<'_>>,
        prompt: &[u8],
    ) -> Self {
        let caller = format!("{:016x}", affinity(caller.as_bytes()));
        let known = match session {
            None => affinity(prompt.get(..PREFIX).unwrap_or(prompt)),
            Some(id) => affinity([caller.as_bytes(), id.as_str().as_bytes()].concat().as_slice()),
        };
        Self {
            // An invalid name goes upstream as well, because Ollama's own error explains it best.
            model: model.and_then(ModelName::parse),
            work: work.filter(|_| model.is_some()),
            options: request.map(runner_options).unwrap_or_default(),
            affinity: known,
            session: session.map(|_| format!("{known:016x}")).unwrap_or_default(),
            caller,
        }
    }

    /// The flow that the queue takes turns by.
    pub(crate) fn flow(&self) -> Flow<'_> {
        Flow { caller: &self.caller, session: &self.session }
    }

    /// The key of the lane in which the request takes a slot; `None` when it takes none.
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
