//! The relayed endpoints, each as a [`Question`]: Ollama's own API, and those of OpenAI and Anthropic that Ollama
//! offers.
//!
//! A body must never be serialised again: request and answer keep their bytes, and only a session's history is
//! inserted.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, header, request::Parts};
use percent_encoding::percent_decode_str;

use super::{
    Question, answer,
    conversation::{NewTurn, SessionState, session_in},
    prepare,
};
use crate::{
    api::{auth::CallerId, body, content_coding, endpoint::Endpoint, error::Error, memory_budget::HeldBytes},
    cache::{CacheKey, CacheModes, Delivery, KeyContext},
    fleet::ModelName,
    flight::Rendering,
    handlers::{HandlerResult, RequestBody},
    host::{Platform, Service},
    platform::Clock as _,
    request::RequestInfo,
    session::{Dialect, History, RequestedSession},
    upstream::{Reading, RoutingKey, UpstreamRequest},
    wire::{
        members::Members,
        multipart,
        pace::Pace,
        protocol::Protocol,
        request::{VALUES_LIMIT, has_more_values_than, text as request_text},
    },
};

/// The longest name of a model that is read, in bytes. Ollama's own are shorter, so a longer one is no name.
const NAME_LIMIT: usize = 1024;

/// Answers a request to a relayed endpoint.
pub(crate) async fn relay<P: Platform, B: RequestBody>(
    service: &Service<P>,
    endpoint: Endpoint,
    parts: &Parts,
    body: B,
    caller: &CallerId,
    request: &Arc<RequestInfo>,
) -> HandlerResult {
    let config = service.config();
    let session = session_in(&parts.headers)?;
    if !session.is_none() && endpoint.dialect().is_none() {
        return Err(Error::SessionUnsupported);
    }
    let mut held = service.account(caller);
    let limit = endpoint.body_limit(&config.access.body_limits);
    let body = if endpoint.method() != Method::POST {
        Bytes::new()
    } else if endpoint.unpacks_zstd() && content_coding::is_zstd(&parts.headers) {
        let window = service.account(caller);
        let (headers, body, fault) = content_coding::unpacked(&parts.headers, body, limit.bytes, window);
        fault.or(body::read(&headers, body, limit, &mut held, service).await)?
    } else if endpoint.takes_a_form() {
        // No other endpoint takes multipart bodies.
        let mut headers = parts.headers.clone();
        headers.remove(header::CONTENT_TYPE);
        body::read(&headers, body, limit, &mut held, service).await?
    } else {
        body::read(&parts.headers, body, limit, &mut held, service).await?
    };
    let text = if endpoint.takes_a_form() {
        body.clone()
    } else {
        let read = async |mut pace: Pace| request_text(&body, &mut pace).await;
        service.compute(body.len(), read).await
    };
    if text.as_ptr() != body.as_ptr() {
        // What is not UTF-8 is held a second time until the upstream request is made.
        held.grow_to(body.len().saturating_add(text.len()), service.now())?;
    }
    let parse = async |mut pace: Pace| {
        if endpoint.takes_a_form() {
            let content_type = parts.headers.get(header::CONTENT_TYPE);
            Ok(RelayedQuestion::of_form(endpoint, content_type, session, &body))
        } else {
            RelayedQuestion::parse(endpoint, parts.uri.path(), session, &body, &text, &mut pace).await
        }
    };
    let question = service.compute(body.len(), parse).await?;
    let mut notes = Box::default();
    let prepared = prepare(service, &parts.headers, caller, request, question, held, &mut notes).await;
    drop((body, text));
    Ok(answer(service, prepared, notes).await)
}

/// A request to a relayed endpoint.
struct RelayedQuestion<'a> {
    endpoint: Endpoint,
    /// The path, where it names the model.
    path: Option<String>,
    session: RequestedSession,
    body: &'a Bytes,
    /// The body in UTF-8, as Ollama reads it.
    text: &'a Bytes,
    /// The content type of a form; `None` for JSON.
    content_type: Option<HeaderValue>,
    /// `None` for a body that cannot be read. It goes upstream nevertheless, because Ollama's own error explains it
    /// best.
    members: Option<Members<'a>>,
    named_model: NamedModel<'a>,
    session_model: Option<String>,
    streams: bool,
}

