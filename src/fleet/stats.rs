//! What attempts taught about a host: its breaker, and for each of its lanes a breaker, the speed, the proof that the model
//! is loaded, and a lowered limit.
//!
//! Pure values and transitions; times are by the store's clock. Values are stored in whole milliseconds.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{
    breaker::{Breaker, Cause, OpenUntil, Scope},
    prefix::{Conversation, Known, Prefixes},
};
use crate::wire::members::{self, Members};

/// How many lanes of one host have stats; beyond that the one that was used longest ago is dropped.
const LANES_LIMIT: usize = 48;
/// How many times to the first byte are kept for the 95th percentile.
const SAMPLES: usize = 20;
/// The time constant of the averages: a sample that comes this long after the one before weighs half.
const MEMORY: Duration = Duration::from_secs(10);
/// The least that one sample weighs in the average of service times, in percent, after the first samples.
const LEAST_WEIGHT: u64 = 3;
/// The most that it weighs.
const MOST_WEIGHT: u64 = 10;
/// The most conversations of a lane that are remembered, however many slots its host has.
const CONVERSATIONS_LIMIT: usize = 16;
/// The fewest bytes of a prompt that were not known from which the evaluation speed is measured: less takes no longer than
/// everything else before a first byte.
const PROMPT: u64 = 1024;
/// What a sample below the average of `pace` weighs, in percent; a sample above it replaces the average.
const PACE: u64 = 2;
/// The largest time that is read from a store, in milliseconds: no time since 1970 is longer for long, and sums and products
/// of such times are numbers.
const STORED_LIMIT: u64 = 1 << 42;
/// How many looks without an answer, one after the other, show that a host is silent.
const UNHEARD: u64 = 2;
/// How long a first byte, or a request that ended well, shows that its host is not silent.
const WELL: Duration = Duration::from_secs(15);
/// The time without a refusal after which a lowered limit rises by one.
const RAISE: Duration = Duration::from_secs(5);

/// What is known about one host from the attempts at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostStats {
    /// The circuit breaker of the whole host.
    pub breaker: Breaker,
    pub(crate) lanes: BTreeMap<String, LaneStats>,
    /// How many looks the host has left without an answer, one after the other.
    pub(crate) unheard: u64,
}

/// What is known about one lane of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// The circuit breaker of the lane.
    pub breaker: Breaker,
    /// Milliseconds for which one request keeps the host busy, averaged; 0 when unknown.
    pub service: u64,
    /// Milliseconds until the end of an answer, as a peak-sensitive average: it rises at once and falls slowly; 0 when
    /// unknown.
    pub latency: u64,
    /// Milliseconds of the last load of the model; 0 when unknown.
    pub load: u64,
    /// Milliseconds for 1024 bytes of a prompt that the prompt cache does not hold, as a peak-sensitive average: it
    /// rises at once and falls slowly; 0 when unknown.
    pub pace: u64,
    /// The last conversations, of which the prompt cache holds one for each slot; the latest last.
    pub(crate) conversations: Vec<Conversation>,
    /// Milliseconds to the first byte of streams while the model was loaded, the latest last.
    pub(crate) first_bytes: Vec<u64>,
    /// The same for answers in one piece, whose first byte follows the last token.
    pub(crate) wholes: Vec<u64>,
    /// The runner options of the model's last load as far as a first byte proved it, and the time of that proof.
    pub(crate) runner: Option<(String, Duration)>,
    /// When a request in this lane last ended well.
    pub(crate) completed: Duration,
    /// The lowered limit of requests in flight; 0 when it is not lowered.
    pub(crate) limit: u64,
    /// When the limit last changed.
    pub(crate) limited: Duration,
}

/// What an attempt's end means for the host's stats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostEffect {
    /// The host answered.
    Answered,
    /// The host failed through a fault of its own. The duration is its `Retry-After`.
    Faulty(Cause, Option<Duration>),
    /// The host refused the request because of the request: the host works.
    Refused,
    /// The end says nothing about the host.
    Neutral,
}

