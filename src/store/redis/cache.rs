//! Answers, in Redis, and the flights that bring them. All keys of one question lie in one hash slot.
//!
//! A flight is a key that names its leader and ends by itself; what the leader hands over is a list of its own, which
//! only grows while somebody follows. No script decides anything, and a leader that is late changes nothing.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    cache::{AllEpochs, CacheKey, Entry, Epochs, Stored},
    store::{
        Audience, FLIGHT_LEASE, FlightEnd, FlightKey, Followed, Found, ResponseCache, StoreError,
        StoreResult,
        redis::{RedisCommands, RedisStore, RedisValue, milliseconds},
    },
};

/// How long a follower counts as listening after it last asked.
const ATTENTION: Duration = Duration::from_secs(3);
/// How long what was handed over is kept.
const LOG: Duration = Duration::from_secs(30);
/// How long it is remembered that the cache was emptied: longer than any answer lives.
const EPOCH: Duration = Duration::from_hours(24 * 365);

/// KEYS: answer, flight. ARGV: who would lead, how long in ms.
/// Gives 1, the answer and its time to live in ms; or 2; or 3 and who leads.
const ANSWER_OR_LEAD: &[u8] = b"
local answer = redis.call('GET', KEYS[1])
if answer then return {1, answer, redis.call('PTTL', KEYS[1])} end
local leader = redis.call('GET', KEYS[2])
if leader and leader ~= ARGV[1] then return {3, leader} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {2}
";

/// Hands entries of a log over; what happens to the lead and the log before anybody is known to listen is `$lead`.
macro_rules! handing_over {
    ($lead:literal) => {
        concat!(
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 2 end\n",
            $lead,
            "
if redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
local first = redis.call('LINDEX', KEYS[2], 0)
local base = first and tonumber(string.sub(first, 1, 8)) or 0
local known = base + redis.call('LLEN', KEYS[2]) - tonumber(ARGV[4])
if known < 0 then return 2 end
for i = 6 + known, #ARGV do redis.call('RPUSH', KEYS[2], ARGV[i]) end
if tonumber(ARGV[5]) > base then redis.call('LTRIM', KEYS[2], ARGV[5] - base, -1) end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
"
        )
        .as_bytes()
    };
}

/// KEYS: flight, log, audience. ARGV: who leads, how long in ms, how long the log is kept in ms, how many entries were
/// handed over before, how many of all are forgotten, further entries. Those that were handed over are passed over. Each
/// entry begins with its number, so that the first one tells how many were forgotten.
/// Gives 0 when nobody listens, 1 when somebody does, 2 when somebody else leads or the log has a gap.
const PUBLISH: &[u8] =
    handing_over!("redis.call('PEXPIRE', KEYS[1], ARGV[2]) redis.call('PEXPIRE', KEYS[2], ARGV[3])");

/// As the former; the flight is over, and whoever came to listen meanwhile finds how it ended.
const END: &[u8] = handing_over!("redis.call('DEL', KEYS[1])");

/// KEYS: flight, log, audience. ARGV: who leads, how many entries are known, how long the attention holds in ms.
/// Gives 1 while that one leads, else 0; then the entries since.
const FOLLOW: &[u8] = b"
local is_led = redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
if is_led == 1 then redis.call('SET', KEYS[3], '1', 'PX', ARGV[3]) end
local first = redis.call('LINDEX', KEYS[2], 0)
local base = first and tonumber(string.sub(first, 1, 8)) or 0
local from = tonumber(ARGV[2]) - base
if from < 0 then return {is_led, string.sub(first, 1, 8) .. 'f'} end
local reply = redis.call('LRANGE', KEYS[2], from, -1)
table.insert(reply, 1, is_led)
return reply
";

/// KEYS: epochs. ARGV: the model or '', how long it is remembered in ms.
const PURGE: &[u8] = b"
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[1], ARGV[1], now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
";

/// How many digits the number of an entry has, as the scripts read it.
const NUMBER: usize = 8;
/// What stands behind the number of each entry of a log.
const EVENT: u8 = b'e';
const LANDED: u8 = b'l';
const FAILED: u8 = b'f';

