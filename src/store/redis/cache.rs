//! Cached answers and flights in Redis. All keys of one question are in one hash slot, with those of other questions in the
//! same part of the cache: each part counts what it holds, in the step that stores an answer, and has its own limit.
//!
//! A flight is a key with its leader's name, which expires; the events that the leader hands over are a separate list,
//! which grows only while the flight has followers. A leader that has lost the lead changes nothing.

mod scripts;

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;

use super::{RedisCommands, RedisStore, RedisValue, milliseconds_text};
use crate::{
    cache::{AllEpochs, CacheKey, Delivery, EPOCHS, Entry, Epochs, Stored},
    store::{
        Audience, FLIGHT_LEASE, FlightBoard, FlightEnd, FlightKey, Followed, Found, ResponseCache,
        StoreError, StoreResult,
    },
};
use scripts::{ANSWER_OR_LEAD, BEGIN_EPOCHS, END, FOLLOW, PUBLISH, PURGE, PUT_ANSWER};

/// How long a follower counts after its last read, unless it leaves earlier.
const ATTENTION: Duration = Duration::from_secs(3);
/// How long handed-over events are kept.
const LOG: Duration = Duration::from_secs(30);

/// How many parts the cache has.
const PARTS: u8 = 16;
/// The bytes that Redis takes for an answer beside its value: its key, its end, and its places in what the part counts.
const ANSWER_OVERHEAD: &str = "1024";

/// The number of digits of an entry's number in the log, as the scripts are told.
const NUMBER: usize = 8;
/// The byte after the number that tells the kind of a log entry.
const EVENT: u8 = b'e';
const LANDED: u8 = b'l';
const ANSWERED: u8 = b'a';
const FAILED: u8 = b'f';
const ABANDONED: u8 = b'x';

impl<C: RedisCommands> RedisStore<C> {
    /// What the names of all keys of a part of the cache begin with. What stands in braces determines the hash slot.
    fn part(&self, key: &CacheKey) -> String {
        let part = key.as_bytes().first().copied().unwrap_or_default() % PARTS;
        format!("{}:{{cache {part}}}:", self.prefix)
    }

    fn question_key(&self, kind: &str, key: &CacheKey) -> String {
        format!("{}{}:{kind}", self.part(key), key.to_hex())
    }

    fn epochs_key(&self) -> String {
        format!("{}:epochs:1", self.prefix)
    }

    /// The epochs, which begin where a new server has none, or an old one has lost them.
    async fn begun_epochs(&self) -> StoreResult<AllEpochs> {
        let reply = self.ask("EVAL", &[BEGIN_EPOCHS, b"1", self.epochs_key().as_bytes()]).await?;
        let epochs = all_epochs(&reply).ok_or(StoreError::UnexpectedReply("the epochs"))?;
        self.has_epochs.store(true, Ordering::Relaxed);
        Ok(epochs)
    }

    /// The key of an answer that serves both deliveries, or only `alone`.
    fn answer_key(&self, key: &CacheKey, alone: Option<Delivery>) -> String {
        format!("{}{ANSWERS}{}", self.part(key), answer_name(key, alone))
    }

    /// Stores an answer, or with an empty value only makes room; gives whether it is stored, and the limit of its part that
    /// held.
    async fn put(
        &self,
        (key, entry): (&CacheKey, &Entry),
        value: &[u8],
        ttl: &str,
        limit: Option<u64>,
    ) -> StoreResult<(bool, Option<u64>)> {
        let part = self.part(key);
        let name = answer_name(key, entry.serves_one_delivery().then_some(entry.form()));
        let [answer, held, ends, owners, first] =
            [&*format!("{ANSWERS}{name}"), "held:1", "ends:1", "owners:1", ANSWERS]
                .map(|name| format!("{part}{name}"));
        let owner = hex::encode(entry.owner().as_bytes());
        let limit = limit.map(|limit| (limit / u64::from(PARTS)).to_string()).unwrap_or_default();
        let mut arguments: Vec<&[u8]> = vec![PUT_ANSWER, b"4"];
        arguments.extend([&*answer, &held, &ends, &owners].map(str::as_bytes));
        arguments.push(value);
        arguments.extend([ttl, &owner, &name, &first, &limit, ANSWER_OVERHEAD].map(str::as_bytes));
        let reply = self.keep("EVAL", &arguments).await?;
        let held = match reply.get(1) {
            Some(RedisValue::Bytes(text)) => {
                std::str::from_utf8(text).ok().and_then(|text| text.parse().ok())
            }
            Some(RedisValue::Nil | RedisValue::Integer(_) | RedisValue::Status(_)) | None => None,
        };
        Ok((!matches!(reply.first(), Some(RedisValue::Integer(0))), held))
    }

