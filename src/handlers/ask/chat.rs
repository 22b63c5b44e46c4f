//! `POST /chat`: our own endpoint, as a [`Question`].
//!
//! A field of the request that may change the answer must be in the cache key.

mod request;

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::{
    Question, answer,
    conversation::{NewTurn, SessionState, session_in},
    prepare,
};
use crate::{
    api::{auth::CallerId, body, endpoint::Work, error::Error, memory_budget::HeldBytes},
    cache::{CacheKey, CacheModes, Chat, Delivery, KeyContext},
    flight::{Pieces, Rendering},
    handlers::{HandlerResult, RequestBody},
    host::{Platform, Service},
    platform::Clock as _,
    request::RequestInfo,
    session::{Dialect, History, RawMessage, RequestedSession, SessionId},
    upstream::{Reading, RoutingKey, UpstreamRequest},
    wire::{
        framer::Framing,
        members::Members,
        ollama::{OllamaChatRequest, OllamaMessage},
        pace::Pace,
        protocol::Protocol,
    },
};
use request::ChatRequest;

const PATH: &str = "/chat";

/// Answers `POST /chat`.
pub(crate) async fn chat<P: Platform, B: RequestBody>(
    service: &Service<P>,
    headers: &HeaderMap,
    body: B,
    caller: &CallerId,
    request: &Arc<RequestInfo>,
) -> HandlerResult {
    let config = service.config();
    let mut held = service.account(caller);
    let body = body::read(headers, body, config.access.body_limits.chat, &mut held, service).await?;
    let parse = async |mut pace: Pace| {
        ChatQuestion::parse(&body, headers, &config.fleet.default_model, &mut pace).await
    };
    let question = service.compute(body.len(), parse).await?;
    // Until the upstream request is made, the message is held beside the body that it is made of.
    held.grow_to(body.len().saturating_add(question.message.len()), service.now())?;
    let mut notes = Box::default();
    let prepared = prepare(service, headers, caller, request, question, held, &mut notes).await;
    drop(body);
    Ok(answer(service, prepared, notes).await)
}

/// A request to `/chat`.
struct ChatQuestion<'a> {
    /// The length of the body, in bytes.
    size: usize,
    request: ChatRequest<'a>,
    session: RequestedSession,
    members: Members<'a>,
    /// The user's message, with its images.
    message: RawMessage,
    /// The framing of a streamed reply; `None` for a whole reply.
    framing: Option<Framing>,
    default_model: &'a str,
    session_model: Option<String>,
}

impl<'a> ChatQuestion<'a> {
    /// Reads the body, and the headers that apply to it.
    ///
    /// # Errors
    /// The errors of [`ChatRequest::read`], and [`Error::InvalidSessionId`].
    async fn parse(
        body: &'a Bytes,
        headers: &HeaderMap,
        default_model: &'a str,
        pace: &mut Pace,
    ) -> Result<Self, Error> {
        let members = ChatRequest::members(body, pace).await?;
        // Texts and images are read and written in one go each.
        pace.count(body.len()).await;
        let request = ChatRequest::read(&members)?;
        let session = match RequestedSession::of(&request.session_id) {
            RequestedSession::None => session_in(headers)?,
            named @ (RequestedSession::Named(_) | RequestedSession::Invalid) => named,
        };
        let message =
            OllamaMessage { role: "user", content: &request.message, images: &request.images }.message();
        let framing = request.framing(headers);
        Ok(Self {
            size: body.len(),
            request,
            session,
            members,
            message,
            framing,
            default_model,
            session_model: None,
        })
    }
}

impl Question for ChatQuestion<'_> {
    /// The messages of the conversation.
    type Asked = Vec<RawMessage>;

    fn size(&self) -> usize {
        self.size
    }

    fn path(&self) -> &'static str {
        PATH
    }

    fn session(&self) -> &RequestedSession {
        &self.session
    }

    fn model(&self) -> Option<&str> {
        let named = self.session_model.as_deref().or(self.request.model.as_deref());
        Some(named.unwrap_or(self.default_model))
    }

    fn takes_session_model(&self) -> bool {
        self.request.model.is_none()
    }

    fn set_session_model(&mut self, model: String) {
        self.session_model = Some(model);
    }

    fn tells_cache_status(&self) -> bool {
        true
    }

    fn is_covered(&self, modes: &CacheModes) -> bool {
        modes.of(self.model()).covers(None, None)
    }

    fn delivery(&self) -> Delivery {
        Delivery::of(self.framing.is_some())
    }

    fn members(&self) -> Option<&Members<'_>> {
        Some(&self.members)
    }

    fn dialect(&self) -> Option<Dialect> {
        Some(Dialect::Ollama)
    }

    async fn new_turn(&self, _: &SessionState, _: &mut Pace) -> Option<NewTurn> {
        Some(NewTurn::of_message(Dialect::Ollama, self.request.system.clone(), self.message.clone()))
    }

    async fn asked(&self, _: Option<&NewTurn>, history: &History<'_>, _: &mut Pace) -> Vec<RawMessage> {
        let system = self.request.system.as_deref().or(history.system);
        let system = system.map(|content| OllamaMessage { role: "system", content, images: &[] }.message());
        system.into_iter().chain(history.messages(Dialect::Ollama)).chain([self.message.clone()]).collect()
    }

    async fn key(
        &self,
        context: &KeyContext<'_>,
        messages: &Vec<RawMessage>,
        pace: &mut Pace,
    ) -> Option<CacheKey> {
        // Every field of the request is either in the key or changes nothing about the answer.
        let ChatRequest {
            message: _,
            system: _,
            model: _,
            session_id: _,
            images: _,
            stream: _,
            format,
            options,
            think,
            tools,
            keep_alive: _,
        } = self.request;
        let messages: Vec<_> = messages.iter().map(RawMessage::as_str).collect();
        let chat = Chat { model: self.model()?, messages: &messages, format, options, think, tools };
        Some(CacheKey::of_chat_in_steps(context, &chat, pace).await)
    }

    fn upstream(&self, caller: &CallerId, messages: Vec<RawMessage>, reading: Reading) -> UpstreamRequest {
        let ChatRequest { format, options, think, tools, keep_alive, .. } = self.request;
        let model = self.model().unwrap_or_default();
        let body = OllamaChatRequest {
            model,
            messages: &messages,
            stream: true,
            format,
            options,
            think,
            tools,
            keep_alive,
        };
        let (session, members) = (self.session.id(), Some(&self.members));
        UpstreamRequest {
            routing_key: RoutingKey::new(caller, session, Some(Work::Answer), Some(model), members),
            method: Method::POST,
            path: Cow::Borrowed("/api/chat"),
            body: body.to_json(),
            content_type: None,
            model: Some(model.to_owned()),
            protocol: Some(Protocol::OllamaChat),
            streams: true,
            reading,
            held: HeldBytes::default(),
        }
    }

    fn rendering(&self) -> Rendering {
        let session_id = self.session.id().map(SessionId::as_str).unwrap_or_default().to_owned();
        match self.framing {
            Some(framing) => Rendering::Pieces(Pieces { framing, session_id }),
            None => Rendering::Whole { session_id },
        }
    }
}