impl<C: RedisCommands> RedisStore<C> {
    fn question_key(&self, kind: &str, key: &CacheKey) -> String {
        format!("{}:{{{}}}:{kind}", self.prefix, key.to_hex())
    }

    fn epochs_key(&self) -> String {
        format!("{}:epochs:1", self.prefix)
    }

    /// The keys of a flight: itself, its log, and whether anybody listens.
    fn flight_keys(&self, flight: &FlightKey, leader: &str) -> [String; 3] {
        let form = flight.form.letter();
        [
            self.question_key(&format!("flight:3:{form}"), &flight.key),
            self.question_key(&format!("log:3:{leader}"), &flight.key),
            self.question_key(&format!("audience:3:{leader}"), &flight.key),
        ]
    }

    /// Hands entries of the log over by one of the two scripts that do.
    async fn hand_over(
        &self,
        script: &'static [u8],
        flight: &FlightKey,
        leader: &str,
        (from, forget): (usize, usize),
        entries: &[Vec<u8>],
    ) -> StoreResult<Audience> {
        let keys = self.flight_keys(flight, leader);
        let (hold, log) = (milliseconds(FLIGHT_LEASE), milliseconds(LOG));
        let (from, forget) = (from.to_string(), forget.to_string());
        let mut arguments: Vec<&[u8]> = vec![script, b"3"];
        arguments.extend(keys.iter().map(String::as_bytes));
        arguments.extend([leader, &hold, &log, &from, &forget].map(str::as_bytes));
        arguments.extend(entries.iter().map(Vec::as_slice));
        match self.keep("EVAL", &arguments).await?.first() {
            Some(RedisValue::Integer(0)) => Ok(Audience::None),
            Some(RedisValue::Integer(1)) => Ok(Audience::Some),
            Some(RedisValue::Integer(2)) => Ok(Audience::Lost),
            _ => Err(StoreError::UnexpectedReply("a flight")),
        }
    }
}

/// What was emptied never is in epoch 0.
fn epoch(value: Option<&RedisValue>) -> u64 {
    match value {
        Some(RedisValue::Bytes(text)) => {
            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
        }
        _ => 0,
    }
}

/// The answer that a value is, with its age; a value that another version wrote is none.
fn stored(value: Vec<u8>, left: i64) -> Option<Stored> {
    let (entry, ttl) = Entry::from_bytes(&value.into())?;
    let left = Duration::from_millis(u64::try_from(left).unwrap_or_default());
    Some(Stored { entry, age: ttl.saturating_sub(left) })
}

/// An entry of a log: its number, what it is, and what it says.
fn entry(number: usize, kind: u8, bytes: &[u8]) -> Vec<u8> {
    [format!("{number:0NUMBER$}").as_bytes(), &[kind], bytes].concat()
}

fn logged(from: usize, events: &[Bytes]) -> Vec<Vec<u8>> {
    (from..).zip(events).map(|(number, event)| entry(number, EVENT, event)).collect()
}

impl<C: RedisCommands> ResponseCache for RedisStore<C> {
    async fn epochs(&self, model: &str) -> StoreResult<Epochs> {
        let key = self.epochs_key();
        let reply = self.ask("HMGET", &[key.as_bytes(), b"", model.as_bytes()]).await?;
        Ok(Epochs { all: epoch(reply.first()), model: epoch(reply.get(1)) })
    }

    async fn all_epochs(&self) -> StoreResult<Option<AllEpochs>> {
        let reply = self.ask("HGETALL", &[self.epochs_key().as_bytes()]).await?;
        let mut epochs = AllEpochs::default();
        for pair in reply.chunks_exact(2) {
            let [RedisValue::Bytes(model), count] = pair else { continue };
            match String::from_utf8_lossy(model).into_owned() {
                name if name.is_empty() => epochs.all = epoch(Some(count)),
                name => drop(epochs.models.insert(name, epoch(Some(count)))),
            }
        }
        Ok(Some(epochs))
    }

    async fn purge(&self, model: Option<&str>) -> StoreResult<()> {
        let (key, hold) = (self.epochs_key(), milliseconds(EPOCH));
        let model = model.unwrap_or_default().as_bytes();
        self.keep("EVAL", &[PURGE, b"1", key.as_bytes(), model, hold.as_bytes()]).await?;
        Ok(())
    }

