//! The routing key: what decides which host a request goes to, which is its model, its work, its caller and its session.
//!
//! Pure; it is made before the fleet is looked at.

use crate::{
    api::{
        auth::{CallerId, Owner},
        endpoint::Work,
    },
    fleet::{
        ModelName, lane,
        plan::affinity,
        snapshot::{Flow, UNVERIFIED},
    },
    session::SessionId,
    wire::{members::Members, options::Options},
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
    /// The hash of the caller, behind [`UNVERIFIED`] where nobody verified it.
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
        let hash = format!("{:016x}", affinity(caller.as_bytes()));
        let known = match session {
            None => affinity(prompt.get(..PREFIX).unwrap_or(prompt)),
            Some(id) => affinity([hash.as_bytes(), id.as_str().as_bytes()].concat().as_slice()),
        };
        let mark = if caller.owner() == Owner::UNVERIFIED { UNVERIFIED } else { "" };
        let caller = [mark, &*hash].concat();
        Self {
            // An invalid name goes upstream as well, because Ollama's own error explains it best.
            model: model.and_then(ModelName::parse),
            work,
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

    /// The key of the lane in which the request takes a slot; `None` when it takes none. A request that asks a model and
    /// names none that can be read takes one as well.
    pub(crate) fn lane(&self) -> Option<String> {
        Some(lane(self.model.as_ref(), self.work?))
    }
}

/// The runner options of a request, as `name=value`, parted by commas. Ollama reads them as whole numbers and flags, and so
/// does this: two spellings of one value are one runner, and nothing that a client wrote is kept as text.
fn runner_options(request: &Members<'_>) -> String {
    let options = Options::of(request);
    let value = |name: &&str| {
        let flag = options.flag(name).map(|flag| format!("{name}={flag}"));
        flag.or_else(|| options.whole(name).map(|number| format!("{name}={number}")))
    };
    let shift = request.boolean("shift").map(|shift| format!("shift={shift}"));
    RUNNER_OPTIONS.iter().filter_map(value).chain(shift).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_options_are_numbers_and_flags_however_they_are_written() {
        let digits = "9".repeat(1000);
        for (body, expected) in [
            (r#"{"options":{"num_ctx":2048}}"#, "num_ctx=2048"),
            (r#"{"options":{"num_ctx":2048.0}}"#, "num_ctx=2048"),
            (r#"{"options":{"num_ctx":2.048e3}}"#, "num_ctx=2048"),
            (r#"{"options":{"num_ctx":2048},"options":{"num_gpu":1}}"#, "num_ctx=2048,num_gpu=1"),
            (
                r#"{"options":{"num_gpu":-1,"num_ctx":2048.9,"use_mmap":false}}"#,
                "num_ctx=2048,num_gpu=-1,use_mmap=false",
            ),
            (r#"{"options":{"num_ctx":"2048"}}"#, ""),
            (r#"{"options":{"num_ctx":null,"num_thread":[1]},"shift":true}"#, "shift=true"),
            (r#"{"options":{"temperature":1},"shift":"x"}"#, ""),
            (r#"{"options":[]}"#, ""),
            ("{}", ""),
        ] {
            assert_eq!(runner_options(&Members::parse(body.as_bytes()).unwrap()), expected, "{body}");
        }
        let long = format!("{{\"options\":{{\"num_ctx\":{digits}}}}}");
        assert_eq!(
            runner_options(&Members::parse(long.as_bytes()).unwrap()),
            format!("num_ctx={}", i64::MAX)
        );
    }
}
