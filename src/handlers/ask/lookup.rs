//! The store operations before the upstream call, all in one wave: the session, the epochs of the cache, the fleet and,
//! if its key can be guessed, the answer.
//!
//! This module decides the key under which an answer is looked up and stored. A failing store must never fail a lookup.

use std::{pin::pin, sync::Arc};

use futures::{future::OptionFuture, join};
use http::{HeaderMap, HeaderName};

use super::{Question, conversation::SessionState};
use crate::{
    api::{auth::CallerId, error::Error},
    cache::{
        AllEpochs, Asked, CacheControl, CacheKey, CacheModes, CachePolicy, CacheSharing, CacheStatus, Epochs,
        KeyContext, Repetition, Stored, digest_of, epoch_name,
    },
    fleet::{ModelName, local::Inventories},
    flight::{CachePlan, Flight, Outcome, SessionCommit},
    host::{Platform, Service},
    request::{ReplyNotes, StoreAccess},
    session::{History, SessionId, SessionKey, SessionStatus},
    store::{FlightKey, Store},
    upstream::{FleetPrefetch, prefetch_fleet, probe},
    wire::pace::Pace,
};

/// Marks a request as a repetition of an earlier one with the same key (draft "The Idempotency-Key HTTP Header Field").
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The maximum length of an `Idempotency-Key`, in bytes.
const IDEMPOTENCY_KEY_LIMIT: usize = 255;

/// How the cache treats one question, by its headers and the settings.
pub(crate) struct Lookup<'a> {
    caller: &'a CallerId,
    control: CacheControl,
    policy: CachePolicy,
    repetition: Option<CacheKey>,
}

/// The results of the wave.
pub(crate) struct Prefetched<'a> {
    pub(crate) session: SessionState,
    fleet: Option<FleetPrefetch>,
    epochs: Epochs,
    /// The epochs of all models, read if the session's model may replace the request's.
    all_epochs: Option<AllEpochs>,
    /// The guessed key of the answer, which is right if the question gets no history, and the context it was made in.
    guess: Option<(KeyContext<'a>, CacheKey)>,
    /// The stored answer under the guessed key, or under a repetition's key.
    guessed: Option<(CacheKey, Stored)>,
}

impl<'a> Lookup<'a> {
    /// Reads the headers that control the cache; `modes` says which questions the cache may answer.
    ///
    /// # Errors
    /// [`Error::InvalidIdempotencyKey`]
    pub(crate) fn new(
        headers: &HeaderMap,
        caller: &'a CallerId,
        question: &impl Question,
        modes: &CacheModes,
    ) -> Result<Self, Error> {
        let control = CacheControl::of(headers);
        let repetition = match headers.get(IDEMPOTENCY_KEY) {
            Some(key) if key.is_empty() || key.len() > IDEMPOTENCY_KEY_LIMIT => {
                return Err(Error::InvalidIdempotencyKey);
            }
            Some(key) => {
                // A request with an invalid session id is refused before this key is used.
                let session = question.session().id().map(SessionId::as_str).unwrap_or_default();
                let key = [session.as_bytes(), b"\0", key.as_bytes()].concat();
                Some(CacheKey::of_repetition(question.path(), caller, &key))
            }
            None => None,
        };
        let policy = CachePolicy::of(question.is_covered(modes), &control);
        Ok(Self { caller, control, policy, repetition })
    }

    /// Whether the question's answer is looked up or stored.
    fn uses_cache(&self) -> bool {
        self.policy != CachePolicy::None || self.repetition.is_some()
    }

    /// The cache status if nothing is found.
    pub(crate) fn cache_status(&self) -> CacheStatus {
        if self.uses_cache() { CacheStatus::Miss } else { CacheStatus::Bypass }
    }

    /// The id of the turn that a repetition adds. It is the same for each repetition, so the turn is stored once.
    fn turn_id(&self) -> Option<String> {
        self.repetition.map(CacheKey::to_hex)
    }