/// The report of an attempt at its end.
#[derive(Debug, Clone, Copy)]
pub struct AttemptReport<'a> {
    /// The lane and the request; `None` for an attempt that holds no slot.
    pub run: Option<AttemptContext<'a>>,
    /// When the attempt began, by the store's clock.
    pub began: Duration,
    /// The time to the first byte, if there was one.
    pub first_byte: Option<Duration>,
    /// The time to the end.
    pub elapsed: Duration,
    /// What the end means for the host.
    pub effect: HostEffect,
}

/// What an attempt asked of a model.
#[derive(Debug, Clone, Copy)]
pub struct AttemptContext<'a> {
    /// The lane's key.
    pub lane: &'a str,
    /// The runner options.
    pub options: &'a str,
    /// Whether the answer is streamed.
    pub streams: bool,
    /// Requests in flight in this lane when the attempt began, itself included.
    pub in_flight: u64,
    /// Whether the host had to load the model.
    pub cold: bool,
    /// As [`Demand::affinity`](super::plan::Demand::affinity).
    pub affinity: u64,
    /// The length of its prompt in bytes.
    pub prompt: u64,
    /// The beginnings of its prompt.
    pub prefixes: &'a Prefixes,
    /// How many requests the lane answers at once, each with a prompt cache of its own.
    pub slots: u64,
}

impl HostStats {
    /// The stats of a lane.
    pub fn lane(&self, key: &str) -> Option<&LaneStats> {
        self.lanes.get(key)
    }

    /// The stats of a lane, added if there are none.
    pub(crate) fn lane_mut(&mut self, key: &str) -> &mut LaneStats {
        if !self.lanes.contains_key(key) && self.lanes.len() >= LANES_LIMIT {
            let oldest = self.lanes.iter().min_by_key(|(_, lane)| lane.last_mattered());
            let oldest = oldest.map(|(key, _)| key.clone());
            oldest.map(|oldest| self.lanes.remove(&oldest));
        }
        self.lanes.entry(key.to_owned()).or_default()
    }

    /// Records the end of an attempt. `seed` spreads the next trial of a host that failed.
    pub fn record_attempt(&mut self, now: Duration, report: &AttemptReport<'_>, seed: u64) {
        match report.effect {
            HostEffect::Faulty(cause, retry_after) if cause.scope() == Scope::Host => {
                self.breaker.fail(now, cause, retry_after, seed);
            }
            HostEffect::Answered | HostEffect::Refused => self.breaker.succeed(report.began),
            // The host itself says so, unless it is known to be away behind a gateway.
            HostEffect::Faulty(Cause::Busy, _) if self.breaker.cause() != Some(Cause::Gateway) => {
                self.breaker.succeed(report.began);
            }
            HostEffect::Faulty(..) => self.breaker.fail_trial(now, report.began, seed),
            HostEffect::Neutral => {}
        }
        let Some(run) = report.run else { return };
        let lane = self.lane_mut(run.lane);
        lane.earn_back(now);
        match report.effect {
            HostEffect::Answered => {
                lane.breaker.succeed(report.began);
                lane.answered(now, report, &run);
            }
            HostEffect::Refused => lane.breaker.succeed(report.began),
            HostEffect::Faulty(cause, retry_after) if cause.scope() == Scope::Lane => {
                lane.breaker.fail(now, cause, retry_after, seed);
                if cause == Cause::Busy {
                    // The host refused a request at this number in flight, so one less is allowed.
                    lane.limit = run.in_flight.saturating_sub(1).max(1);
                    lane.limited = now;
                }
            }
            HostEffect::Faulty(..) | HostEffect::Neutral => {}
        }
    }

    /// Records a look that the host left without an answer although it took the connection. After some of them it is out of
    /// rotation, unless requests still get answers there: then it is slow.
    pub(crate) fn note_unheard(&mut self, now: Duration, seed: u64) {
        if let Some(heard) = self.heard(now) {
            self.unheard = 0;
            if self
                .breaker
                .opening
                .is_some_and(|opening| opening.cause == Cause::Silent && opening.since < heard)
            {
                self.breaker.reach();
            }
            return;
        }
        self.unheard = self.unheard.saturating_add(1).min(UNHEARD);
        if self.unheard == UNHEARD {
            self.breaker.fall_silent(now, seed);
        }
    }