/// What a request says of its model.
#[derive(Debug, PartialEq, Eq)]
enum NamedModel<'a> {
    /// Nothing. Ollama cannot tell an empty name from none.
    None,
    /// Something that is no name. Ollama refuses it.
    Unreadable,
    Name(Cow<'a, str>),
}

impl<'a> NamedModel<'a> {
    /// What the members of a request say. Where an endpoint knows the model as `name` as well, an empty `model` falls to it
    /// (`cmp.Or(req.Model, req.Name)`).
    fn of(members: &Members<'a>, endpoint: Endpoint) -> Self {
        let names: &[_] = if endpoint == Endpoint::OllamaShow { &["model", "name"] } else { &["model"] };
        let has_wrong_type = |name: &&str| {
            members.all(name).any(|value| !value.get().starts_with('"') && value.get() != "null")
        };
        if names.iter().any(has_wrong_type) {
            return Self::Unreadable;
        }
        let given = |name: &&str| members.string(name).filter(|name| !name.is_empty());
        match names.iter().find_map(given) {
            None => Self::None,
            Some(name) if name.len() > NAME_LIMIT => Self::Unreadable,
            Some(name) => Self::Name(name),
        }
    }
}

impl<'a> RelayedQuestion<'a> {
    /// Reads a body, and the path where it names the model.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a path that names no model, and [`Error::InvalidJson`] for a body that has more in it than any
    /// request, or that a session cannot continue.
    async fn parse(
        endpoint: Endpoint,
        path: &str,
        session: RequestedSession,
        body: &'a Bytes,
        text: &'a Bytes,
        pace: &mut Pace,
    ) -> Result<Self, Error> {
        let members = Members::of_request(text, pace).await?;
        if let (Some(members), false) = (&members, session.is_none()) {
            fits_session(endpoint, members, text, pace).await?;
        }
        let in_path = path.strip_prefix(Endpoint::OpenAiModel.path()).map(model_in_path).transpose()?;
        let path = in_path.as_ref().map(|name| [Endpoint::OpenAiModel.path(), name].concat());
        let named_model = match (in_path, &members) {
            (Some(name), _) => NamedModel::Name(Cow::Owned(name)),
            (None, Some(members)) => NamedModel::of(members, endpoint),
            (None, None) => NamedModel::Unreadable,
        };
        let asked = members.as_ref().and_then(|members| asked_stream(endpoint.protocol()?, members));
        let streams = endpoint.protocol().is_some() && asked.unwrap_or_else(|| endpoint.streams_by_default());
        Ok(Self {
            endpoint,
            path,
            session,
            body,
            text,
            content_type: None,
            members,
            named_model,
            session_model: None,
            streams,
        })
    }

    /// Reads a form, of which only the model is looked at. What is no form goes upstream nevertheless, because Ollama's own
    /// error explains it best.
    fn of_form(
        endpoint: Endpoint,
        content_type: Option<&HeaderValue>,
        session: RequestedSession,
        body: &'a Bytes,
    ) -> Self {
        let kind = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let named_model = match multipart::text(kind, body, "model") {
            Some(name) if name.len() > NAME_LIMIT => NamedModel::Unreadable,
            Some(name) if !name.is_empty() => NamedModel::Name(Cow::Owned(name)),
            _ => NamedModel::None,
        };
        Self {
            endpoint,
            path: None,
            session,
            body,
            text: body,
            content_type: content_type.cloned(),
            members: None,
            named_model,
            session_model: None,
            streams: false,
        }
    }
}

/// Whether a session can continue with a request.
///
/// # Errors
/// [`Error::InvalidJson`]
async fn fits_session(
    endpoint: Endpoint,
    members: &Members<'_>,
    text: &[u8],
    pace: &mut Pace,
) -> Result<(), Error> {
    let object = text.get(..members.end()).unwrap_or(text);
    if has_more_values_than(VALUES_LIMIT, object, pace).await {
        return Err(Error::InvalidJson(format!("it has more than {VALUES_LIMIT} values")));
    }
    // Ollama reads a second list of messages into the first, message by message, so that a history before one of them would
    // be mixed with the other. Its own endpoint takes the last.
    let is_mixed = endpoint.dialect() != Some(Dialect::Ollama) && members.all("messages").count() > 1;
    if is_mixed { Err(Error::InvalidJson("messages comes twice".to_owned())) } else { Ok(()) }
}

