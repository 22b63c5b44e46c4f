//! The session of a request: the stored turns, the history that goes upstream, and the new turn.
//!
//! A request that brings its own history is left as it came: no history may be put before it, and it is not stored.
//! Tool results are not a history if the session holds the tool calls.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use crate::{
    api::error::Error,
    fleet::{ModelName, local::Inventories},
    flight::SessionCommit,
    host::{Platform, Service},
    request::{StoreAccess, StoreReply},
    session::{
        Dialect, History, HistoryLimits, RawMessage, RequestedSession, Session, SessionKey, Span, Turn,
        window::{self, Rate},
    },
    upstream::probe,
    wire::{
        dialect::{MessageRole, Weight, role, text, text_in},
        members::{Members, insert},
        ollama::OllamaMessage,
        pace::Pace,
    },
};

/// The header that names the session of a relayed request.
pub(crate) const X_PADDOCK_SESSION: HeaderName = HeaderName::from_static("x-paddock-session");

/// How many turns are read at once to reach the question that belongs to tool calls.
const EXCHANGE: Span<'static> = Span { before: None, turns: 100, bytes: 256 << 10 };

/// The state of a request's session.
#[derive(Debug)]
pub(crate) enum SessionState {
    /// The request names no session.
    None,
    /// The stored session, empty for a new one, and the inventories of the hosts, which tell the context windows of the
    /// models.
    Loaded(SessionKey, Box<Session>, Arc<Inventories>),
    /// The store is down. No turn is stored then, because a turn without the history before it would falsify the
    /// session.
    Unavailable,
}

impl SessionState {
    /// Reads the session from the store.
    pub(crate) async fn fetch<P: Platform>(
        service: &Service<P>,
        store: &StoreAccess,
        key: &SessionKey,
    ) -> StoreReply<Option<Session>> {
        store.ask_session(service, key, service.config().sessions.history.span()).await
    }

    /// The state from the reply of [`SessionState::fetch`]; `key` and `session` are `None` if the request names no
    /// session.
    ///
    /// # Errors
    /// [`Error::SessionUnavailable`] when the store is down and sessions are required.
    pub(crate) fn loaded<P: Platform>(
        service: &Service<P>,
        store: &StoreAccess,
        key: Option<SessionKey>,
        session: Option<StoreReply<Option<Session>>>,
    ) -> Result<Self, Error> {
        let Some((key, session)) = key.zip(session) else { return Ok(Self::None) };
        match store.settle(service, session) {
            Some(session) => {
                Ok(Self::Loaded(key, Box::new(session.unwrap_or_default()), service.fleet().inventories()))
            }
            None if service.config().sessions.is_required => Err(Error::SessionUnavailable),
            None => Ok(Self::Unavailable),
        }
    }

    /// The number of the turn in the session's life, from 1, if it is among the newest turns, which were read.
    pub(crate) fn number_of(&self, id: &str) -> Option<usize> {
        let Self::Loaded(_, session, _) = self else { return None };
        let place = session.turns.iter().position(|turn| turn.id == id)?;
        Some(session.skipped + place + 1)
    }

    /// The number of the turn that comes next.
    pub(crate) fn next_number(&self) -> Option<usize> {
        let Self::Loaded(_, session, _) = self else { return None };
        Some(session.skipped + session.turns.len() + 1)
    }

    /// Whether the newest turn ended with tool calls whose results are missing.
    pub(crate) fn awaits_results(&self) -> bool {
        match self {
            Self::Loaded(_, session, _) => session.awaits_results(),
            Self::None | Self::Unavailable => false,
        }
    }

    /// Reads older turns until the question that led to the newest tool calls is among them.
    pub(crate) async fn reach_question<P: Platform>(&mut self, service: &Service<P>, store: &StoreAccess) {
        let Self::Loaded(key, session, _) = self else { return };
        while let Some(oldest) = session.unread_exchange() {
            let span = Span { before: Some(&oldest.id), ..EXCHANGE };
            let earlier = store.ask_session(service, key, span).await;
            let earlier = store.settle(service, earlier).flatten();
            let Some(earlier) = earlier.filter(|earlier| !earlier.turns.is_empty()) else { return };
            session.prepend(earlier);
        }
    }

