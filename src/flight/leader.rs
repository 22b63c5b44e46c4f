//! The lead of a flight: it finds out whether the answer is there or another brings it, else asks upstream, and writes
//! what comes to the feed.
//!
//! It owns the upstream body. Until the first event of an answer is there nothing has reached a client, and a failed
//! attempt may be followed by another. An answer is kept only when it is complete. When everybody left, upstream is
//! dropped at once and nothing is kept.

mod outcome;

use bytes::Bytes;
use futures::{
    StreamExt as _,
    channel::{
        mpsc::{UnboundedSender, unbounded},
        oneshot,
    },
    future::OptionFuture,
    join,
};

use super::{
    Keep,
    follow::{Followed, follow},
    publisher::Publisher,
    replay::replay,
};
use crate::{
    api::{error::Error, reply::ClientLeft},
    cache::{CacheStatus, Form},
    fleet::{AttemptFailure, BackendHost, Failover, NO_EVENT, UNFINISHED, Verdict, broken},
    host::Host,
    metrics::Attempt,
    platform::{journal::Event, random_id},
    process::{Opening, Source, broadcast::Feed, flight_table::Seat},
    request::Account,
    store::{FlightKey, Found, ResponseCache, StoreError, StoreResult},
    upstream::{
        Order,
        admission::{Dispatch, Foresight, Step},
        answer::{Events, Heard, Opened},
        attempt,
        slot::Place,
    },
    wire::framer,
};

/// The lead of a flight.
pub(super) struct Lead<'a, H> {
    host: &'a H,
    order: &'a Order,
    feed: Feed,
    /// Where others may join.
    seat: Option<Seat>,
    keep: Option<Keep>,
    /// The flight among all processes, where there is one.
    flight: Option<FlightKey>,
    foresight: Option<Foresight>,
    account: Account,
    /// Tells the own client's part what it took to bring a complete answer, as soon as there is one.
    bringing: Option<oneshot::Sender<Account>>,
}

/// Who brings the answer.
enum Role {
    /// This one, with the lead among all replicas or without it.
    Lead(Option<String>),
    /// Another, and the name under which this one follows.
    Follow(String, String),
    /// It is told already.
    Told,
}

/// What is left to be done for an attempt that failed.
enum Aftermath {
    /// Its place is given back, and how it ended noted.
    Settle(Box<Place>, Verdict),
    /// Another host answered what it failed.
    Blame(BackendHost),
}

impl Aftermath {
    async fn note<H: Host>(self, host: &H) {
        match self {
            Self::Settle(place, verdict) => place.settle(host, verdict).await,
            Self::Blame(backend) => Place::blame(&backend, host).await,
        }
    }
}

impl<'a, H: Host> Lead<'a, H> {
    /// The lead of a flight for this order, with the seat where others may join it.
    pub(super) fn new(
        host: &'a H,
        order: &'a Order,
        (feed, seat): (Feed, Option<Seat>),
        keep: Option<Keep>,
        foresight: Option<Foresight>,
        (account, bringing): (Account, oneshot::Sender<Account>),
    ) -> Self {
        let flight = keep.as_ref().filter(|keep| keep.is_shared).map(|keep| keep.flight_key(order));
        Self { host, order, feed, seat, keep, flight, foresight, account, bringing: Some(bringing) }
    }

    /// Brings the answer; gives the account of what that took.
    pub(super) async fn fly(mut self) -> Account {
        let mut dispatch = Dispatch::new(self.host, self.order, self.foresight.take());
        let mut role = self.role(&mut dispatch).await;
        while let Role::Follow(leader, follower) = role {
            dispatch.release();
            // Following has no limit.
            self.account.renew_budget();
            let names = (&*leader, &*follower);
            let followed = match self.flight.zip(self.keep) {
                Some((flight, keep)) => {
                    let flight = (&flight, &keep.flight_key(self.order));
                    Box::pin(follow(self.host, self.order, &self.feed, flight, names)).await
                }
                None => Followed::Missed,
            };
            role = match followed {
                Followed::Told => Role::Told,
                Followed::Missed => Role::Lead(None),
                Followed::Vanished => self.role(&mut dispatch).await,
                Followed::Late => {
                    self.flight = self.flight.map(|flight| FlightKey { key: flight.key.later(), ..flight });
                    self.role(&mut dispatch).await
                }
            };
        }
        match role {
            Role::Lead(leader) => self.ask(dispatch, leader).await,
            Role::Told | Role::Follow(..) => dispatch.release(),
        }
        drop(self.seat);
        self.account
    }

