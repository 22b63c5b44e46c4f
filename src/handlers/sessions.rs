//! `/sessions`: makes sessions, shows them page by page, writes them out whole, deletes them.
//!
//! A session is its creator's: to anybody else it does not exist, which looks like one that never was. Without the store
//! there is nothing to say, so that here its trouble is an error. No id and no content reaches a log.

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
    session::{Dialect, RawMessage, Session, SessionKey, Span, Turn},
};
use request::{ExportFormat, Page};

/// What is read at once of a session that is written out.
const EXPORTED: Span<'static> = Span { before: None, turns: 200, bytes: 256 << 10 };

/// What a session is, without its turns.
#[derive(Serialize)]
struct Summary<'a> {
    session_id: &'a str,
    /// The system message that holds.
    system: Option<&'a str>,
    model: Option<&'a str>,
    /// Seconds that it is kept after its last use.
    ttl: u64,
    /// Seconds until it is forgotten, if it is not used: it has just been.
    expires_in: u64,
    /// Seconds since it was made.
    age: u64,
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    /// Oldest first.
    turns: Vec<ShownTurn<'a>>,
    /// What `before` must be to get the turns before these; `null` when there are none.
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
    fn of(id: &'a str, session: &'a Session, ttl: Duration) -> Self {
        let ttl = session.head.ttl.unwrap_or(ttl).as_secs();
        Self {
            session_id: id,
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
/// What is wrong with the body; [`Error::SessionUnavailable`].
pub(crate) async fn create<P: Platform, B: RequestBody>(
    service: &Service<P>,
    headers: &HeaderMap,
    body: B,
    caller: Result<CallerId, Error>,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    let config = service.config();
    let caller = caller?;
    let body = body::read(service, headers, body, config.body_limits.other).await?;
    let head = request::head(&body)?;
    let id = random_id(service);
    let made = store.create_session(service, &SessionKey::of(&caller, &id)?, &head).await;
    made.ok_or(Error::SessionUnavailable)?;
    let session = Session { head, ..Session::default() };
    let mut response = reply::json(StatusCode::CREATED, &Summary::of(&id, &session, config.session_ttl));
    if let Ok(location) = HeaderValue::try_from(format!("/sessions/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(private(response))
}

/// Answers `GET /sessions/{id}`.
///
/// # Errors
/// What is wrong with the id or the query; [`Error::SessionNotFound`]; [`Error::SessionUnavailable`].
pub(crate) async fn show<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    caller: Result<CallerId, Error>,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    let page = Page::of(parts.uri.query())?;
    let (id, key) = named(parts, caller)?;
    let session = load(service, &key, page.span(), store).await?;
    let (turns, next) = page.turns(&session.turns);
    let shown = Shown {
        summary: Summary::of(&id, &session, service.config().session_ttl),
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
    // The id may be a secret, and a name of a file is seen by many.
    let (mut response, name) = match form {
        ExportFormat::Json => {
            let exported = Exported {
                summary: Summary::of(&id, &session, service.config().session_ttl),
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
/// What is wrong with the id; [`Error::SessionNotFound`]; [`Error::SessionUnavailable`].
pub(crate) async fn delete<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    caller: Result<CallerId, Error>,
    store: &StoreAccess,
) -> Result<Response<ReplyBody>, Error> {
    let (_, key) = named(parts, caller)?;
    let deleted = store.delete_session(service, &key).await;
    if !deleted.ok_or(Error::SessionUnavailable)? {
        return Err(Error::SessionNotFound);
    }
    let mut response = Response::new(ReplyBody::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// The id that the path names, and the caller's session of that id.
fn named(parts: &Parts, caller: Result<CallerId, Error>) -> Result<(String, SessionKey), Error> {
    let caller = caller?;
    let id = request::id(parts.uri.path())?;
    let key = SessionKey::of(&caller, &id)?;
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

/// The session with all its turns, read piece by piece: no reply of the store is large.
async fn load_whole<P: Platform>(
    service: &Service<P>,
    parts: &Parts,
    caller: Result<CallerId, Error>,
    store: &StoreAccess,
) -> Result<(String, Session), Error> {
    let (id, key) = named(parts, caller)?;
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

/// The same reply, which no cache on the way may keep.
fn private(mut response: Response<ReplyBody>) -> Response<ReplyBody> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