    /// The session's model, for requests that name none.
    pub(crate) fn model(&self) -> Option<&str> {
        match self {
            Self::Loaded(_, session, _) => session.head.model.as_deref(),
            Self::None | Self::Unavailable => None,
        }
    }

    /// Asks the hosts for the model's context window if the window decides how much history fits.
    pub(crate) async fn learn_window<P: Platform>(
        &mut self,
        service: &Service<P>,
        request: Option<&Members<'_>>,
        own: Weight,
        dialect: Option<Dialect>,
        model: Option<&str>,
    ) {
        let Self::Loaded(_, session, inventories) = self else { return };
        let Some(((request, dialect), name)) = request.zip(dialect).zip(model.and_then(ModelName::parse))
        else {
            return;
        };
        let rate = Rate::of(&session.turns);
        let Some(room) = window::certain_room(request, own, dialect, &name, inventories, rate) else {
            return;
        };
        let left_out = |tokens| {
            let limits = HistoryLimits { tokens, ..service.config().sessions.history };
            History::new(session, limits).left_out
        };
        if left_out(room) > left_out(usize::MAX) {
            probe::learn_contexts(service, &name).await;
            *inventories = service.fleet().inventories();
        }
    }

    /// The history that goes before a request for `model`, within the limits and the model's context window.
    /// `own` is what the request itself weighs; `continues` says that it brings results of the newest turn's tool calls.
    pub(crate) fn history(
        &self,
        limits: HistoryLimits,
        continues: bool,
        request: Option<&Members<'_>>,
        own: Weight,
        dialect: Option<Dialect>,
        model: Option<&str>,
    ) -> History<'_> {
        match (self, request, dialect) {
            (Self::Loaded(_, session, inventories), Some(request), Some(dialect)) => {
                let rate = Rate::of(&session.turns);
                let tokens = window::room(request, own, dialect, model, inventories, rate);
                let limits = HistoryLimits { tokens, ..limits };
                if continues { History::with_calls(session, limits) } else { History::new(session, limits) }
            }
            (Self::None | Self::Unavailable | Self::Loaded(..), _, _) => History::default(),
        }
    }

    /// Whether the store returned the session, or said that it is new.
    pub(crate) fn is_loaded(&self) -> bool {
        matches!(self, Self::Loaded(..))
    }

    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable)
    }

    /// The turn to store once there is an answer.
    pub(crate) async fn commit(
        &self,
        turn: NewTurn,
        history: &History<'_>,
        pace: &mut Pace,
    ) -> Option<SessionCommit> {
        let Self::Loaded(key, session, _) = self else { return None };
        let NewTurn { dialect, system, messages, .. } = turn;
        let told = system.as_deref().or(history.system).map(Weight::of_text);
        let mut prompt = told.into_iter().chain(history.turns.iter().map(Turn::weight)).sum();
        for message in &messages {
            pace.count(message.len()).await;
            prompt = [prompt, Weight::of(message.as_raw())].into_iter().sum();
        }
        let system = history.system_to_store(system);
        let (key, generation) = (key.clone(), session.generation);
        Some(SessionCommit { key, generation, id: None, dialect, system, messages, prompt })
    }
}

/// The messages that a request without its own history adds to its session.
#[derive(Debug)]
pub(crate) struct NewTurn {
    dialect: Dialect,
    /// The system message of the request.
    system: Option<String>,
    /// The messages except system messages.
    messages: Vec<RawMessage>,
    /// The offset of the first message in the body.
    at: usize,
    /// The offset of the end of the body's object.
    end: usize,
    /// Whether the request has a member for the system message beside its messages, even if it says nothing.
    has_system_member: bool,
    /// Whether the request has a member for the model, even if it names none.
    has_model_member: bool,
    /// Whether the messages begin with results of tool calls in the session.
    pub(crate) continues: bool,
}

