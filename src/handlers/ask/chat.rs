//! `POST /chat`: parse, load the session, answer from the cache or by a flight; then reply, in one piece or in many.
//!
//! Store trouble never fails a chat: what the store cannot give is done without, and the reply says so.

mod request;

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{conversation::session_id, lookup::Lookup};
use crate::{
    api::{
        auth::CallerId,
        body,
        endpoint::Work,
        error::Error,
        reply::{self, ReplyBody},
    },
    cache::{CacheKey, CachedAnswer, Chat, Delivery, KeyContext},
    flight::{Outcome, Pieces, Rendering},
    host::{Platform, Service},
    platform::MaybeSend,
    request::Account,
    session::{Dialect, History, RawMessage},
    upstream::{Reading, RoutingKey, UpstreamRequest},
    wire::{
        members::Members,
        ollama::{self, OllamaMessage},
        protocol::Protocol,
    },
};
use request::ChatRequest;

#[derive(Serialize)]
struct ChatReply<'a> {
    response: &'a str,
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<usize>,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Box<RawValue>>,
}

pub(crate) async fn chat<P, B>(
    service: &Service<P>,
    headers: &HeaderMap,
    body: B,
    account: &mut Account,
) -> Result<Response<ReplyBody>, Error>
where
    P: Platform,
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    let config = service.config();
    let caller = CallerId::of(headers, config.caller_header.as_ref())?;
    let body = body::read(service, headers, body, config.body_limits.chat).await?;
    let mut request = ChatRequest::parse(&body)?;
    if request.session_id.is_empty() {
        session_id(headers)?.clone_into(&mut request.session_id);
    }
    let named = request.model.as_deref().unwrap_or(&config.default_model);
    account.model = Some(named.to_owned());

    let covers = |model: &str| config.cache_modes.of(Some(model)).covers(None, None);
    let session = request.session_id.clone();
    let mut lookup = Lookup::new(headers, "/chat", &caller, Some(named), &session, covers(named))?;
    lookup.may_turn = request.model.is_none();
    account.cache = Some(lookup.cache_status());
    let question =
        OllamaMessage { role: "user", content: &request.message, images: &request.images }.message();
    let fresh = messages(&request, &History::default(), &question);
    let key_of = |context: &KeyContext<'_>, model: &str, messages: &[RawMessage]| {
        Some(cache_key(context, model, messages, &request))
    };
    let form = Delivery::of(request.framing(headers).is_some());
    let mut prefetched = lookup.ask(service, account, form, |context| key_of(context, named, &fresh)).await?;
    let model = request.model.as_deref().or_else(|| prefetched.memory.model()).unwrap_or(named).to_owned();
    if model != named {
        account.model = Some(model.clone());
        lookup.turn_to(service, account, &mut prefetched, &model, covers(&model)).await;
        account.cache = Some(lookup.cache_status());
    }
    let body_members = Members::parse(&body);
    let (members, dialect) = (body_members.as_ref(), Some(Dialect::Ollama));
    Box::pin(prefetched.memory.learn_window(service, members, dialect, Some(&model))).await;
    let memory = &prefetched.memory;
    let history = memory.history(config.history, false, members, dialect, Some(&model));
    account.left_out = history.left_out;
    let messages = messages(&request, &history, &question);
    let fingerprint = || Some(CacheKey::of_request(&KeyContext::nowhere("/chat"), body_members.as_ref()?));
    let cache_plan =
        lookup.cache_plan(service, &prefetched, |context| key_of(context, &model, &messages), fingerprint);
    let session_commit = memory.commit(Dialect::Ollama, &history, request.system.clone(), vec![question]);
    let pieces = request.framing(headers).map(|framing| Pieces { framing, session_id: session.clone() });
    let prompt = messages.first().map(RawMessage::as_str).unwrap_or_default();
    let routing_key = RoutingKey::new(
        &caller,
        &session,
        Some(Work::Answer),
        Some(&model),
        body_members.as_ref(),
        prompt.as_bytes(),
    );
    let content_type = pieces.as_ref().map_or(reply::EVENT_STREAM, Pieces::content_type);
    let order = UpstreamRequest {
        routing_key,
        method: Method::POST,
        path: Cow::Borrowed("/api/chat"),
        body: upstream_body(&model, &messages, &request),
        model: Some(model.clone()),
        protocol: Some(Protocol::OllamaChat),
        streams: true,
        reading: if pieces.is_some() { Reading::Events } else { Reading::Summed },
    };
    let rendering = pieces.map_or(Rendering::Whole, Rendering::Pieces);
    let flight = lookup.flight(order, rendering, cache_plan, session_commit, memory, account);
    Ok(match lookup.answer(service, account, prefetched, flight).await? {
        Outcome::Spoken(answer, session_status) => {
            account.session = session_status.or(account.session);
            whole(&answer, &session, account.left_out)
        }
        Outcome::Streaming(_, inlet) => reply::streamed(content_type, inlet),
        Outcome::Whole(original, _) => reply::typed(original.status, original.content_type, original.body),
    })
}

/// The conversation that goes upstream.
fn messages(request: &ChatRequest<'_>, history: &History<'_>, question: &RawMessage) -> Vec<RawMessage> {
    let system = request.system.as_deref().or(history.system);
    let system = system.map(|content| OllamaMessage { role: "system", content, images: &[] }.message());
    system.into_iter().chain(history.messages(Dialect::Ollama)).chain([question.clone()]).collect()
}

fn upstream_body(model: &str, messages: &[RawMessage], request: &ChatRequest<'_>) -> Bytes {
    let ChatRequest { format, options, think, tools, keep_alive, .. } = *request;
    let body = ollama::OllamaChatRequest {
        model,
        messages,
        stream: true,
        format,
        options,
        think,
        tools,
        keep_alive,
    };
    serde_json::to_vec(&body).unwrap_or_default().into()
}

fn cache_key(
    context: &KeyContext<'_>,
    model: &str,
    messages: &[RawMessage],
    request: &ChatRequest<'_>,
) -> CacheKey {
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
    } = *request;
    let messages: Vec<_> = messages.iter().map(RawMessage::as_str).collect();
    CacheKey::of_chat(context, &Chat { model, messages: &messages, format, options, think, tools })
}

/// The reply in one piece.
fn whole(answer: &CachedAnswer, session_id: &str, left_out: usize) -> Response<ReplyBody> {
    let spoken = &answer.spoken;
    let tool_calls = (!spoken.calls.is_empty()).then(|| spoken.calls_json());
    let left_out = Some(left_out).filter(|turns| *turns > 0);
    let reply =
        ChatReply { response: &spoken.text, session_id, left_out, thinking: &spoken.thinking, tool_calls };
    reply::json(StatusCode::OK, &reply)
}