    /// Looks for the answer, and takes a place ahead, in case that there is none.
    async fn role(&mut self, dispatch: &mut Dispatch<'_, H>) -> Role {
        let (Some(flight), Some(keep)) = (self.flight, self.keep) else { return Role::Lead(None) };
        if self.account.store_failed() {
            self.account.cache = Some(CacheStatus::Bypass);
            return Role::Lead(None);
        }
        // Whoever follows must know what is asked where the key does not say that.
        let asked = keep.question.map(|question| question.to_hex());
        let leader = [random_id(self.host), asked.clone().unwrap_or_default()].join(":");
        let mut ahead = self.account.clone();
        let host = self.host;
        let (budget, max_age) = (ahead.budget.clone(), keep.usage.max_age());
        let looking = async { budget.ask(host).answer_or_lead(&flight, &leader, max_age).await };
        let (found, ()) = join!(Box::pin(looking), Box::pin(dispatch.reserve(&mut ahead)));
        self.account = ahead;
        let found: StoreResult<Found> = found;
        // It may have the lead by now; a publisher finds that out, and ends it.
        let may_lead = matches!(found, Err(StoreError::TimedOut | StoreError::OutOfTime));
        match self.account.tolerate(self.host, "cache_lead", found) {
            Some(Found::Answer(stored)) => {
                if keep.question.is_some() && stored.entry.question() != keep.question {
                    self.fail(Error::IdempotencyKeyReused);
                    return Role::Told;
                }
                let replayed = replay(self.order, &stored.entry).filter(|_| keep.usage.takes(stored.age));
                let Some(replayed) = replayed else { return Role::Lead(None) };
                self.account.cache = Some(CacheStatus::Hit);
                self.open(Opening::Found(replayed, stored.age));
                self.feed.end(Ok(()));
                Role::Told
            }
            Some(Found::Lead) => Role::Lead(Some(leader)),
            Some(Found::Follow { leader: other })
                if asked.as_ref().is_some_and(|asked| !other.ends_with(asked)) =>
            {
                self.fail(Error::IdempotencyKeyReused);
                Role::Told
            }
            Some(Found::Follow { leader: other }) => {
                self.account.cache = Some(CacheStatus::Coalesced);
                Role::Follow(other, leader)
            }
            None => {
                self.account.cache = Some(CacheStatus::Bypass);
                Role::Lead(Some(leader).filter(|_| may_lead))
            }
        }
    }

    fn open(&self, opening: Opening) {
        let Account { cache, host, routes, .. } = &self.account;
        self.feed.open(opening, Source { cache: *cache, backend: host.clone(), routes: routes.clone() });
    }

    /// The answer is complete, and what comes now only stores it.
    fn tell_account(&mut self) {
        if let Some(bringing) = self.bringing.take() {
            // A client that left needs no account.
            let _ = bringing.send(self.account.clone());
        }
    }

    fn fail(&self, error: Error) {
        self.open(Opening::Failed(error.clone()));
        self.feed.end(Err(error));
    }

    /// Asks upstream, and tells other replicas where there are any.
    async fn ask(&mut self, dispatch: Dispatch<'_, H>, leader: Option<String>) {
        if self.account.cache == Some(CacheStatus::Coalesced) {
            self.account.cache = Some(CacheStatus::Miss);
        }
        self.feed.note_fresh();
        let publisher = leader
            .zip(self.flight)
            .and_then(|(leader, flight)| Publisher::new(self.host, &self.feed, flight, leader));
        let feed = self.feed.clone();
        let publishing = OptionFuture::from(publisher.map(|publisher| Box::pin(publisher.publish())));
        let (end, _) = join!(Box::pin(self.bring(dispatch)), publishing);
        feed.end(end);
    }