impl NewTurn {
    /// The turn of a single message.
    pub(crate) fn of_message(dialect: Dialect, system: Option<String>, message: RawMessage) -> Self {
        Self {
            dialect,
            system,
            messages: vec![message],
            at: 0,
            end: 0,
            has_system_member: false,
            has_model_member: false,
            continues: false,
        }
    }

    /// The turn of a relayed request. `None` if the request brings its own history, or cannot be read: then it goes
    /// upstream as it came. Tool results are a history unless the session awaits them.
    pub(crate) async fn of(
        members: &Members<'_>,
        dialect: Dialect,
        awaits_results: bool,
        pace: &mut Pace,
    ) -> Option<Self> {
        if members.raw("previous_response_id").is_some() {
            return None;
        }
        let (mut system, mut messages) = (Vec::new(), Vec::new());
        // The role of the first message that is not the system's.
        let mut first = None;
        for message in members.array_in_steps("messages", pace).await? {
            pace.count(message.get().len()).await;
            let role = role(message);
            if role == MessageRole::System {
                system.push(message);
                continue;
            }
            let first = *first.get_or_insert(role);
            let continues = awaits_results && first == MessageRole::Tool;
            if role == MessageRole::Assistant || (role == MessageRole::Tool && !continues) {
                return None;
            }
            messages.push(message);
        }
        let continues = awaits_results && first? == MessageRole::Tool;
        let at = members.offset(messages.first()?)?;
        let top = members.raw("system").filter(|_| dialect == Dialect::Anthropic);
        let mut texts = Vec::new();
        for message in system {
            pace.count(message.get().len()).await;
            texts.push(text_in(dialect, message));
        }
        texts.extend(top.map(text));
        let system = Some(texts.join("\n")).filter(|system| !system.is_empty());
        let mut kept = Vec::with_capacity(messages.len());
        for message in messages {
            pace.count(message.get().len()).await;
            kept.push(RawMessage::from_raw(message));
        }
        let messages = kept;
        Some(Self {
            dialect,
            system,
            messages,
            at,
            end: members.end(),
            has_system_member: members.has("system"),
            has_model_member: members.has("model"),
            continues,
        })
    }

    /// The body with the history inserted before its messages, and with the session's model if it names none. All other
    /// bytes stay as they came.
    pub(crate) async fn continuing(
        &self,
        body: &Bytes,
        history: &History<'_>,
        model: Option<&str>,
        pace: &mut Pace,
    ) -> Bytes {
        let mut ahead = Vec::new();
        let mut beginning = Vec::new();
        let mut end = Vec::new();
        match model {
            // Of two members Ollama reads the last.
            Some(model) if self.has_model_member => end.extend([b",", &*member("model", model)].concat()),
            Some(model) => beginning.extend([&*member("model", model), b","].concat()),
            None => {}
        }
        if let (Some(content), None) = (history.system, &self.system) {
            match self.dialect {
                Dialect::Ollama | Dialect::OpenAi => {
                    let system = OllamaMessage { role: "system", content, images: &[] }.message();
                    ahead.extend([system.as_str().as_bytes(), b","].concat());
                }
                // Anthropic's system message is a member beside the messages. It goes behind one of the request that says
                // nothing.
                Dialect::Anthropic if self.has_system_member => {
                    end.extend([b",", &*member("system", content)].concat());
                }
                Dialect::Anthropic => beginning.extend([&*member("system", content), b","].concat()),
            }
        }
        for message in history.messages(self.dialect) {
            ahead.extend([message.as_str().as_bytes(), b","].concat());
        }
        let start = body.iter().position(|byte| *byte == b'{').map_or(0, |brace| brace + 1);
        insert(body, vec![(start, &*beginning), (self.at, &*ahead), (self.end, &*end)], pace).await
    }
}

/// A JSON member.
fn member(name: &str, text: &str) -> Vec<u8> {
    let text = serde_json::to_vec(text).unwrap_or_default();
    [b"\"", name.as_bytes(), b"\":", &*text].concat()
}

