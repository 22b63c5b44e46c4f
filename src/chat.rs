//! `POST /chat`: parse, load the session, look in the cache, else fly; then reply.
//!
//! Store trouble never fails a chat: what the store cannot give is done without, and the reply says so.

mod flight;
mod request;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Body;
use serde::Serialize;

use crate::{
    account::Account,
    cache::{CacheKey, CacheStatus, Question},
    caller::Scope,
    error::Error,
    fleet::BackendHost,
    host::{Host, MaybeSend},
    reply::{self, ReplyBody},
    session::{Message, Role, SessionKey, Turn, trim},
    store::{ResponseCache, Sessions},
    wire::ollama,
};
use flight::{Commit, Flight, SessionCommit};
use request::{ChatRequest, read_body};

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_SESSION: HeaderName = HeaderName::from_static("x-session");
const X_PADDOCK_HOST: HeaderName = HeaderName::from_static("x-paddock-host");

/// Whether the turn is in the session's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionStatus {
    /// The turn is stored. Only this acknowledges it.
    Stored,
    /// The store is down: the history was not read, or the turn not written.
    Unavailable,
}

#[derive(Serialize)]
struct ChatReply<'a> {
    response: &'a str,
    session_id: &'a str,
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
    let body = read_body(host, headers, body).await?;
    let ChatRequest { message, model, session_id } = ChatRequest::parse(&body)?;
    let model = model.unwrap_or_else(|| config.default_model.clone());
    account.model = Some(model.clone());
    let session = match session_id.as_str() {
        "" => None,
        id => Some(SessionKey::of(&scope, id)?),
    };

    let turns = match &session {
        Some(key) => {
            let turns = host.store().turns(key, config.session_ttl).await;
            account.tolerate(host, "session_load", turns)
        }
        None => Some(Vec::new()),
    };
    // Without its history a session is not written to either: the reply says that memory is unavailable.
    let session = session.filter(|_| turns.is_some());
    let turns = turns.unwrap_or_default();
    let question = Message::new(Role::User, message);
    let mut messages = trim(&turns, config.history);
    messages.push(&question);

    let key = CacheKey::of(&Question { scope: &scope, model: &model, messages: &messages });
    let cached = look_up(host, &key, account).await;
    if let Some(answer) = cached {
        let status = match &session {
            Some(session) => {
                let answer = Message::new(Role::Assistant, answer.as_str());
                let turn = Turn::exchange(crate::handle::random_id(host), question, answer);
                Some(flight::append(host, session, &turn, account).await)
            }
            None => unavailable(&session_id),
        };
        return Ok(respond(&answer, &session_id, account, status));
    }

    let body = ollama::ChatRequest { model: &model, messages: &messages, stream: true };
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let flight = Flight {
        model,
        body: body.into(),
        commit: Commit {
            cache: (account.cache == Some(CacheStatus::Miss)).then_some(key),
            session: session.map(|key| SessionCommit { key, question }),
        },
        account: account.clone(),
    };
    let landing = flight.launch(host).await?;
    *account = landing.account;
    let answer = landing.answer?;
    let status = landing.session.or_else(|| unavailable(&session_id).filter(|_| account.store_failed()));
    Ok(respond(&answer, &session_id, account, status))
}

fn unavailable(session_id: &str) -> Option<SessionStatus> {
    (!session_id.is_empty()).then_some(SessionStatus::Unavailable)
}

async fn look_up<H: Host>(host: &H, key: &CacheKey, account: &mut Account) -> Option<String> {
    account.cache = Some(CacheStatus::Bypass);
    if !host.config().cache_enabled || account.store_failed() {
        return None;
    }
    let found = host.store().answer(key).await;
    let found = account.tolerate(host, "cache_get", found)?;
    account.cache = Some(if found.is_some() { CacheStatus::Hit } else { CacheStatus::Miss });
    found.map(|answer| answer.response)
}

fn respond(
    answer: &str,
    session_id: &str,
    account: &Account,
    session: Option<SessionStatus>,
) -> Response<ReplyBody> {
    let mut response = reply::json(StatusCode::OK, &ChatReply { response: answer, session_id });
    let headers = response.headers_mut();
    if let Some(cache) = account.cache {
        headers.insert(X_CACHE, HeaderValue::from_static(cache.as_str()));
    }
    if let Some(session) = session {
        let value = match session {
            SessionStatus::Stored => "stored",
            SessionStatus::Unavailable => "unavailable",
        };
        headers.insert(X_SESSION, HeaderValue::from_static(value));
    }
    let name = account.host.as_ref().map(BackendHost::name);
    if let Some(name) = name.and_then(|name| HeaderValue::from_str(name).ok()) {
        headers.insert(X_PADDOCK_HOST, name);
    }
    response
}