    /// Asks upstream and writes what comes; what the answer changes is stored when it returns.
    async fn bring(&mut self, dispatch: Dispatch<'_, H>) -> Result<(), Error> {
        let host = self.host;
        let (aftermath, failures) = unbounded();
        let (is_noted, noted) = oneshot::channel();
        // The next attempt does not wait until the one before is noted, and no answer does.
        let noting = async {
            failures.for_each_concurrent(None, |failure: Aftermath| failure.note(host)).await;
            let _ = is_noted.send(());
        };
        let bringing = async {
            match self.attempts(dispatch, aftermath).await {
                Ok((opened, place)) => self.hand_over(opened, place).await,
                Err(error) => {
                    // Whoever reads that and goes on at once must find the places free.
                    let _ = noted.await;
                    if self.account.store_failed() {
                        self.feed.cut_off();
                    }
                    self.fail(error.clone());
                    Err(error)
                }
            }
        };
        join!(Box::pin(bringing), Box::pin(noting)).0
    }

    /// Writes what was opened; what it changes is stored when it returns.
    async fn hand_over(&mut self, opened: Opened<H::Body>, place: Box<Place>) -> Result<(), Error> {
        match opened {
            Opened::Stream { content_type, first, events } => {
                let kind = content_type.to_str().unwrap_or_default().to_owned();
                self.open(Opening::Stream { content_type });
                let mut place = Some(place);
                let (end, verdict) = self.relay(&kind, first, events, &mut place).await;
                if let Err(error) = &end {
                    self.feed.end(Err(error.clone()));
                }
                if let Some(place) = place {
                    place.settle(self.host, verdict).await;
                }
                end
            }
            Opened::Spoken(mut heard) => {
                let answer = heard.answer();
                let entry = self.entry(Form::Whole, "application/json", || Some(answer.to_json().into()));
                let kept = self.kept_whole(entry, !answer.is_empty());
                self.tell_account();
                self.open(Opening::Spoken(answer.into()));
                self.conclude(kept, place).await;
                Ok(())
            }
            Opened::Whole(original) => {
                let says = self.says_something(&original);
                let kind = original.content_type.as_ref().and_then(|kind| kind.to_str().ok());
                let kind = kind.unwrap_or_default();
                let entry = self.entry(Form::Whole, kind, || Some(original.body.clone()));
                let kept = self.kept_whole(entry, says);
                self.tell_account();
                self.open(Opening::Whole(original));
                self.conclude(kept, place).await;
                Ok(())
            }
        }
    }

