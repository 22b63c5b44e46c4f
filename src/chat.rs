//! `POST /chat`: parse, load the session, look in the cache, else fly; then reply, in one piece or in many.
//!
//! Store trouble never fails a chat: what the store cannot give is done without, and the reply says so.

mod request;

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    account::Account,
    body,
    cache::{CacheKey, CacheStatus, CachedAnswer, Question},
    caller::Scope,
    conversation::{Memory, session_id},
    error::Error,
    fleet::Work,
    flight::{self, Commit, Destination, Flight, Landing, Order, Pieces, Rendering},
    host::{Host, MaybeSend},
    reply::{self, ReplyBody},
    session::{Dialect, RawMessage},
    store::ResponseCache,
    wire::{
        members::Members,
        ollama::{self, Said},
        protocol::Protocol,
    },
};
use request::ChatRequest;

#[derive(Serialize)]
struct ChatReply<'a> {
    response: &'a str,
    session_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    thinking: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Box<RawValue>>,
}

pub(crate) async fn chat<H, B>(
    host: &H,
    headers: &HeaderMap,
    body: B,
    account: &mut Account,
) -> Result<Response<ReplyBody>, Error>
where
    H: Host,
    B: Body<Data = Bytes> + Unpin + MaybeSend + 'static,
{
    let config = host.config();
    let scope = Scope::of(headers, config.caller_header.as_ref())?;
    let body = body::read(host, headers, body, config.body_limits.chat).await?;
    let mut request = ChatRequest::parse(&body)?;
    if request.session_id.is_empty() {
        session_id(headers)?.clone_into(&mut request.session_id);
    }
    account.model.clone_from(&request.model);
    let memory = Memory::load(host, &scope, &request.session_id, account).await?;
    let model =
        request.model.as_deref().or_else(|| memory.model()).unwrap_or(&config.default_model).to_owned();
    account.model = Some(model.clone());

    let members = Members::parse(&body);
    let history = memory.history(config.history, members.as_ref(), Some(Dialect::Ollama), Some(&model));
    account.left_out = history.left_out;
    let question = Said { role: "user", content: &request.message, images: &request.images }.message();
    let system = request.system.as_deref().or(history.system);
    let system = system.map(|content| Said { role: "system", content, images: &[] }.message());
    let messages: Vec<RawMessage> =
        system.into_iter().chain(history.messages(Dialect::Ollama)).chain([question.clone()]).collect();

    let key = cache_key(&scope, &model, &messages, &request);
    let cached = look_up(host, &key, account).await;
    let commit = Commit {
        cache: (account.cache == Some(CacheStatus::Miss)).then_some(key),
        session: memory.commit(
            Dialect::Ollama,
            &history,
            request.system.clone(),
            vec![question],
            config.history,
        ),
    };
    let pieces =
        request.framing(headers).map(|framing| Pieces { framing, session_id: request.session_id.clone() });
    if let Some(answer) = cached {
        account.session = memory.status(flight::land(host, &answer, commit, account).await);
        return Ok(match pieces {
            Some(pieces) => replay(&pieces, &answer, account),
            None => whole(&answer, &request.session_id),
        });
    }

    let prompt = messages.first().map(RawMessage::as_str).unwrap_or_default();
    let work = Some(Work::Answer);
    let destination = Destination::new(
        &scope,
        &request.session_id,
        work,
        Some(&model),
        members.as_ref(),
        prompt.as_bytes(),
    );
    let content_type = pieces.as_ref().map_or(reply::EVENT_STREAM, Pieces::content_type);
    let order = Order {
        destination,
        method: Method::POST,
        path: Cow::Borrowed("/api/chat"),
        body: upstream_body(&model, &messages, &request),
        model: Some(model),
        protocol: Some(Protocol::OllamaChat),
        streams: true,
        rendering: pieces.map_or(Rendering::Whole, Rendering::Pieces),
    };
    let flight = Flight { order, commit, account: account.clone(), forgetful: memory.is_unavailable() };
    Ok(match flight.launch(host, account).await? {
        Landing::Spoken(answer, session) => {
            account.session = memory.status(session);
            whole(&answer, &request.session_id)
        }
        Landing::Streaming(_, inlet) => {
            account.session = memory.status(None);
            reply::streamed(content_type, inlet)
        }
        Landing::Whole(original, _) => reply::typed(original.status, original.content_type, original.body),
    })
}

fn upstream_body(model: &str, messages: &[RawMessage], request: &ChatRequest<'_>) -> Bytes {
    let ChatRequest { format, options, think, tools, keep_alive, .. } = *request;
    let body =
        ollama::ChatRequest { model, messages, stream: true, format, options, think, tools, keep_alive };
    serde_json::to_vec(&body).unwrap_or_default().into()
}

fn cache_key(scope: &Scope, model: &str, messages: &[RawMessage], request: &ChatRequest<'_>) -> CacheKey {
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
    CacheKey::of(&Question {
        scope,
        model,
        messages: &messages,
        format: format.map(RawValue::get),
        options,
        think,
        tools,
    })
}

async fn look_up<H: Host>(host: &H, key: &CacheKey, account: &mut Account) -> Option<CachedAnswer> {
    account.cache = Some(CacheStatus::Bypass);
    if !host.config().cache_enabled || account.store_failed() {
        return None;
    }
    let found = host.store().answer(key).await;
    let found = account.tolerate(host, "cache_get", found)?;
    account.cache = Some(if found.is_some() { CacheStatus::Hit } else { CacheStatus::Miss });
    found
}

/// The reply in one piece.
fn whole(answer: &CachedAnswer, session_id: &str) -> Response<ReplyBody> {
    let spoken = &answer.spoken;
    let tool_calls = (!spoken.calls.is_empty()).then(|| spoken.calls_json());
    let reply = ChatReply { response: &spoken.text, session_id, thinking: &spoken.thinking, tool_calls };
    reply::json(StatusCode::OK, &reply)
}

/// A stored answer in pieces.
fn replay(pieces: &Pieces, answer: &CachedAnswer, account: &Account) -> Response<ReplyBody> {
    let (mut outlet, _, inlet) = reply::channel();
    for piece in pieces.replay(answer, account, account.session) {
        outlet.offer(piece);
    }
    reply::streamed(pieces.content_type(), inlet)
}