    /// Records a look that a gateway answered in the host's place, unless requests still get answers there: then the gateway
    /// limits the looks.
    pub(crate) fn note_gateway(&mut self, now: Duration, seed: u64) {
        if self.heard(now).is_none() {
            self.breaker.fail(now, Cause::Gateway, None, seed);
        }
    }

    /// When a request last got a first byte or a good end there, if that was a moment ago.
    fn heard(&self, now: Duration) -> Option<Duration> {
        let heard = self.lanes.values().map(LaneStats::used).max()?;
        (!heard.is_zero() && now.saturating_sub(heard) < WELL).then_some(heard)
    }

    /// Records a look that the host answered.
    pub(crate) fn note_heard(&mut self) {
        self.unheard = 0;
        self.breaker.reach();
    }

    /// Whether an answered look changes anything.
    pub(crate) fn awaits_look(&self) -> bool {
        self.unheard > 0 || self.breaker.cause().is_some()
    }

    /// Records that another host answered a request of this lane that this host failed.
    pub(crate) fn record_fault(&mut self, now: Duration, lane: &str, seed: u64) {
        self.lane_mut(lane).breaker.fail(now, Cause::Failed, None, seed);
    }

    /// When a request last ended well in any lane.
    pub fn completed(&self) -> Duration {
        self.lanes.values().map(|lane| lane.completed).max().unwrap_or_default()
    }

    /// Records a first byte, which proves that the model is loaded with these options.
    pub fn prove(&mut self, now: Duration, lane: &str, options: &str) {
        self.lane_mut(lane).runner = Some((options.to_owned(), now));
    }
}

impl LaneStats {
    /// When the lane last gave a first byte or the end of an answer.
    fn used(&self) -> Duration {
        self.runner.as_ref().map_or(self.completed, |(_, proved)| self.completed.max(*proved))
    }

    /// When something last came of the lane. The failures of one that never gave anything do not count: names are easily made
    /// up, and must not displace what was learnt of others.
    fn last_mattered(&self) -> Duration {
        let used = self.used();
        if used.is_zero() { used } else { used.max(self.breaker.failed) }
    }

    /// Whether the last proof was for these options.
    pub fn is_proved(&self, options: &str) -> bool {
        self.runner.as_ref().is_some_and(|(proved, _)| proved == options)
    }