    async fn answer(&self, key: &CacheKey) -> StoreResult<Option<Stored>> {
        let key = self.question_key("answer:3", key);
        let key = [key.as_bytes()];
        let (value, left) = futures::join!(self.ask("GET", &key), self.ask("PTTL", &key));
        let left = left?;
        match value?.into_iter().next() {
            Some(RedisValue::Bytes(value)) => match left.first() {
                Some(RedisValue::Integer(left)) => Ok(stored(value, *left)),
                _ => Err(StoreError::UnexpectedReply("PTTL")),
            },
            Some(RedisValue::Nil) | None => Ok(None),
            Some(RedisValue::Integer(_) | RedisValue::Status(_)) => Err(StoreError::UnexpectedReply("GET")),
        }
    }

    async fn answer_or_lead(&self, flight: &FlightKey, leader: &str) -> StoreResult<Found> {
        let answer = self.question_key("answer:3", &flight.key);
        let [key, ..] = self.flight_keys(flight, leader);
        let hold = milliseconds(FLIGHT_LEASE);
        let arguments: [&[u8]; 6] =
            [ANSWER_OR_LEAD, b"2", answer.as_bytes(), key.as_bytes(), leader.as_bytes(), hold.as_bytes()];
        let mut reply = self.ask("EVAL", &arguments).await?.into_iter();
        match (reply.next(), reply.next(), reply.next()) {
            (
                Some(RedisValue::Integer(1)),
                Some(RedisValue::Bytes(value)),
                Some(RedisValue::Integer(left)),
            ) => Ok(stored(value, left).map_or(Found::Lead, Found::Answer)),
            (Some(RedisValue::Integer(2)), ..) => Ok(Found::Lead),
            (Some(RedisValue::Integer(3)), Some(RedisValue::Bytes(leader)), _) => {
                Ok(Found::Follow { leader: String::from_utf8_lossy(&leader).into_owned() })
            }
            _ => Err(StoreError::UnexpectedReply("a question")),
        }
    }

    async fn put_answer(&self, key: &CacheKey, entry: &Entry, ttl: Duration) -> StoreResult<()> {
        let key = self.question_key("answer:3", key);
        let value = entry.to_bytes(ttl);
        self.keep("SET", &[key.as_bytes(), &value, b"PX", milliseconds(ttl).as_bytes()]).await?;
        Ok(())
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
        end: FlightEnd,
    ) -> StoreResult<()> {
        let end = match end {
            FlightEnd::Landed => LANDED,
            FlightEnd::Failed => FAILED,
        };
        let mut entries = logged(from, events);
        entries.push(entry(from + events.len(), end, b""));
        self.hand_over(END, flight, leader, (from, 0), &entries).await?;
        Ok(())
    }

    async fn follow(&self, flight: &FlightKey, leader: &str, heard: usize) -> StoreResult<Followed> {
        let keys = self.flight_keys(flight, leader);
        let (heard, attention) = (heard.to_string(), milliseconds(ATTENTION));
        let mut arguments: Vec<&[u8]> = vec![FOLLOW, b"3"];
        arguments.extend(keys.iter().map(String::as_bytes));
        arguments.extend([leader.as_bytes(), heard.as_bytes(), attention.as_bytes()]);
        let mut reply = self.keep("EVAL", &arguments).await?.into_iter();
        let Some(RedisValue::Integer(is_led)) = reply.next() else {
            return Err(StoreError::UnexpectedReply("a flight"));
        };
        let mut followed = Followed { events: Vec::new(), end: None, is_led: is_led == 1 };
        for value in reply {
            let RedisValue::Bytes(entry) = value else { return Err(StoreError::UnexpectedReply("a flight")) };
            let entry = Bytes::from(entry);
            match entry.get(NUMBER) {
                Some(&EVENT) => followed.events.push(entry.slice(NUMBER + 1..)),
                Some(&LANDED) => followed.end = Some(FlightEnd::Landed),
                // Whatever another version says is no help.
                _ => followed.end = Some(FlightEnd::Failed),
            }
        }
        Ok(followed)
    }
}