    fn answer_keys(&self, flight: &FlightKey) -> [String; 2] {
        [None, Some(flight.form)].map(|alone| self.answer_key(&flight.key, alone))
    }

    /// The keys of a flight: the flight, its log, and its followers.
    fn flight_keys(&self, flight: &FlightKey, leader: &str) -> [String; 3] {
        let form = flight.form.letter();
        [
            self.question_key(&format!("flight:5:{form}"), &flight.key),
            self.question_key(&format!("log:5:{leader}"), &flight.key),
            self.question_key(&format!("audience:5:{form}"), &flight.key),
        ]
    }

    /// Hands log entries over with one of the two scripts for that.
    async fn hand_over(
        &self,
        script: &'static [u8],
        flight: &FlightKey,
        leader: &str,
        (from, forget): (usize, usize),
        entries: &[Vec<u8>],
    ) -> StoreResult<Audience> {
        let keys = self.flight_keys(flight, leader);
        let (hold, log) = (milliseconds_text(FLIGHT_LEASE), milliseconds_text(LOG));
        let (from, forget, number) = (from.to_string(), forget.to_string(), NUMBER.to_string());
        let mut arguments: Vec<&[u8]> = vec![script, b"3"];
        arguments.extend(keys.iter().map(String::as_bytes));
        arguments.extend([leader, &hold, &log, &from, &forget, &number].map(str::as_bytes));
        arguments.extend(entries.iter().map(Vec::as_slice));
        match self.keep("EVAL", &arguments).await?.first() {
            Some(RedisValue::Integer(0)) => Ok(Audience::None),
            Some(RedisValue::Integer(1)) => Ok(Audience::Some),
            Some(RedisValue::Integer(2)) => Ok(Audience::Lost),
            _ => Err(StoreError::UnexpectedReply("a flight")),
        }
    }
}

/// What the names of answers begin with in their part.
const ANSWERS: &str = "answer:5:";

/// The name of an answer in its part.
fn answer_name(key: &CacheKey, alone: Option<Delivery>) -> String {
    [&*key.to_hex(), alone.map(|_| ":").unwrap_or_default(), alone.map(Delivery::letter).unwrap_or_default()]
        .concat()
}

