//! Questions to one host: `/chat`, and the endpoints that Ollama speaks itself, as one sequence over the trait
//! [`Question`].
//!
//! Store trouble never fails a question: what the store cannot give is done without, and the reply says so.

pub(super) mod chat;
mod conversation;
mod lookup;
pub(super) mod relay;

use std::sync::Arc;

use http::HeaderMap;

use crate::{
    api::{auth::CallerId, error::Error, reply},
    cache::{CacheKey, CacheModes, Delivery, KeyContext},
    flight::{Flight, Outcome, Rendering},
    handlers::Handled,
    host::{Platform, Service},
    platform::{MaybeSend, MaybeSync},
    request::{ReplyNotes, RequestInfo},
    session::{Dialect, History, RequestedSession},
    upstream::{Reading, UpstreamRequest},
    wire::members::Members,
};
use conversation::{NewTurn, SessionState};
use lookup::Lookup;

/// What `/chat` and the endpoints that Ollama speaks have in common. It is parsed once, and never asks anybody.
trait Question: MaybeSend + MaybeSync {
    /// What goes upstream, with the history ahead of it.
    type Asked;

    /// The path of its endpoint, which is part of every key.
    fn path(&self) -> &'static str;

    /// The session that it names.
    fn session(&self) -> &RequestedSession;

    /// The model that is asked, as the caller spelled it: the request's, the session's or the default.
    fn model(&self) -> Option<&str>;

    /// Whether the request names no model, so that its session may.
    fn takes_session_model(&self) -> bool;

    /// Takes the model of the session.
    fn set_session_model(&mut self, model: String);

    /// Whether the reply tells what the cache did.
    fn tells_cache_status(&self) -> bool;

    /// Whether the cache may answer it.
    fn is_covered(&self, modes: &CacheModes) -> bool;

    /// How the caller wants the answer.
    fn delivery(&self) -> Delivery;

    /// The members of its body; `None` when it has none that can be read.
    fn members(&self) -> Option<&Members<'_>>;

    /// How its messages are written; `None` where sessions are not supported.
    fn dialect(&self) -> Option<Dialect>;

    /// The turn that it adds to a loaded session; `None` when it brings a history of its own.
    fn new_turn(&self, session: &SessionState) -> Option<NewTurn>;

    /// What goes upstream with this history ahead.
    fn asked(&self, turn: Option<&NewTurn>, history: &History<'_>) -> Self::Asked;

    /// The key of the answer; `None` where the body cannot be read.
    fn key(&self, context: &KeyContext<'_>, asked: &Self::Asked) -> Option<CacheKey>;

    /// The request to a host, whose answer is read as the rendering wants it.
    fn upstream(&self, caller: &CallerId, asked: Self::Asked, reading: Reading) -> UpstreamRequest;

    /// How the client reads the answer.
    fn rendering(&self) -> Rendering;

    /// What a repetition with the same `Idempotency-Key` must repeat; `None` for what says nothing, such as a GET.
    fn fingerprint(&self) -> Option<CacheKey> {
        Some(CacheKey::of_request(&KeyContext::nowhere(self.path()), self.members()?))
    }
}

/// Answers a question.
async fn ask<P: Platform, Q: Question>(
    service: &Service<P>,
    headers: &HeaderMap,
    caller: &CallerId,
    request: &Arc<RequestInfo>,
    question: Q,
) -> Handled {
    let mut notes = Box::<ReplyNotes>::default();
    match outcome(service, headers, caller, request, question, &mut notes).await {
        Ok(Outcome::Whole(original, session)) => {
            notes.session = session.or(notes.session);
            Handled::Complete(Ok(reply::typed(original.status, original.content_type, original.body)), notes)
        }
        Ok(Outcome::Streaming(content_type, inlet)) => {
            Handled::Streaming(reply::streamed(content_type, inlet), notes)
        }
        Err(error) => Handled::Complete(Err(error), notes),
    }
}

/// The reply to a question, from the cache or by a flight.
async fn outcome<P: Platform, Q: Question>(
    service: &Service<P>,
    headers: &HeaderMap,
    caller: &CallerId,
    request: &Arc<RequestInfo>,
    mut question: Q,
    notes: &mut ReplyNotes,
) -> Result<Outcome, Error> {
    let config = service.config();

    // Prefetch: whatever the store may know is asked in one wave.
    notes.model = question.model().map(str::to_owned);
    let mut lookup = Lookup::new(headers, caller, &question, &config.cache.modes)?;
    if question.tells_cache_status() {
        notes.cache = Some(lookup.cache_status());
    }
    let mut prefetched = lookup.prefetch(service, &request.store, &question).await?;

    // A session that has a model of its own gives it to a request that names none.
    let turn = Some(&prefetched.session).filter(|session| session.is_loaded());
    let turn = turn.and_then(|session| question.new_turn(session));
    let session_model = prefetched
        .session
        .model()
        .filter(|model| turn.is_some() && question.takes_session_model() && question.model() != Some(*model));
    if let Some(model) = session_model.map(str::to_owned) {
        notes.model = Some(model.clone());
        question.set_session_model(model);
        lookup.turn_to_model(service, &request.store, &mut prefetched, &question).await;
        notes.cache = Some(lookup.cache_status());
    }

    // Prepare: the history that fits, and with it the key and the body.
    let mut history = History::default();
    if let Some(turn) = &turn {
        if turn.continues {
            prefetched.session.reach_question(service, &request.store).await;
        }
        let (members, dialect, model) = (question.members(), question.dialect(), question.model());
        prefetched.session.learn_window(service, members, dialect, model).await;
        let limits = config.sessions.history;
        history = prefetched.session.history(limits, turn.continues, members, dialect, model);
    }
    notes.left_out = history.left_out;
    let asked = question.asked(turn.as_ref(), &history);
    let cache_plan = lookup.cache_plan(service, &prefetched, &question, &asked);
    let commit = turn.and_then(|turn| prefetched.session.commit(turn, &history));
    let session = lookup.session_commit(commit, &prefetched.session, notes);
    let rendering = question.rendering();
    let upstream_request = question.upstream(caller, asked, rendering.reading());
    let (request, begun) = (Arc::clone(request), notes.clone());
    let flight = Box::new(Flight::new(request, upstream_request, rendering, cache_plan, session, begun));

    // Join a flight or lead one, unless the cache answers.
    lookup.answer(service, notes, prefetched, flight).await
}
