//! Questions to one host: `/chat` and the relayed endpoints, answered by one sequence over the trait [`Question`].
//!
//! A failure of the store must never fail a question, unless the operator requires sessions: the question is answered
//! without what the store could not give, and the reply's headers say so.

pub(super) mod chat;
mod conversation;
mod lookup;
pub(super) mod relay;
pub(super) mod version;

use std::{future::Future, sync::Arc};

use http::HeaderMap;

use crate::{
    api::{auth::CallerId, error::Error, memory_budget::HeldBytes, reply},
    cache::{CacheKey, CacheModes, Delivery, KeyContext},
    flight::{Flight, Outcome, Rendering},
    handlers::Handled,
    host::{Platform, Service},
    platform::{Clock as _, MaybeSend, MaybeSync},
    process::WholeHead,
    request::{ReplyNotes, RequestInfo},
    session::{Dialect, History, RequestedSession, Turn, window::own_weight},
    upstream::{Reading, UpstreamRequest},
    wire::{dialect::Weight, members::Members, pace::Pace},
};
use conversation::{NewTurn, SessionState};
use lookup::{Lookup, Prefetched};

/// What `/chat` and the relayed endpoints have in common: a request that is parsed once. It never calls a host or the
/// store.
trait Question: MaybeSend + MaybeSync {
    /// The upstream request's content, history included.
    type Asked: MaybeSend + MaybeSync;

    /// The length of the body, in bytes.
    fn size(&self) -> usize;

    /// The path of the endpoint, which is part of every key.
    fn path(&self) -> &'static str;

    /// The session that the request names.
    fn session(&self) -> &RequestedSession;

    /// The model as the caller spelled it: the request's, the session's or the default.
    fn model(&self) -> Option<&str>;

    /// Whether the session's model applies, because the request names none.
    fn takes_session_model(&self) -> bool;

    /// Sets the session's model.
    fn set_session_model(&mut self, model: String);

    /// Whether the reply has the header `X-Cache`.
    fn tells_cache_status(&self) -> bool;

    /// Whether the cache may answer the question.
    fn is_covered(&self, modes: &CacheModes) -> bool;

    /// Whether the caller wants a stream or a whole answer.
    fn delivery(&self) -> Delivery;

    /// The members of the body; `None` if there are none that can be read.
    fn members(&self) -> Option<&Members<'_>>;

    /// The dialect of the messages; `None` if the endpoint does not support sessions.
    fn dialect(&self) -> Option<Dialect>;

    /// The turn that the question adds to a loaded session; `None` if the request brings its own history.
    fn new_turn(
        &self,
        session: &SessionState,
        pace: &mut Pace,
    ) -> impl Future<Output = Option<NewTurn>> + MaybeSend;

    /// The upstream request's content with this history.
    fn asked(
        &self,
        turn: Option<&NewTurn>,
        history: &History<'_>,
        pace: &mut Pace,
    ) -> impl Future<Output = Self::Asked> + MaybeSend;

    /// The cache key of the answer; `None` if the body cannot be read.
    fn key(
        &self,
        context: &KeyContext<'_>,
        asked: &Self::Asked,
        pace: &mut Pace,
    ) -> impl Future<Output = Option<CacheKey>> + MaybeSend;

    /// The request to a host. `reading` says how its answer is read.
    fn upstream(&self, caller: &CallerId, asked: Self::Asked, reading: Reading) -> UpstreamRequest;

    /// How the client reads the answer.
    fn rendering(&self) -> Rendering;

    /// The fingerprint that a repetition with the same `Idempotency-Key` must have; `None` for a request without a
    /// body.
    fn fingerprint(&self, pace: &mut Pace) -> impl Future<Output = Option<CacheKey>> + MaybeSend {
        async {
            let context = KeyContext::nowhere(self.path());
            Some(CacheKey::of_request_in_steps(&context, self.members()?, pace).await)
        }
    }
}

/// A question that is ready to be answered. It keeps nothing of the request's body but what goes upstream.
struct Prepared<'a> {
    lookup: Lookup<'a>,
    prefetched: Prefetched<'a>,
    flight: Box<Flight>,
}

