//! The routing key: what decides which host a request goes to, which is its model, its work, its caller and its session.
//!
//! Pure; it is made before the fleet is looked at.

use http::HeaderMap;

use crate::{
    api::{
        auth::{CallerId, Owner},
        endpoint::Work,
    },
    fleet::{
        ModelName, lane,
        plan::affinity,
        prefix::Prefixes,
        snapshot::{Flow, UNVERIFIED},
    },
    session::SessionId,
    wire::{members::Members, options::Options},
};

/// The headers in which agents name their sessions, the most telling first. They are hints: they decide nothing but which of
/// several hosts that are as good as another is asked.
const AGENT_SESSIONS: [&str; 4] =
    ["x-session-affinity", "x-claude-code-session-id", "x-session-id", "session_id"];
/// How many bytes of such a name count.
const AGENT_SESSION_LIMIT: usize = 256;
/// How many bytes of a body that is not read as a conversation name it.
const BEGINNING: usize = 1024;
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
    /// The hash of the session, else of what an agent calls its session, with the caller's; `None` without either.
    named: Option<u64>,
    /// The hash of the caller, behind [`UNVERIFIED`] where nobody verified it.
    pub(crate) caller: String,
    /// The hash of the session; empty without a session.
    pub(crate) session: String,
}

impl RoutingKey {
    /// The key of one request.
    pub(crate) fn new(
        caller: &CallerId,
        session: Option<&SessionId>,
        work: Option<Work>,
        model: Option<&str>,
        request: Option<&Members<'_>>,
    ) -> Self {
        let hash = format!("{:016x}", affinity(caller.as_bytes()));
        let named = session.map(|id| affinity([hash.as_bytes(), id.as_str().as_bytes()].concat().as_slice()));
        let mark = if caller.owner() == Owner::UNVERIFIED { UNVERIFIED } else { "" };
        let caller = [mark, &*hash].concat();
        Self {
            // An invalid name goes upstream as well, because Ollama's own error explains it best.
            model: model.and_then(ModelName::parse),
            work,
            options: request.map(runner_options).unwrap_or_default(),
            named,
            session: named.map(|named| format!("{named:016x}")).unwrap_or_default(),
            caller,
        }
    }

    /// Takes the session that an agent names in a header, where the request has no session of Paddock's. It is mixed with the
    /// caller, so that the name of one says nothing of another's.
    pub(crate) fn take_hint(&mut self, headers: &HeaderMap) {
        let value = AGENT_SESSIONS.into_iter().find_map(|name| headers.get(name));
        if let (None, Some(value)) = (self.named, value) {
            let value = value.as_bytes();
            let value = value.get(..AGENT_SESSION_LIMIT).unwrap_or(value);
            self.named = Some(affinity(&[self.caller.as_bytes(), b"\n", value].concat()));
        }
    }

    /// What names the conversation of a request with this body, and these beginnings where they could be read.
    pub(crate) fn affinity(&self, body: &[u8], prefixes: Option<&Prefixes>) -> u64 {
        self.named
            .or_else(|| prefixes.map(Prefixes::opening))
            .unwrap_or_else(|| affinity(body.get(..BEGINNING).unwrap_or(body)))
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

    #[test]
    fn the_name_of_an_agents_session_is_a_hint_and_mixed_with_its_caller() {
        let key = |caller: &CallerId, session: Option<&SessionId>, name: &'static str, value: String| {
            let mut key = RoutingKey::new(caller, session, Some(Work::Answer), Some("m"), None);
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            key.take_hint(&headers);
            key
        };
        let (one, other) = (CallerId::public(), CallerId::of_key(b"other"));
        let named = |caller, name, value: &str| key(caller, None, name, value.to_owned());
        let plain = RoutingKey::new(&one, None, Some(Work::Answer), Some("m"), None);
        for name in AGENT_SESSIONS {
            let first = named(&one, name, "a");
            let affinity = first.affinity(b"1", None);
            assert_eq!(affinity, named(&one, name, "a").affinity(b"2", None), "{name}");
            assert_ne!(affinity, named(&one, name, "b").affinity(b"1", None), "{name}");
            assert_ne!(affinity, named(&other, name, "a").affinity(b"1", None), "{name}");
            assert_eq!((&first.session, &first.caller), (&plain.session, &plain.caller), "{name}");
            let long = |end: &str| named(&one, name, &("x".repeat(300) + end)).affinity(b"1", None);
            assert_eq!(long("a"), long("b"), "{name}");
        }
        let id = SessionId::parse("mine").unwrap();
        let kept = |value: &str| key(&one, Some(&id), "session_id", value.to_owned()).affinity(b"", None);
        assert_eq!(kept("a"), kept("b"), "a session of Paddock's goes before");
        assert_ne!(
            named(&one, "other", "a").affinity(b"1", None),
            named(&one, "other", "a").affinity(b"2", None)
        );
    }
}