/// Whether a request asks for a stream; `None` where it says nothing. Ollama's types decide what a `null` behind it means
/// (`Stream` in `api/types.go`, `openai/openai.go`, `openai/responses.go` and `anthropic/anthropic.go`).
fn asked_stream(protocol: Protocol, members: &Members<'_>) -> Option<bool> {
    match protocol {
        Protocol::OllamaChat | Protocol::OllamaGenerate | Protocol::OpenAiResponse => {
            members.boolean("stream")
        }
        Protocol::OpenAiChat | Protocol::OpenAiCompletion | Protocol::AnthropicMessage => {
            members.flag("stream")
        }
    }
}

/// The name of a model in a path, decoded. The path upstream is made of it, so it must be a name, and lead nowhere else.
///
/// # Errors
/// [`Error::NotFound`]
fn model_in_path(segment: &str) -> Result<String, Error> {
    let name = percent_decode_str(segment).decode_utf8().map_err(|_| Error::NOT_FOUND)?;
    let name = name.trim();
    let leads_elsewhere = name.split('/').any(|part| matches!(part, "" | "." | ".."));
    // The letters of a model's name need no encoding in a path.
    if leads_elsewhere || ModelName::parse(name).is_none() {
        Err(Error::NOT_FOUND)
    } else {
        Ok(name.to_owned())
    }
}

impl Question for RelayedQuestion<'_> {
    /// The body with the history inserted; `None` if the body goes upstream as it came.
    type Asked = Option<Bytes>;

    fn size(&self) -> usize {
        self.body.len()
    }

    fn path(&self) -> &'static str {
        self.endpoint.path()
    }

    fn session(&self) -> &RequestedSession {
        &self.session
    }

    fn model(&self) -> Option<&str> {
        let named = match &self.named_model {
            NamedModel::None | NamedModel::Unreadable => None,
            NamedModel::Name(name) => Some(&**name),
        };
        self.session_model.as_deref().or(named)
    }

    fn takes_session_model(&self) -> bool {
        self.named_model == NamedModel::None
    }

    fn set_session_model(&mut self, model: String) {
        self.session_model = Some(model);
    }

    fn tells_cache_status(&self) -> bool {
        self.endpoint.asks_a_model()
    }

    fn is_covered(&self, modes: &CacheModes) -> bool {
        modes.of(self.model()).covers(Some(self.endpoint), self.members.as_ref())
    }

    fn delivery(&self) -> Delivery {
        Delivery::of(self.streams)
    }

    fn members(&self) -> Option<&Members<'_>> {
        self.members.as_ref()
    }

    fn dialect(&self) -> Option<Dialect> {
        self.endpoint.dialect()
    }

    async fn new_turn(&self, session: &SessionState, pace: &mut Pace) -> Option<NewTurn> {
        NewTurn::of(self.members.as_ref()?, self.dialect()?, session.awaits_results(), pace).await
    }

    async fn asked(&self, turn: Option<&NewTurn>, history: &History<'_>, pace: &mut Pace) -> Option<Bytes> {
        Some(turn?.continuing(self.text, history, self.session_model.as_deref(), pace).await)
    }

    async fn key(
        &self,
        context: &KeyContext<'_>,
        spliced: &Option<Bytes>,
        pace: &mut Pace,
    ) -> Option<CacheKey> {
        let Some(body) = spliced else {
            return Some(CacheKey::of_request_in_steps(context, self.members.as_ref()?, pace).await);
        };
        let members = Members::of_request(body, pace).await.ok()??;
        Some(CacheKey::of_request_in_steps(context, &members, pace).await)
    }

    fn upstream(&self, caller: &CallerId, spliced: Option<Bytes>, reading: Reading) -> UpstreamRequest {
        let (endpoint, members) = (self.endpoint, self.members.as_ref());
        let model = self.model();
        UpstreamRequest {
            routing_key: RoutingKey::new(caller, self.session.id(), endpoint.work(), model, members),
            method: endpoint.method(),
            path: self.path.clone().map_or_else(|| Cow::Borrowed(endpoint.path()), Cow::Owned),
            body: spliced.unwrap_or_else(|| self.body.clone()),
            content_type: self.content_type.clone(),
            model: model.map(str::to_owned),
            protocol: endpoint.protocol(),
            streams: self.streams,
            reading,
            held: HeldBytes::default(),
        }
    }

    fn rendering(&self) -> Rendering {
        Rendering::Unchanged
    }
}