    /// What a cache key covers besides the question itself.
    fn context<P: Platform>(
        &self,
        service: &Service<P>,
        question: &impl Question,
        epochs: Epochs,
    ) -> KeyContext<'a> {
        let caller = Some(self.caller).filter(|_| service.config().cache.sharing == CacheSharing::Caller);
        let name = question.model().and_then(ModelName::parse);
        let digest = name.map(|name| digest(&name, &service.fleet().inventories()));
        KeyContext { path: question.path(), caller, digest: digest.unwrap_or_default(), epochs }
    }

    /// Asks the store for everything the question may need, in one wave.
    ///
    /// # Errors
    /// [`Error::InvalidSessionId`], [`Error::SessionUnavailable`]
    pub(crate) async fn prefetch<P: Platform>(
        &self,
        service: &Service<P>,
        store: &StoreAccess,
        question: &impl Question,
    ) -> Result<Prefetched<'a>, Error> {
        let name = epoch_name(question.model().unwrap_or_default());
        let guess = match self.guessable(service, question, &name) {
            Some(context) => {
                let key = async |mut pace: Pace| {
                    let asked = question.asked(None, &History::default(), &mut pace).await;
                    question.key(&context, &asked, &mut pace).await
                };
                service.compute(question.size(), key).await.map(|key| (context, key))
            }
            None => None,
        };
        let likely = self.repetition.or_else(|| guess.map(|(_, key)| key));
        let session = question.session().checked()?.map(|id| SessionKey::of(self.caller, id));
        let model = question.model().and_then(ModelName::parse);
        // The fleet is read ahead only from a shared store, where that saves a round trip; a local one costs none.
        let looks_ahead = service.store().is_shared();
        let has_session = session.is_some();
        let fleet = pin!(async {
            if looks_ahead {
                return Some(prefetch_fleet(service, store, model.as_ref()).await);
            }
            if self.uses_cache() || has_session {
                probe::inventories(service, store, model.as_ref()).await;
            }
            None
        });
        let is_unsure = looks_ahead && question.takes_session_model() && session.is_some();
        let all_epochs = is_unsure.then_some(store.ask_all_epochs(service));
        let is_sure = self.uses_cache() && !is_unsure;
        let epochs = is_sure.then_some(store.ask_epochs(service, &name));
        let looked_for = likely.map(|key| FlightKey { key, form: question.delivery() });
        let guessed = looked_for.as_ref().map(|flight| store.ask_answer(service, flight));
        let (turns, epochs, all_epochs, guessed, fleet) = join!(
            OptionFuture::from(session.as_ref().map(|key| SessionState::fetch(service, store, key))),
            OptionFuture::from(epochs),
            OptionFuture::from(all_epochs),
            OptionFuture::from(guessed),
            fleet,
        );
        let session = SessionState::loaded(service, store, session, turns)?;
        let epochs = epochs.and_then(|epochs| store.settle_of_wave(service, epochs));
        let all_epochs = all_epochs.and_then(|epochs| store.settle_of_wave(service, epochs)).flatten();
        let epochs = epochs.or_else(|| all_epochs.as_ref().map(|all| all.of(&name)));
        if let Some(epochs) = epochs {
            service.flights().note_epochs(&name, epochs);
        }
        let guessed = guessed.and_then(|found| store.settle_of_wave(service, found)).flatten();
        // Without confirmed epochs a found answer may have been purged, so it is not used.
        let guessed = guessed.filter(|_| epochs.is_some());
        let epochs = epochs.unwrap_or_else(|| service.flights().epochs(&name));
        let guessed = likely.zip(guessed);
        Ok(Prefetched { session, fleet, epochs, all_epochs, guess, guessed })
    }

    /// The context in which the answer's key is guessed before the store is asked. The guess is right if the question gets
    /// no history and the epochs have not changed; `None` if nothing can be guessed.
    fn guessable<P: Platform>(
        &self,
        service: &Service<P>,
        question: &impl Question,
        epoch_name: &str,
    ) -> Option<KeyContext<'a>> {
        match self.policy {
            _ if self.repetition.is_some() => None,
            CachePolicy::Answer { .. }
                if question.session().is_none() && !service.fleet().inventories().is_empty() =>
            {
                Some(self.context(service, question, service.flights().epochs(epoch_name)))
            }
            CachePolicy::Answer { .. } | CachePolicy::Keep | CachePolicy::None => None,
        }
    }

    /// Adapts the policy and the epochs to the session's model, which the question has taken.
    pub(crate) async fn turn_to_model<P: Platform>(
        &mut self,
        service: &Service<P>,
        store: &StoreAccess,
        prefetched: &mut Prefetched<'_>,
        question: &impl Question,
    ) {
        self.policy = CachePolicy::of(question.is_covered(&service.config().cache.modes), &self.control);
        let name = epoch_name(question.model().unwrap_or_default());
        if let Some(all) = &prefetched.all_epochs {
            prefetched.epochs = all.of(&name);
        } else if self.uses_cache() && !store.has_failed() {
            let epochs = store.ask_epochs(service, &name).await;
            match store.settle(service, epochs) {
                Some(epochs) => {
                    service.flights().note_epochs(&name, epochs);
                    prefetched.epochs = epochs;
                }
                None => prefetched.epochs = service.flights().epochs(&name),
            }
        }
    }

    /// How the answer to the question is stored; `None` if it is not.
    pub(crate) async fn cache_plan<P: Platform, Q: Question>(
        &self,
        service: &Service<P>,
        prefetched: &Prefetched<'_>,
        question: &Q,
        asked: &Q::Asked,
        pace: &mut Pace,
    ) -> Option<CachePlan> {
        let (config, owner) = (service.config(), self.caller.owner());
        if let Some(repetition) = self.repetition {
            // A request without a body has no fingerprint, so it cannot be a repetition.
            let asked =
                Some(Asked { question: question.fingerprint(pace).await?, epochs: prefetched.epochs });
            let (ttl, policy) = (config.cache.idempotency_ttl, CachePolicy::Answer { max_age: None });
            return Some(CachePlan {
                key: repetition,
                asked,
                ttl,
                owner,
                policy,
                unfit: None,
                is_shared: true,
            });
        }
        let is_shared = match self.policy {
            CachePolicy::None => return None,
            CachePolicy::Keep => false,
            CachePolicy::Answer { .. } => true,
        };
        let context = self.context(service, question, prefetched.epochs);
        // A right guess saves computing the key again.
        let key = match prefetched.guess {
            Some((guessed, key)) if guessed == context => key,
            Some(_) | None => question.key(&context, asked, pace).await?,
        };
        let (ttl, policy) = (config.cache.ttl, self.policy);
        Some(CachePlan { key, asked: None, ttl, owner, policy, unfit: None, is_shared })
    }

    /// The turn to store; `None` if the session has it already.
    pub(crate) fn session_commit(
        &self,
        commit: Option<SessionCommit>,
        state: &SessionState,
        notes: &mut ReplyNotes,
    ) -> Option<SessionCommit> {
        notes.session = state.is_unavailable().then_some(SessionStatus::Unavailable);
        let commit = commit.map(|commit| SessionCommit { id: self.turn_id(), ..commit });
        let known =
            commit.as_ref().and_then(|commit| commit.id.as_deref()).and_then(|id| state.number_of(id));
        if known.is_some() {
            notes.session = Some(SessionStatus::Stored);
        }
        notes.turn = known.or_else(|| commit.as_ref().and_then(|_| state.next_number()));
        commit.filter(|_| known.is_none())
    }

    /// Answers from the cache if possible, else by a flight.
    ///
    /// # Errors
    /// [`Error::NotCached`] for `only-if-cached`, [`Error::IdempotencyKeyReused`], and the errors of the flight.
    pub(crate) async fn answer<P: Platform>(
        &self,
        service: &Service<P>,
        notes: &mut ReplyNotes,
        prefetched: Prefetched<'_>,
        mut flight: Box<Flight>,
    ) -> Result<Outcome, Error> {
        let Prefetched { fleet, guessed, .. } = prefetched;
        if let Some(mut cache_plan) = flight.cache_plan {
            let guessed = guessed.filter(|(key, _)| *key == cache_plan.key).map(|(_, stored)| stored);
            let found = match guessed {
                None if self.control.only_if_cached && cache_plan.is_shared => {
                    flight.request.store.answer(service, &flight.key(&cache_plan)).await
                }
                guessed => guessed,
            };
            if let Some(stored) = found {
                let repetition = cache_plan.asked.map(|asked| stored.entry.repetition(asked));
                if repetition == Some(Repetition::Other) {
                    return Err(Error::IdempotencyKeyReused);
                }
                if cache_plan.policy.takes(stored.age)
                    && repetition != Some(Repetition::Forgotten)
                    && let Some(replayed) = flight.replay(&stored)
                {
                    return flight.answer_from_cache(service, notes, replayed, stored.age).await;
                }
                cache_plan.unfit = Some(stored.age);
                flight.cache_plan = Some(cache_plan);
            }
        }
        if self.control.only_if_cached {
            return Err(Error::NotCached);
        }
        flight.prefetched = fleet;
        flight.launch(service, notes).await
    }
}

/// The digest of a model's content on all hosts that have it.
fn digest(name: &ModelName, inventories: &Arc<Inventories>) -> [u8; 32] {
    let models = inventories.values().flat_map(|inventory| &inventory.models);
    digest_of(models.filter(|model| name.is(&model.name)).map(|model| &*model.digest))
}
