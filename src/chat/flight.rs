//! A flight: one upstream call with its failover, from take-off until its effects are stored.
//!
//! It runs as a task of its own and owns the upstream body. Its passenger is the reply: when the reply is dropped,
//! the client has left, and the flight drops upstream at once and stores nothing. An answer that is complete is
//! stored before the reply is sent. Nothing has reached the client until then, so every failed attempt may be
//! followed by another.

mod attempt;

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{
    channel::oneshot,
    future::{Either, OptionFuture, select},
    join,
};

use crate::{
    account::Account,
    cache::{CacheKey, CachedAnswer},
    chat::SessionStatus,
    error::Error,
    fleet::{AttemptFailure, BackendHost, Failover, Policy},
    handle::random_id,
    health,
    host::Host,
    journal::Event,
    metrics::{Attempt, Tokens},
    session::{Message, Role, SessionKey, Turn},
    store::{ResponseCache, Sessions, Store},
};

/// Everything an upstream call needs.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) model: String,
    pub(super) body: Bytes,
    pub(super) commit: Commit,
    pub(super) account: Account,
}

/// What is stored once the answer is complete.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) cache: Option<CacheKey>,
    pub(super) session: Option<SessionCommit>,
}

/// The turn that a session gets.
#[derive(Debug)]
pub(super) struct SessionCommit {
    pub(super) key: SessionKey,
    pub(super) question: Message,
}

/// How a flight ended.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) answer: Result<String, Error>,
    pub(super) session: Option<SessionStatus>,
    pub(super) account: Account,
}

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    response: String,
    tokens: Tokens,
}

impl Flight {
    /// Starts the flight and waits for its landing.
    ///
    /// # Errors
    /// [`Error::ShuttingDown`] when the host gave its tasks up.
    pub(super) async fn launch<H: Host>(self, host: &H) -> Result<Landing, Error> {
        let (mut passenger, landing) = oneshot::channel();
        let task_host = host.clone();
        host.spawn(async move {
            let Self { model, body, commit, mut account } = self;
            let flown = {
                let journey = Box::pin(fly(&task_host, &model, &body, &mut account));
                match select(journey, passenger.cancellation()).await {
                    Either::Left((answer, _)) => Some(answer),
                    Either::Right(_) => None,
                }
            };
            let Some(flown) = flown else {
                account.close(&task_host, Err(&Error::ClientClosed)).await;
                return;
            };
            let landing = land(&task_host, flown, commit, account).await;
            // The client may have left while the answer was stored.
            if let Err(landing) = passenger.send(landing) {
                landing.account.close(&task_host, Err(&Error::ClientClosed)).await;
            }
        });
        landing.await.map_err(|_| Error::ShuttingDown)
    }
}

async fn fly<H: Host>(host: &H, model: &str, body: &Bytes, account: &mut Account) -> Result<Answer, Error> {
    let plan = plan(host, account).await;
    let mut failover = Failover::new(plan);
    while let Some(backend) = failover.next_host() {
        // Counted as given up until the attempt has an end, for a client may leave at any time.
        let attempt = Attempt { host: backend.url().to_owned(), outcome: "cancelled" };
        account.attempts.push(attempt);
        let outcome = attempt::attempt(host, backend, body.clone()).await;
        if let Some(attempt) = account.attempts.last_mut() {
            attempt.outcome = outcome.as_ref().map_or_else(AttemptFailure::word, |_| "ok");
        }
        match outcome {
            Ok(answer) => {
                account.host = Some(backend.clone());
                account.tokens = Some(answer.tokens);
                return Ok(answer);
            }
            Err(failure) => {
                host.record(&Event::AttemptFailed {
                    request_id: &account.request_id,
                    host: backend.url(),
                    outcome: failure.word(),
                    detail: &failure.detail(),
                });
                failover.failed(failure);
            }
        }
    }
    let available = if failover.model_is_nowhere() { available_models(host).await } else { Vec::new() };
    Err(failover.verdict(model, available))
}

async fn plan<'a, H: Host>(host: &'a H, account: &mut Account) -> Vec<&'a BackendHost> {
    let config = host.config();
    let fleet = &config.fleet;
    if fleet.hosts().len() < 2 {
        return fleet.rotation(0);
    }
    match config.policy {
        Policy::RoundRobin if !account.store_failed() => {
            let turn = host.store().next_turn().await;
            // Without the shared counter chance spreads as well.
            account
                .tolerate(host, "next_turn", turn)
                .map_or_else(|| fleet.shuffle(host.random()), |turn| fleet.rotation(turn))
        }
        Policy::RoundRobin | Policy::Random => fleet.shuffle(host.random()),
    }
}

/// The models of all hosts, each once, sorted.
async fn available_models<H: Host>(host: &H) -> Vec<String> {
    let probes = health::probe(host).await;
    let names: BTreeSet<_> = probes.into_iter().filter_map(|probe| probe.models.ok()).flatten().collect();
    names.into_iter().collect()
}

/// Stores what the answer changes. An empty answer changes nothing.
async fn land<H: Host>(
    host: &H,
    flown: Result<Answer, Error>,
    commit: Commit,
    mut account: Account,
) -> Landing {
    let answer = match flown {
        Ok(answer) if !answer.response.is_empty() => CachedAnswer { response: answer.response },
        other => {
            let answer = other.map(|answer| answer.response);
            return Landing { answer, session: None, account };
        }
    };
    let store = host.store();
    let config = host.config();
    let put =
        OptionFuture::from(commit.cache.as_ref().map(|key| store.put_answer(key, &answer, config.cache_ttl)));
    let turn = commit.session.map(|SessionCommit { key, question }| {
        let answer = Message::new(Role::Assistant, answer.response.as_str());
        (key, Turn::exchange(random_id(host), question, answer))
    });
    let append = OptionFuture::from(
        turn.as_ref()
            .map(|(key, turn)| store.append_turn(key, turn, config.session_ttl, config.history.messages)),
    );
    let (put, append) = join!(put, append);
    if let Some(result) = put {
        account.tolerate(host, "cache_put", result);
    }
    let session = append.map(|result| status(account.tolerate(host, "session_append", result)));
    Landing { answer: Ok(answer.response), session, account }
}

/// Appends one turn, for an answer that needed no flight.
pub(super) async fn append<H: Host>(
    host: &H,
    key: &SessionKey,
    turn: &Turn,
    account: &mut Account,
) -> SessionStatus {
    let config = host.config();
    let result = host.store().append_turn(key, turn, config.session_ttl, config.history.messages).await;
    status(account.tolerate(host, "session_append", result))
}

fn status(appended: Option<()>) -> SessionStatus {
    if appended.is_some() { SessionStatus::Stored } else { SessionStatus::Unavailable }
}