#[cfg(test)]
mod go_reading;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pace::at_once;

    fn parsed<'a>(
        endpoint: Endpoint,
        path: &str,
        session: RequestedSession,
        body: &'a Bytes,
    ) -> Result<RelayedQuestion<'a>, Error> {
        at_once(RelayedQuestion::parse(endpoint, path, session, body, body, &mut Pace::unbroken()))
    }

    #[test]
    fn a_model_is_read_however_the_request_spells_it() {
        for body in [
            r#"{"model":"llama3.2"}"#,
            r#"{"model":"llama3.2","model":null}"#,
            r#"{"MODEL":null,"model":" Llama3.2 "}"#,
            r#"{"model":"x","model":"llama3.2:local"}"#,
            r#"{"model":"llama3.2:latest:LOCAL","Model":null}"#,
        ] {
            let body = Bytes::from_static(body.as_bytes());
            let (endpoint, session) = (Endpoint::OllamaChat, RequestedSession::None);
            let question = parsed(endpoint, "/api/chat", session, &body).unwrap();
            let request = question.upstream(&CallerId::public(), None, Reading::AsSent);
            let lane = ModelName::parse("llama3.2").unwrap().lane(endpoint.work().unwrap());
            assert_eq!(request.routing_key.lane(), Some(lane), "{body:?}");
            assert_eq!(request.body, body);
        }
    }

    #[test]
    fn a_null_behind_stream_is_read_as_the_endpoint_reads_it() {
        for (endpoint, body, streams) in [
            (Endpoint::OllamaChat, r#"{"stream":true,"stream":null}"#, true),
            (Endpoint::OllamaChat, r#"{"stream":false,"stream":null}"#, true),
            (Endpoint::OllamaChat, r#"{"stream":null,"stream":false}"#, false),
            (Endpoint::OpenAiChat, r#"{"stream":true,"stream":null}"#, true),
            (Endpoint::OpenAiChat, r#"{"stream":false,"stream":null}"#, false),
            (Endpoint::OpenAiResponses, r#"{"stream":true,"stream":null}"#, false),
            (Endpoint::AnthropicMessages, r#"{"stream":true,"Stream":null}"#, true),
        ] {
            let body = Bytes::from_static(body.as_bytes());
            let question = parsed(endpoint, "", RequestedSession::None, &body).unwrap();
            assert_eq!(question.delivery(), Delivery::of(streams), "{endpoint:?} {body:?}");
        }
    }

    #[test]
    fn a_session_refuses_two_lists_of_messages_where_ollama_would_mix_them() {
        let once = r#"{"model":"m","messages":[{"role":"user","content":"a"}]}"#;
        let twice = r#"{"model":"m","messages":[{"role":"assistant","content":"b"}],"Messages":[{"role":"user","content":"a"}]}"#;
        for (endpoint, body, is_taken) in [
            (Endpoint::OpenAiChat, once, true),
            (Endpoint::OllamaChat, twice, true),
            (Endpoint::OpenAiChat, twice, false),
            (Endpoint::AnthropicMessages, twice, false),
        ] {
            let body = Bytes::from_static(body.as_bytes());
            let parse = |session| parsed(endpoint, "", session, &body).is_ok();
            assert_eq!(parse(RequestedSession::of("s")), is_taken, "{endpoint:?} {body:?}");
            assert!(parse(RequestedSession::None), "without a session it is Ollama's to read");
        }
    }

    #[test]
    fn a_path_names_a_model_however_it_is_encoded_and_leads_nowhere_else() {
        for (segment, expected) in [
            ("llama3.2", Some("llama3.2")),
            ("llama3.2%3A1b", Some("llama3.2:1b")),
            ("me/mine:1", Some("me/mine:1")),
            ("hf.co%2Fme%2Fmine", Some("hf.co/me/mine")),
            ("Llama3.2", Some("Llama3.2")),
            ("%20llama3.2:local%20", Some("llama3.2:local")),
            ("x/", None),
            ("..", None),
            ("%2e%2e/%2e%2e/x", None),
            ("a/../../me/mine", None),
            ("a/./me/mine", None),
            ("http://a/me/mine", None),
            ("a//b", None),
            ("a b", None),
            ("a%00b", None),
            ("%ff", None),
            ("a?b", None),
        ] {
            assert_eq!(model_in_path(segment).ok().as_deref(), expected, "{segment}");
        }
    }
}