/// Answers a question: from the cache, or by a flight that is joined or led.
async fn answer<P: Platform>(
    service: &Service<P>,
    prepared: Result<Prepared<'_>, Error>,
    mut notes: Box<ReplyNotes>,
) -> Handled {
    let outcome = match prepared {
        Ok(Prepared { lookup, prefetched, flight }) => {
            lookup.answer(service, &mut notes, prefetched, flight).await
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(Outcome::Whole(original, session)) => {
            notes.session = session.or(notes.session);
            Handled::Complete(Ok(reply::typed(original.status, original.content_type, original.body)), notes)
        }
        Ok(Outcome::Streaming(content_type, inlet)) => {
            Handled::Streaming(reply::streamed(content_type, inlet), notes)
        }
        Ok(Outcome::Passing(WholeHead { status, content_type, length }, inlet)) => {
            Handled::Streaming(reply::passed(status, content_type, length, inlet), notes)
        }
        Err(error) => Handled::Complete(Err(error), notes),
    }
}

/// Asks the store what it knows of a question, and makes the upstream request with the history that fits. `held` are the
/// bytes of the question's body.
async fn prepare<'a, P: Platform, Q: Question>(
    service: &Service<P>,
    headers: &HeaderMap,
    caller: &'a CallerId,
    request: &Arc<RequestInfo>,
    mut question: Q,
    mut held: HeldBytes,
    notes: &mut ReplyNotes,
) -> Result<Prepared<'a>, Error> {
    let config = service.config();
    let size = question.size();

    // Prefetch: ask the store for everything it may know, in one wave.
    notes.model = question.model().map(str::to_owned);
    let mut lookup = Lookup::new(headers, caller, &question, &config.cache.modes)?;
    if question.tells_cache_status() {
        notes.cache = Some(lookup.cache_status());
    }
    let mut prefetched = lookup.prefetch(service, &request.store, &question).await?;

    // Take the session's model if the request names none.
    let turn = match &prefetched.session {
        session if session.is_loaded() => {
            let new_turn = async |mut pace: Pace| question.new_turn(session, &mut pace).await;
            service.compute(size, new_turn).await
        }
        _ => None,
    };
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

    // Prepare: choose the history that fits; make the key and the upstream request with it.
    let mut history = History::default();
    if let Some(turn) = &turn {
        if turn.continues {
            prefetched.session.reach_question(service, &request.store).await;
        }
        let (members, dialect, model) = (question.members(), question.dialect(), question.model());
        let own = match members {
            Some(members) => {
                let weigh = async |mut pace: Pace| own_weight(members, &mut pace).await;
                service.compute(size, weigh).await
            }
            None => Weight::default(),
        };
        prefetched.session.learn_window(service, members, own, dialect, model).await;
        let limits = config.sessions.history;
        history = prefetched.session.history(limits, turn.continues, members, own, dialect, model);
    }
    notes.left_out = history.left_out;
    let rendering = question.rendering();
    let told = history.turns.iter().map(Turn::bytes).fold(size, usize::saturating_add);
    let prepare = async |mut pace: Pace| {
        let asked = question.asked(turn.as_ref(), &history, &mut pace).await;
        let cache_plan = lookup.cache_plan(service, &prefetched, &question, &asked, &mut pace).await;
        let commit = match turn {
            Some(turn) => prefetched.session.commit(turn, &history, &mut pace).await,
            None => None,
        };
        (cache_plan, commit, question.upstream(caller, asked, rendering.reading()))
    };
    let (cache_plan, commit, mut upstream_request) = service.compute(told, prepare).await;
    let session = lookup.session_commit(commit, &prefetched.session, notes);

    // From here on the upstream request is held instead of the body.
    held.change_to(upstream_request.body.len(), service.now())?;
    upstream_request.held = held;
    upstream_request.routing_key.take_hint(headers);
    let (request, begun) = (Arc::clone(request), notes.clone());
    let flight = Box::new(Flight::new(request, upstream_request, rendering, cache_plan, session, begun));
    Ok(Prepared { lookup, prefetched, flight })
}

#[cfg(test)]
mod tests;