/// The session that a request names in its header.
///
/// # Errors
/// [`Error::InvalidSessionId`] for a header that is not visible ASCII; such a request is refused before its body is
/// read.
pub(crate) fn session_in(headers: &HeaderMap) -> Result<RequestedSession, Error> {
    let Some(id) = headers.get(X_PADDOCK_SESSION) else { return Ok(RequestedSession::None) };
    id.to_str().map(RequestedSession::of).map_err(|_| Error::InvalidSessionId)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::pace::at_once;

    fn new_turn(members: &Members<'_>, dialect: Dialect, awaits_results: bool) -> Option<NewTurn> {
        at_once(NewTurn::of(members, dialect, awaits_results, &mut Pace::unbroken()))
    }

    fn continuing(turn: &NewTurn, body: &Bytes, history: &History<'_>, model: Option<&str>) -> Bytes {
        at_once(turn.continuing(body, history, model, &mut Pace::unbroken()))
    }

    const BUDGET: HistoryLimits = HistoryLimits { messages: 10, bytes: 10_000, tokens: 10_000 };

    fn turn(dialect: Dialect, system: Option<&str>) -> Turn {
        let said = |role, content| OllamaMessage { role, content, images: &[] }.message();
        Turn {
            id: "1".into(),
            dialect,
            system: system.map(str::to_owned),
            messages: vec![said("user", "a"), said("assistant", "b")],
            prompt: None,
        }
    }

    #[track_caller]
    fn check(dialect: Dialect, body: &str, turns: &[Turn], expected: &Value) {
        let body = Bytes::from(body.to_owned());
        let members = Members::parse(&body).unwrap();
        let fresh = new_turn(&members, dialect, false).unwrap();
        let session = Session { turns: turns.to_vec(), ..Session::default() };
        let spliced = continuing(&fresh, &body, &History::new(&session, BUDGET), None);
        assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), *expected);
    }

    #[test]
    fn the_history_goes_ahead_of_the_messages_and_behind_the_system_message() {
        let asked = |messages: Value| json!({"model": "m", "messages": messages});
        let (a, b, c) = (
            json!({"role": "user", "content": "a"}),
            json!({"role": "assistant", "content": "b"}),
            json!({"role": "user", "content": "c"}),
        );
        let (old, new) =
            (json!({"role": "system", "content": "old"}), json!({"role": "system", "content": "new"}));
        for dialect in [Dialect::Ollama, Dialect::OpenAi] {
            let turns = [turn(dialect, Some("old"))];
            check(dialect, &asked(json!([c])).to_string(), &turns, &asked(json!([old, a, b, c])));
            check(dialect, &asked(json!([new, c])).to_string(), &turns, &asked(json!([new, a, b, c])));
            check(dialect, &asked(json!([c])).to_string(), &[], &asked(json!([c])));
        }
        let turns = [turn(Dialect::Anthropic, Some("old"))];
        check(
            Dialect::Anthropic,
            &asked(json!([c])).to_string(),
            &turns,
            &json!({"system": "old", "model": "m", "messages": [a, b, c]}),
        );
        for nothing in ["null", "\"\"", "[]"] {
            check(
                Dialect::Anthropic,
                &format!(
                    r#"{{"System":"","system":{nothing},"messages":[{{"role":"user","content":"c"}}]}} "#
                ),
                &turns,
                &json!({"System": "", "system": "old", "messages": [a, b, c]}),
            );
        }
        check(
            Dialect::Anthropic,
            r#"{"system":[{"type":"text","text":"new"}],"messages":[{"role":"user","content":"c"}]}"#,
            &turns,
            &json!({"system": [{"type": "text", "text": "new"}], "messages": [a, b, c]}),
        );
    }

    #[test]
    fn the_sessions_model_goes_first_where_the_request_names_none() {
        let body = Bytes::from_static(br#"{ "messages":[{"role":"user","content":"c"}]}"#);
        let members = Members::parse(&body).unwrap();
        let fresh = new_turn(&members, Dialect::Anthropic, false).unwrap();
        let session = Session { turns: vec![turn(Dialect::Anthropic, Some("old"))], ..Session::default() };
        let spliced = continuing(
            &fresh,
            &body,
            &History::new(&session, HistoryLimits { messages: 1, ..BUDGET }),
            Some("a\"b"),
        );
        let expected = br#"{"model":"a\"b","system":"old", "messages":[{"role":"user","content":"c"}]}"#;
        assert_eq!(spliced, expected.as_slice());
    }

    #[test]
    fn what_follows_the_object_stays_behind_what_is_inserted() {
        let body = Bytes::from_static(
            br#"{"model":"","system":null,"messages":[{"role":"user","content":"c"}]}}{"model":"x"}"#,
        );
        let members = at_once(Members::of_request(&body, &mut Pace::unbroken())).unwrap().unwrap();
        let fresh = new_turn(&members, Dialect::Anthropic, false).unwrap();
        let session = Session { turns: vec![turn(Dialect::Anthropic, Some("old"))], ..Session::default() };
        let limits = HistoryLimits { messages: 1, ..BUDGET };
        let spliced = continuing(&fresh, &body, &History::new(&session, limits), Some("m"));
        let expected = br#"{"model":"","system":null,"messages":[{"role":"user","content":"c"}],"model":"m","system":"old"}}{"model":"x"}"#;
        assert_eq!(spliced, expected.as_slice());
    }

    #[test]
    fn whoever_brings_a_history_keeps_it() {
        for body in [
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}"#,
            r#"{"messages":[{"role":"tool","content":"a"}]}"#,
            r#"{"previous_response_id":"x","messages":[{"role":"user","content":"a"}]}"#,
            r#"{"messages":[]}"#,
            r#"{"messages":[{"role":"system","content":"a"}]}"#,
            r#"{"model":"m"}"#,
        ] {
            let body = Bytes::from_static(body.as_bytes());
            let members = Members::parse(&body).unwrap();
            assert!(new_turn(&members, Dialect::OpenAi, false).is_none(), "{body:?}");
        }
    }

    #[test]
    fn results_of_calls_that_the_session_has_continue_it() {
        for (dialect, body, expected) in [
            (Dialect::Ollama, r#"{"messages":[{"role":"tool","tool_name":"f","content":"a"}]}"#, true),
            (
                Dialect::OpenAi,
                r#"{"messages":[{"role":"system","content":"s"},{"role":"tool","tool_call_id":"c","content":"a"},{"role":"user","content":"b"}]}"#,
                true,
            ),
            (
                Dialect::Anthropic,
                r#"{"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":"a"}]}]}"#,
                true,
            ),
            (
                Dialect::OpenAi,
                r#"{"messages":[{"role":"user","content":"b"},{"role":"tool","tool_call_id":"c","content":"a"}]}"#,
                false,
            ),
            (
                Dialect::OpenAi,
                r#"{"messages":[{"role":"tool","tool_call_id":"c","content":"a"},{"role":"assistant","content":"b"}]}"#,
                false,
            ),
        ] {
            let body = Bytes::from_static(body.as_bytes());
            let members = Members::parse(&body).unwrap();
            let fresh = new_turn(&members, dialect, true);
            assert_eq!(fresh.is_some_and(|fresh| fresh.continues), expected, "{body:?}");
            assert!(new_turn(&members, dialect, false).is_none(), "{body:?}");
        }
        let question = Bytes::from_static(br#"{"messages":[{"role":"user","content":"b"}]}"#);
        let members = Members::parse(&question).unwrap();
        let fresh = new_turn(&members, Dialect::Ollama, true).unwrap();
        assert!(!fresh.continues, "whoever asks something else continues no call");
    }

    #[test]
    fn without_a_history_every_byte_stays_as_it_came() {
        let body = Bytes::from_static(
            b" { \"messages\" : [ {\"role\":\"user\",  \"content\":\"\\u00e9\"} ], \"x\":1.50 }",
        );
        let members = Members::parse(&body).unwrap();
        let fresh = new_turn(&members, Dialect::Ollama, false).unwrap();
        assert_eq!(continuing(&fresh, &body, &History::default(), None), body);
    }
}