    /// The 95th percentile of the time to the first byte while the model is loaded; `None` while it is unknown.
    pub(crate) fn first_byte_p95(&self, streams: bool) -> Option<Duration> {
        let samples = if streams { &self.first_bytes } else { &self.wholes };
        let mut sorted = samples.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * 95).div_ceil(100).saturating_sub(1);
        sorted.get(rank).map(|millis| Duration::from_millis(*millis))
    }

    /// How long the first byte of a model that is loaded with these options may take before the host counts as hung, at
    /// least `least`. `None` when the load is not proved, or when no time of a whole answer is known yet.
    pub fn patience(&self, options: &str, streams: bool, least: Duration) -> Option<Duration> {
        let usual = self.first_byte_p95(streams);
        let is_known = self.is_proved(options) && (streams || usual.is_some());
        is_known.then(|| (usual.unwrap_or_default() * 8).max(least))
    }

    /// How much of a prompt of `length` bytes the prompt cache holds.
    pub(crate) fn known(&self, affinity: u64, length: u64, prefixes: &Prefixes) -> Known {
        let known = self.conversations.iter().map(|earlier| earlier.known(affinity, length, prefixes));
        known.fold(Known::default(), |all, one| Known {
            continues: all.continues || one.continues,
            bytes: all.bytes.max(one.bytes),
        })
    }

    /// Whether a new conversation takes the place of another one in a prompt cache with as many slots.
    pub(crate) fn is_full(&self, slots: u64) -> bool {
        self.conversations.len() >= places(slots)
    }

    /// Remembers the conversation of a request that was answered.
    fn remember(&mut self, run: &AttemptContext<'_>) {
        self.conversations.retain(|earlier| !earlier.is_continued(run.affinity, run.prefixes));
        let excess = (self.conversations.len() + 1).saturating_sub(places(run.slots));
        self.conversations.drain(..excess.min(self.conversations.len()));
        self.conversations.push(Conversation::new(run.affinity, run.prompt, run.prefixes));
    }

    fn answered(&mut self, now: Duration, report: &AttemptReport<'_>, run: &AttemptContext<'_>) {
        let elapsed = millis(report.elapsed);
        let first_byte = report.first_byte.map_or(elapsed, millis);
        if run.cold {
            self.load = first_byte.max(1);
        } else {
            let samples = if run.streams { &mut self.first_bytes } else { &mut self.wholes };
            if samples.len() >= SAMPLES {
                samples.remove(0);
            }
            samples.push(first_byte);
        }
        // A request that waited for the same load may have ended first; its prompt is in the cache.
        if run.cold && self.completed <= report.began {
            self.conversations.clear();
        }
        let known = self.known(run.affinity, run.prompt, run.prefixes).bytes;
        let unknown = run.prompt.saturating_sub(known);
        if !run.cold && run.streams && run.in_flight == 1 && unknown >= PROMPT {
            let pace = (first_byte.saturating_mul(1024) / unknown).max(1);
            // A prompt that the host already holds in part seems fast, so low samples weigh little.
            self.pace = average(self.pace, pace, if pace > self.pace { 100 } else { PACE });
        }
        self.remember(run);
        // After a cold start only the time after the load counts. Requests that share the host's slots slow each other
        // down, so their time is divided by their number.
        let busy = if run.cold { elapsed.saturating_sub(first_byte) } else { elapsed / run.in_flight.max(1) };
        let weight = self.weight(now);
        // The first samples weigh alike, so that one outlier does not dominate the average.
        let samples = (self.first_bytes.len() + self.wholes.len()).max(1) as u64;
        let service_weight = weight.clamp(LEAST_WEIGHT, MOST_WEIGHT).max(100 / samples);
        self.service = average(self.service, busy.max(1), service_weight);
        if !run.cold {
            self.latency =
                if elapsed > self.latency { elapsed } else { average(self.latency, elapsed, weight) };
        }
        self.completed = now;
        self.runner = Some((run.options.to_owned(), now));
    }

    /// Raises a lowered limit by one for each [`RAISE`] since it last changed.
    fn earn_back(&mut self, now: Duration) {
        let earned = now.saturating_sub(self.limited).as_secs() / RAISE.as_secs();
        if self.limit > 0 && earned > 0 {
            self.limit = self.limit.saturating_add(earned);
            self.limited = now;
        }
    }

    /// The weight of a new sample in percent; it grows with the time since the sample before.
    fn weight(&self, now: Duration) -> u64 {
        let age = millis(now.saturating_sub(self.completed));
        (age * 100 / (age + millis(MEMORY)).max(1)).max(1)
    }
}

/// How many conversations a prompt cache with as many slots holds.
fn places(slots: u64) -> usize {
    usize::try_from(slots).unwrap_or(CONVERSATIONS_LIMIT).clamp(1, CONVERSATIONS_LIMIT)
}

fn average(old: u64, sample: u64, percent: u64) -> u64 {
    if old == 0 { sample } else { (old * (100 - percent) + sample * percent) / 100 }
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 1024).min(u64::MAX / 1024)
}

/// Stats as they are stored. Stats of another version are ignored.
#[derive(Serialize)]
struct StoredStats<'a> {
    /// As in [`StoredBreaker`].
    opening: Option<(u64, u64, &'static str)>,
    streak: u32,
    failed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    unheard: Option<u64>,
    lanes: Vec<StoredLane<'a>>,
}

#[derive(Serialize)]
struct StoredBreaker {
    /// Since, until, cause; empty when closed.
    opening: Option<(u64, u64, &'static str)>,
    streak: u32,
    failed: u64,
}

#[derive(Serialize)]
struct StoredLane<'a> {
    /// Left out where the breaker never opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<StoredBreaker>,
    lane: &'a str,
    options: Option<&'a str>,
    /// Service, latency, load, proved, completed, limit, limited, pace.
    numbers: [u64; 8],
    conversations: Vec<Vec<u64>>,
    first_bytes: &'a [u64],
    wholes: &'a [u64],
}