    async fn attempts(
        &mut self,
        mut dispatch: Dispatch<'_, H>,
        aftermath: UnboundedSender<Aftermath>,
    ) -> Result<(Opened<H::Body>, Box<Place>), Error> {
        let (host, order) = (self.host, self.order);
        let (feed, account) = (&self.feed, &mut self.account);
        let mut failover = Failover::default();
        let mut failed = Vec::new();
        let mut missing = None;
        while failover.may_go_on() {
            let step = feed.during(Box::pin(dispatch.next(&failover, account))).await;
            let Ok(step) = step else {
                dispatch.leave().await;
                return Err(Error::ClientClosed);
            };
            let place = match step {
                Step::Go(place) => place,
                Step::Refuse(error) => return Err(error),
                Step::None(error) => {
                    missing = error;
                    break;
                }
            };
            let backend = place.backend.clone();
            // Counted as given up until the attempt has an end, for a client may leave at any time.
            let attempt = Attempt {
                host: backend.url().to_owned(),
                outcome: "cancelled",
                cold: place.cold && place.is_taken(),
            };
            account.attempts.push(attempt);
            let (outcome, place) = attempt::attempt(host, &dispatch, order, feed, place, account).await;
            if let Some(attempt) = account.attempts.last_mut() {
                attempt.outcome = outcome.as_ref().map_or_else(AttemptFailure::word, |_| "ok");
            }
            // Without one the request is seen through although its client left.
            let Some(place) = place else { return Err(Error::ClientClosed) };
            match outcome {
                Ok(opened) => {
                    for failed in failed {
                        let _ = aftermath.unbounded_send(Aftermath::Blame(failed));
                    }
                    account.host = Some(backend);
                    account.first_token = place.first_byte().filter(|_| order.streams && place.is_taken());
                    if let Opened::Spoken(heard) = &opened {
                        account.tokens = heard.tokens();
                        account.speed = heard.speed(place.since_first_byte(host));
                    }
                    return Ok((opened, place));
                }
                Err(failure) => {
                    if failure == AttemptFailure::ClientLeft {
                        let _ = aftermath.unbounded_send(Aftermath::Settle(place, Verdict::Neutral));
                        return Err(Error::ClientClosed);
                    }
                    host.record(&Event::AttemptFailed {
                        request_id: &account.request_id,
                        host: backend.url(),
                        outcome: failure.word(),
                        detail: &failure.detail(),
                    });
                    let _ = aftermath.unbounded_send(Aftermath::Settle(place, failure.verdict()));
                    // Its own words may be what the client reads in the end.
                    if matches!(failure, AttemptFailure::Rejected { .. } | AttemptFailure::Failed { .. }) {
                        account.host = Some(backend.clone());
                    }
                    if matches!(failure, AttemptFailure::Failed { .. }) {
                        failed.push(backend);
                    } else if failure == AttemptFailure::NotFound {
                        dispatch.forget(&backend);
                    }
                    failover.failed(failure);
                }
            }
        }
        Err(failover.verdict(missing))
    }

    /// Writes the events of an answer to the feed, and stores what the answer changes.
    async fn relay(
        &mut self,
        content_type: &str,
        first: Bytes,
        mut events: Events<H::Body>,
        place: &mut Option<Box<Place>>,
    ) -> (Result<(), Error>, Verdict) {
        let mut heard = Heard::new(false);
        let end = self.relay_events(first, &mut events, &mut heard).await;
        self.account.tokens = heard.tokens();
        if let Some(attempt) = self.account.attempts.last_mut() {
            attempt.outcome = end.as_ref().map_or_else(AttemptFailure::word, |_| "ok");
        }
        match end {
            Ok(last) => {
                let since = place.as_ref().and_then(|place| place.since_first_byte(self.host));
                self.account.speed = heard.speed(since);
                self.tell_account();
                self.feed.complete(last);
                let entry = self
                    .entry(Form::Stream, content_type, || self.feed.whole().filter(|_| !heard.is_empty()));
                if let Some(place) = place.take() {
                    self.conclude(entry.and_then(|entry| self.kept(&entry).zip(Some(entry))), place).await;
                }
                events.drain(self.host);
                (Ok(()), Verdict::Answered)
            }
            Err(failure) => {
                let verdict = failure.verdict();
                (Err(failure.into_error()), verdict)
            }
        }
    }

    /// Writes every event but the terminator, which is given back.
    async fn relay_events(
        &mut self,
        first: Bytes,
        events: &mut Events<H::Body>,
        heard: &mut Heard,
    ) -> Result<Bytes, AttemptFailure> {
        let mut event = first;
        loop {
            let data = framer::data(events.framing(), &event);
            if let (Some(data), Some(protocol)) = (&data, self.order.protocol) {
                let chunk = protocol.read(data).ok_or_else(|| broken(NO_EVENT))?;
                heard.add(&chunk).map_err(broken)?;
                if let Some(error) = &chunk.error {
                    let failure = AttemptFailure::told(error);
                    self.feed.tell(event.clone()).await?;
                    return Err(failure);
                }
                if chunk.end {
                    return Ok(event);
                }
                if events.has_ended() {
                    return Err(broken(UNFINISHED));
                }
            }
            self.feed.write(event).await?;
            let next = self.feed.during(events.next()).await??;
            event = next.ok_or_else(|| broken(UNFINISHED))?;
        }
    }
}

impl From<ClientLeft> for Error {
    fn from(_: ClientLeft) -> Self {
        Self::ClientClosed
    }
}