/// An epoch from the reply; `None` where there is none.
fn epoch(value: Option<&RedisValue>) -> Option<u64> {
    match value {
        Some(RedisValue::Bytes(text)) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// The epochs in the fields and values of the hash; `None` where the one of all models is missing.
fn all_epochs(reply: &[RedisValue]) -> Option<AllEpochs> {
    let (mut all, mut models) = (None, BTreeMap::new());
    for pair in reply.chunks_exact(2) {
        let [RedisValue::Bytes(model), number] = pair else { continue };
        match (String::from_utf8_lossy(model).into_owned(), epoch(Some(number))) {
            (name, number) if name.is_empty() => all = number,
            (name, number) => models.extend(number.map(|number| (name, number))),
        }
    }
    Some(AllEpochs { all: all?, models })
}

/// The stored answer with its age; `None` for a value that another version wrote.
fn stored(value: Vec<u8>, left: i64) -> Option<Stored> {
    let (entry, ttl) = Entry::from_bytes(&value.into())?;
    let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
    Some(Stored { entry, age: ttl.saturating_sub(left) })
}

/// A log entry: its number, its kind, and its content.
fn entry(number: usize, kind: u8, bytes: &[u8]) -> Vec<u8> {
    [format!("{number:0NUMBER$}").as_bytes(), &[kind], bytes].concat()
}

fn logged(from: usize, events: &[Bytes]) -> Vec<Vec<u8>> {
    (from..).zip(events).map(|(number, event)| entry(number, EVENT, event)).collect()
}

impl<C: RedisCommands> ResponseCache for RedisStore<C> {
    async fn epochs(&self, model: &str) -> StoreResult<Epochs> {
        // On a server that is not known yet they begin in the wave that reads them.
        if !self.has_epochs.load(Ordering::Relaxed) {
            return Ok(self.begun_epochs().await?.of(model));
        }
        let key = self.epochs_key();
        let reply = self.ask("HMGET", &[key.as_bytes(), b"", model.as_bytes()]).await?;
        match epoch(reply.first()) {
            Some(all) => Ok(Epochs { all, model: epoch(reply.get(1)).unwrap_or_default() }),
            None => Ok(self.begun_epochs().await?.of(model)),
        }
    }

    async fn all_epochs(&self) -> StoreResult<Option<AllEpochs>> {
        if !self.has_epochs.load(Ordering::Relaxed) {
            return self.begun_epochs().await.map(Some);
        }
        let reply = self.ask("HGETALL", &[self.epochs_key().as_bytes()]).await?;
        match all_epochs(&reply) {
            Some(epochs) => Ok(Some(epochs)),
            None => self.begun_epochs().await.map(Some),
        }
    }

    async fn purge(&self, model: Option<&str>) -> StoreResult<()> {
        let (key, limit) = (self.epochs_key(), EPOCHS.to_string());
        let model = model.unwrap_or_default().as_bytes();
        self.keep_safe("EVAL", &[PURGE, b"1", key.as_bytes(), model, limit.as_bytes()]).await?;
        Ok(())
    }

    async fn answer(&self, flight: &FlightKey) -> StoreResult<Option<Stored>> {
        let keys = self.answer_keys(flight);
        let [both, alone] = keys.each_ref().map(|key| [key.as_bytes()]);
        let names = [both, alone].concat();
        let (values, left, left_alone) =
            futures::join!(self.ask("MGET", &names), self.ask("PTTL", &both), self.ask("PTTL", &alone));
        let mut youngest = None;
        for (value, left) in values?.into_iter().zip([left?, left_alone?]) {
            match (value, left.first()) {
                (RedisValue::Bytes(value), Some(RedisValue::Integer(left))) => {
                    youngest = youngest.max(Some((*left, value)));
                }
                (RedisValue::Nil, _) => {}
                (RedisValue::Bytes(_), _) => return Err(StoreError::UnexpectedReply("PTTL")),
                (RedisValue::Integer(_) | RedisValue::Status(_), _) => {
                    return Err(StoreError::UnexpectedReply("MGET"));
                }
            }
        }
        Ok(youngest.and_then(|(left, value)| stored(value, left)))
    }

    async fn put_answer(&self, key: &CacheKey, entry: &Entry, ttl: Duration) -> StoreResult<()> {
        let (value, ttl) = (entry.to_bytes(ttl), milliseconds_text(ttl));
        let limit = self.answers_limit();
        let put = self.put((key, entry), &value, &ttl, limit);
        let is_stored = if limit.is_some() {
            put.await?.0
        } else {
            // Whoever does not know the server yet asks it meanwhile, and lets the part keep the limit that another knew.
            let (put, ()) = futures::join!(put, self.learn_memory());
            let (is_stored, held) = put?;
            let limit = self.answers_limit();
            if limit.map(|limit| limit / u64::from(PARTS)) != held {
                self.put((key, entry), b"", &ttl, limit).await?;
            }
            is_stored
        };
        if is_stored { Ok(()) } else { Err(StoreError::Full) }
    }
}

impl<C: RedisCommands> FlightBoard for RedisStore<C> {
    async fn answer_or_lead(
        &self,
        flight: &FlightKey,
        leader: &str,
        max_age: Option<Duration>,
    ) -> StoreResult<Found> {
        let [both, alone] = self.answer_keys(flight);
        let [key, _, audience] = self.flight_keys(flight, leader);
        let (hold, attention) = (milliseconds_text(FLIGHT_LEASE), milliseconds_text(ATTENTION));
        let max_age = max_age.map(|age| age.as_millis().to_string()).unwrap_or_default();
        let mut arguments: Vec<&[u8]> = vec![ANSWER_OR_LEAD, b"4"];
        arguments.extend([&key, &audience, &both, &alone].map(String::as_bytes));
        arguments.extend([leader, &hold, &attention, &max_age].map(str::as_bytes));
        for _ in 0..2 {
            let mut reply = self.ask("EVAL", &arguments).await?.into_iter();
            match (reply.next(), reply.next(), reply.next()) {
                (
                    Some(RedisValue::Integer(1)),
                    Some(RedisValue::Bytes(value)),
                    Some(RedisValue::Integer(left)),
                ) => {
                    if let Some(stored) = stored(value, left) {
                        return Ok(Found::Answer(stored));
                    }
                    // The script took no lead beside a value that nobody can read, so the value goes.
                    self.keep("DEL", &[both.as_bytes(), alone.as_bytes()]).await?;
                }
                (Some(RedisValue::Integer(2)), ..) => return Ok(Found::Lead),
                (Some(RedisValue::Integer(3)), Some(RedisValue::Bytes(leader)), _) => {
                    return Ok(Found::Follow { leader: String::from_utf8_lossy(&leader).into_owned() });
                }
                _ => break,
            }
        }
        Err(StoreError::UnexpectedReply("a question"))
    }

    async fn publish(
        &self,
        flight: &FlightKey,
        leader: &str,
        from: usize,
        forget: usize,
        events: &[Bytes],
    ) -> StoreResult<Audience> {
        self.hand_over(PUBLISH, flight, leader, (from, forget), &logged(from, events)).await
    }

    async fn end_flight(
        &self,
        flight: &FlightKey,
        leader: &str,
        from: usize,
        events: &[Bytes],
        end: &FlightEnd,
    ) -> StoreResult<()> {
        let (kind, said): (u8, &[u8]) = match end {
            FlightEnd::Landed => (LANDED, b""),
            FlightEnd::Answered(value) => (ANSWERED, value),
            FlightEnd::Failed(record) => (FAILED, record),
            FlightEnd::Abandoned => (ABANDONED, b""),
        };
        let mut entries = logged(from, events);
        entries.push(entry(from + events.len(), kind, said));
        self.hand_over(END, flight, leader, (from, 0), &entries).await?;
        Ok(())
    }

    async fn follow(
        &self,
        flight: &FlightKey,
        leader: &str,
        follower: &str,
        heard: usize,
    ) -> StoreResult<Followed> {
        let keys = self.flight_keys(flight, leader);
        let (heard, attention, number) =
            (heard.to_string(), milliseconds_text(ATTENTION), NUMBER.to_string());
        let mut arguments: Vec<&[u8]> = vec![FOLLOW, b"3"];
        arguments.extend(keys.iter().map(String::as_bytes));
        arguments.extend([leader, &heard, &attention, follower, &number].map(str::as_bytes));
        arguments.push(&[ABANDONED]);
        let mut reply = self.keep("EVAL", &arguments).await?.into_iter();
        let Some(RedisValue::Integer(is_led)) = reply.next() else {
            return Err(StoreError::UnexpectedReply("a flight"));
        };
        let mut found = Followed { events: Vec::new(), end: None, is_led: is_led == 1 };
        for value in reply {
            let RedisValue::Bytes(entry) = value else { return Err(StoreError::UnexpectedReply("a flight")) };
            let entry = Bytes::from(entry);
            let said = entry.slice(entry.len().min(NUMBER + 1)..);
            found.end = Some(match entry.get(NUMBER) {
                Some(&EVENT) => {
                    found.events.push(said);
                    continue;
                }
                Some(&LANDED) => FlightEnd::Landed,
                Some(&ANSWERED) => FlightEnd::Answered(said),
                Some(&FAILED) => FlightEnd::Failed(said),
                // Whatever another version says is no help.
                Some(_) | None => FlightEnd::Abandoned,
            });
            break;
        }
        Ok(found)
    }

    async fn leave_flight(&self, flight: &FlightKey, follower: &str) -> StoreResult<()> {
        let [.., audience] = self.flight_keys(flight, "");
        self.keep("ZREM", &[audience.as_bytes(), follower.as_bytes()]).await?;
        Ok(())
    }
}