impl HostStats {
    /// The stats as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let lanes = self.lanes.iter().map(|(key, lane)| StoredLane {
            breaker: Some(&lane.breaker)
                .filter(|breaker| **breaker != Breaker::default())
                .map(StoredBreaker::of),
            lane: key,
            options: lane.runner.as_ref().map(|(options, _)| options.as_str()),
            numbers: [
                lane.service,
                lane.latency,
                lane.load,
                lane.runner.as_ref().map_or(0, |(_, proved)| millis(*proved)),
                millis(lane.completed),
                lane.limit,
                millis(lane.limited),
                lane.pace,
            ],
            conversations: lane.conversations.iter().map(Conversation::to_numbers).collect(),
            first_bytes: &lane.first_bytes,
            wholes: &lane.wholes,
        });
        let StoredBreaker { opening, streak, failed } = StoredBreaker::of(&self.breaker);
        let stored = StoredStats {
            opening,
            streak,
            failed,
            unheard: Some(self.unheard).filter(|unheard| *unheard > 0),
            lanes: lanes.collect(),
        };
        // Serialising numbers and strings cannot fail.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`HostStats::to_json`] wrote; `None` for anything else.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let stored = Members::parse(json)?;
        let breaker = read_breaker(&stored, Scope::Host)?;
        let mut lanes = BTreeMap::new();
        for lane in stored.array("lanes")?.into_iter().take(LANES_LIMIT) {
            let lane = Members::of(lane)?;
            let [service, latency, load, proved, completed, limit, limited, pace] =
                <[u64; 8]>::try_from(numbers(&lane, "numbers")?).ok()?;
            let runner = lane.string("options").map(|options| (options.into_owned(), duration(proved)));
            let breaker = match lane.object("breaker") {
                Some(breaker) => read_breaker(&breaker, Scope::Lane)?,
                None => Breaker::default(),
            };
            let stats = LaneStats {
                breaker,
                service,
                latency,
                load,
                pace,
                conversations: conversations(&lane)?,
                first_bytes: numbers(&lane, "first_bytes")?,
                wholes: numbers(&lane, "wholes")?,
                runner,
                completed: duration(completed),
                limit,
                limited: duration(limited),
            };
            lanes.insert(lane.string("lane")?.into_owned(), stats);
        }
        Some(Self { breaker, lanes, unheard: stored.number("unheard").unwrap_or_default() })
    }
}

impl StoredBreaker {
    fn of(breaker: &Breaker) -> Self {
        let times =
            |opening: OpenUntil| (millis(opening.since), millis(opening.until), opening.cause.as_str());
        Self { opening: breaker.opening.map(times), streak: breaker.streak, failed: millis(breaker.failed) }
    }
}

/// A breaker as it was stored. A cause that opens no breaker of this scope, as another version may have written it, opens
/// nothing; what else was learnt still holds.
fn read_breaker(stored: &Members<'_>, scope: Scope) -> Option<Breaker> {
    let opening = match stored.array("opening").as_deref() {
        Some([since, until, cause]) => {
            let cause = Cause::by_name(&members::string(cause)?).filter(|cause| cause.scope() == scope);
            cause.and_then(|cause| {
                Some(OpenUntil { since: duration(number(since)?), until: duration(number(until)?), cause })
            })
        }
        _ => None,
    };
    let streak = u32::try_from(stored.number("streak")?).ok()?;
    Some(Breaker { opening, streak, failed: duration(stored.number("failed")?) })
}

fn duration(millis: u64) -> Duration {
    Duration::from_millis(millis.min(STORED_LIMIT))
}

fn number(value: &serde_json::value::RawValue) -> Option<u64> {
    value.get().parse().ok().map(|number: u64| number.min(STORED_LIMIT))
}

fn numbers(members: &Members<'_>, name: &str) -> Option<Vec<u64>> {
    members.array(name)?.into_iter().map(number).collect()
}

/// The conversations of a lane; none where a version wrote that remembered none.
fn conversations(lane: &Members<'_>) -> Option<Vec<Conversation>> {
    let listed = lane.array("conversations").unwrap_or_default();
    let conversation = |listed| {
        // Each number may be a hash, so that all are read as they are.
        let numbers = members::elements(listed)?.into_iter().map(|number| number.get().parse().ok());
        Conversation::from_numbers(&numbers.collect::<Option<Vec<_>>>()?)
    };
    listed.into_iter().take(CONVERSATIONS_LIMIT).map(conversation).collect()
}

#[cfg(test)]
mod tests;
