//! `/sessions`: creates sessions, shows them in pages, exports them, deletes them.
//!
//! A session belongs to the caller who created it. Another caller gets the same 404 as for an id that was never used.
//! A failure of the store is an error here, because without the store there is nothing to answer. Ids and contents
//! must never reach a log.

pub(super) mod purge;
mod request;
mod transcript;

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use serde::Serialize;

use super::RequestBody;
use crate::{
    api::{
        auth::CallerId,
        body,
        error::Error,
        reply::{self, ReplyBody},
    },
    host::{Platform, Service},
    platform::random_id,
    request::StoreAccess,
    session::{Dialect, RawMessage, Session, SessionId, SessionKey, Span, Turn},
    wire::pace::Pace,
};
use request::{ExportFormat, Page};

/// How much of a session an export reads at once: no reply of the store becomes large.
const EXPORTED: Span<'static> = Span { before: None, turns: 200, bytes: 256 << 10 };

/// The properties of a session, without its turns.
#[derive(Serialize)]
struct Summary<'a> {
    session_id: &'a str,
    /// The current system message.
    system: Option<&'a str>,
    model: Option<&'a str>,
    /// The time to live after each use, in seconds.
    ttl: u64,
    /// The time until it expires, in seconds. It equals `ttl`, because this request used the session.
    expires_in: u64,
    /// The time since it was created, in seconds.
    age: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    /// Oldest first.
    turns: Vec<ShownTurn<'a>>,
    /// The value of `before` that gets the next page of older turns; `null` on the last page.
    next: Option<&'a str>,
}

#[derive(Serialize)]
struct Exported<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    turns: Vec<ShownTurn<'a>>,
}

#[derive(Serialize)]
struct ShownTurn<'a> {
    id: &'a str,
    dialect: Dialect,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<&'a str>,
    messages: &'a [RawMessage],
}

impl<'a> Summary<'a> {
    fn of(id: &'a SessionId, session: &'a Session, ttl: Duration) -> Self {
        let ttl = session.head.ttl.unwrap_or(ttl).as_secs();
        Self {
            session_id: id.as_str(),
            system: session.system(),
            model: session.head.model.as_deref(),
            ttl,
            expires_in: ttl,
            age: session.age.as_secs(),
        }
    }
}

impl<'a> ShownTurn<'a> {
    fn of(turn: &'a Turn) -> Self {
        Self { id: &turn.id, dialect: turn.dialect, system: turn.system.as_deref(), messages: &turn.messages }
    }
}

/// Answers `POST /sessions`.
///
/// # Errors
/// The errors of [`body::read`] and of the body's fields; [`Error::SessionUnavailable`].
pub(crate) async fn create<P: Platform, B: RequestBody>(
    service: &Service<P>,
    headers: &HeaderMap,
    body: B,
    caller: Result<CallerId, Error>,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    let config = service.config();
    let caller = caller?;
    let mut account = service.account(&caller);
    let body = body::read(headers, body, config.access.body_limits.other, &mut account, service).await?;
    let longest = config.sessions.ttl_max;
    let read = async |mut pace: Pace| request::head(&body, longest, &mut pace).await;
    let head = service.compute(body.len(), read).await?;
    let id = SessionId::parse(&random_id(service))?;
    let made = store.create_session(service, &SessionKey::of(&caller, &id), &head).await;
    made.ok_or(Error::SessionUnavailable)?;
    let session = Session { head, ..Session::default() };
    let mut response = reply::json(StatusCode::CREATED, &Summary::of(&id, &session, config.sessions.ttl));
    if let Ok(location) = HeaderValue::try_from(format!("/sessions/{}", id.as_str())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(private(response))
}

/// Answers `GET /sessions/{id}`.
///
/// # Errors
/// [`Error::InvalidSessionId`], [`Error::WrongType`] for the query, [`Error::SessionNotFound`],
/// [`Error::SessionUnavailable`].
pub(crate) async fn show<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    caller: Result<CallerId, Error>,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    let page = Page::of(parts.uri.query())?;
    let (id, key) = session_in_path(parts, caller)?;
    let session = load(service, &key, page.span(), store).await?;
    let (turns, next) = page.turns(&session.turns);
    let shown = Shown {
        summary: Summary::of(&id, &session, service.config().sessions.ttl),
        turns: turns.iter().map(ShownTurn::of).collect(),
        next,
    };
    Ok(private(reply::json(StatusCode::OK, &shown)))
}

/// Answers `GET /sessions/{id}/export`.
///
/// # Errors
/// As [`show`].
pub(crate) async fn export<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    caller: Result<CallerId, Error>,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    let form = ExportFormat::of(parts.uri.query(), &parts.headers)?;
    let (id, session) = load_whole(service, parts, caller, store).await?;
    // The file name must not contain the id, because the id may be a secret and file names are visible to others.
    let (mut response, name) = match form {
        ExportFormat::Json => {
            let exported = Exported {
                summary: Summary::of(&id, &session, service.config().sessions.ttl),
                turns: session.turns.iter().map(ShownTurn::of).collect(),
            };
            (reply::json(StatusCode::OK, &exported), "attachment; filename=\"session.json\"")
        }
        ExportFormat::Markdown => {
            let text = transcript::markdown(&session);
            let response = reply::complete(StatusCode::OK, "text/markdown; charset=utf-8", text);
            (response, "attachment; filename=\"session.md\"")
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(name));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(private(response))
}

/// Answers `DELETE /sessions/{id}`.
///
/// # Errors
/// [`Error::InvalidSessionId`], [`Error::SessionNotFound`], [`Error::SessionUnavailable`].
pub(crate) async fn delete<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    caller: Result<CallerId, Error>,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    let (_, key) = session_in_path(parts, caller)?;
    let deleted = store.delete_session(service, &key).await;
    if !deleted.ok_or(Error::SessionUnavailable)? {
        return Err(Error::SessionNotFound);
    }
    let mut response = Response::new(ReplyBody::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// The session id in the path, and the key of the caller's session with that id.
fn session_in_path(parts: &Parts, caller: Result<CallerId, Error>) -> Result<(SessionId, SessionKey), Error> {
    let caller = caller?;
    let id = request::id(parts.uri.path())?;
    let key = SessionKey::of(&caller, &id);
    Ok((id, key))
}

async fn load<P: Platform>(
    service: &Service<P>,
    key: &SessionKey,
    span: Span<'_>,
    store: &StoreAccess,
) -> Result<Session, Error> {
    let session = store.load_session(service, key, span).await;
    session.ok_or(Error::SessionUnavailable)?.ok_or(Error::SessionNotFound)
}

/// The session with all its turns. They are read in several pieces, so that no reply of the store is large.
async fn load_whole<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    caller: Result<CallerId, Error>,
    store: &StoreAccess,
) -> Result<(SessionId, Session), Error> {
    let (id, key) = session_in_path(parts, caller)?;
    let mut session = load(service, &key, EXPORTED, store).await?;
    while let Some(oldest) = session.turns.first().filter(|_| session.skipped > 0) {
        let skipped = load(service, &key, Span { before: Some(&oldest.id), ..EXPORTED }, store).await?;
        if skipped.turns.is_empty() {
            break;
        }
        session.prepend(skipped);
    }
    Ok((id, session))
}

/// Marks a reply so that no HTTP cache stores it.
fn private(mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
