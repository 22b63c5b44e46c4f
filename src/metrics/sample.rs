//! What one request adds to the counters.

use std::time::Duration;

use super::{MODEL_NAME_LIMIT, MetricFamily, OTHER_MODEL, series::Increment};
use crate::cache::CacheStatus;
use crate::wire::tokens::Tokens;

/// The outcome of a success.
const OK: &str = "ok";
/// The most tokens of one request that are counted. A host says how many there were, and a sum of larger numbers could leave
/// the 64 bits of a counter in Redis, which then refuses every addition.
const TOKENS_LIMIT: u64 = 1 << 32;
/// The highest speed that is counted, in millionths of a token per second: a million tokens per second. A faster value
/// comes from a host with a wrong clock; it would overflow the sum, and in Redis the script would fail with the rest of
/// the request's counts.
const SPEED_LIMIT: u64 = 1_000_000_000_000;

/// The counts of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample<'a> {
    /// The route, never the raw path.
    pub route: &'static str,
    /// The canonical name of the model in the request.
    pub model: Option<&'a str>,
    /// `ok` or the error's code.
    pub outcome: &'static str,
    /// The time from the request's head until the answer was complete or had failed.
    pub latency: Duration,
    /// What the cache did.
    pub cache: Option<CacheStatus>,
    /// The attempts at hosts.
    pub attempts: &'a [Attempt],
    /// The time from the attempt that answered to its first token.
    pub first_token: Option<Duration>,
    /// The speed of the host that answered, in millionths of a token per second.
    pub speed: Option<u64>,
    /// Tokens of prompt and answer, as Ollama counted them.
    pub tokens: Option<Tokens>,
    /// The store operations that failed.
    pub store_errors: &'a [&'static str],
}

/// One attempt at one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The host's base URL.
    pub host: String,
    /// `ok`, `cancelled` or the failure's word.
    pub outcome: &'static str,
    /// Whether the host had to load the model.
    pub cold: bool,
}

impl Attempt {
    fn succeeded(&self) -> bool {
        self.outcome == OK
    }

    /// Whether the host failed; a cancelled attempt says nothing about its host.
    fn failed(&self) -> bool {
        !self.succeeded() && self.outcome != "cancelled"
    }
}

impl Sample<'_> {
    /// The label for the model, if its name is allowed as one.
    pub(super) fn model_label(&self) -> Option<&str> {
        self.model.filter(|name| {
            !name.is_empty()
                && *name != OTHER_MODEL
                && name.len() <= MODEL_NAME_LIMIT
                && !name.chars().any(char::is_control)
        })
    }

    pub(super) fn succeeded(&self) -> bool {
        self.outcome == OK
    }

    /// All increments of this request, with `model` as the model's label.
    pub(super) fn increments(&self, model: &str, mut add: impl FnMut(Increment<'_>)) {
        let Self { route, outcome, latency, cache, tokens, store_errors, .. } = self;
        add(Increment::count(MetricFamily::Requests, &[route, model, outcome]));
        add(Increment::observation(MetricFamily::Latency, &[route, model, outcome], micros(*latency)));
        match cache {
            Some(CacheStatus::Hit) => add(Increment::count(MetricFamily::CacheHits, &[])),
            Some(CacheStatus::Coalesced) => add(Increment::count(MetricFamily::CacheCoalesced, &[])),
            Some(CacheStatus::Miss) => add(Increment::count(MetricFamily::CacheMisses, &[])),
            Some(CacheStatus::Bypass) => add(Increment::count(MetricFamily::CacheBypasses, &[])),
            None => {}
        }
        self.host_increments(model, &mut add);
        if let Some(Tokens { prompt, completion }) = tokens {
            add(Increment::sum(MetricFamily::PromptTokens, &[model], (*prompt).min(TOKENS_LIMIT)));
            add(Increment::sum(MetricFamily::CompletionTokens, &[model], (*completion).min(TOKENS_LIMIT)));
        }
        for operation in *store_errors {
            add(Increment::count(MetricFamily::StoreErrors, &[operation]));
        }
    }

    /// The increments for the hosts.
    fn host_increments(&self, model: &str, add: &mut impl FnMut(Increment<'_>)) {
        for Attempt { host, outcome, cold } in self.attempts {
            add(Increment::count(MetricFamily::Attempts, &[host, outcome]));
            if *cold {
                add(Increment::count(MetricFamily::ColdStarts, &[host, model]));
            }
        }
        // Nothing followed the last attempt, so it is never counted as a failover.
        if let [followed @ .., _] = self.attempts {
            for Attempt { host, .. } in followed.iter().filter(|attempt| attempt.failed()) {
                add(Increment::count(MetricFamily::Failovers, &[host]));
            }
        }
        let Some(Attempt { host, .. }) = self.attempts.iter().rfind(|attempt| attempt.succeeded()) else {
            return;
        };
        if let Some(time) = self.first_token {
            add(Increment::observation(MetricFamily::FirstToken, &[model, host], micros(time)));
        }
        if let Some(speed) = self.speed {
            add(Increment::observation(MetricFamily::Speed, &[model, host], speed.min(SPEED_LIMIT)));
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::series::{Amount, SEPARATOR};

    /// The series of these families that a request adds to, with the amounts.
    fn added(attempts: &[(&str, &'static str, bool)], families: &[MetricFamily]) -> Vec<(String, Amount)> {
        let attempts: Vec<_> = attempts
            .iter()
            .map(|(host, outcome, cold)| Attempt { host: (*host).to_owned(), outcome, cold: *cold })
            .collect();
        let sample = Sample {
            route: "/chat",
            model: Some("m"),
            outcome: "ok",
            latency: Duration::from_secs(1),
            cache: None,
            attempts: &attempts,
            first_token: Some(Duration::from_millis(20)),
            speed: Some(u64::MAX),
            tokens: Some(Tokens { prompt: 7, completion: u64::MAX }),
            store_errors: &[],
        };
        let mut added = Vec::new();
        sample.increments("m", |increment| {
            if families.contains(&increment.family) {
                let mut key = String::new();
                increment.write_key(&mut key);
                let (_, labels) = key.split_once(SEPARATOR).unwrap();
                added.push((labels.replace(SEPARATOR, " "), increment.amount));
            }
        });
        added
    }

    #[test]
    fn a_failover_is_an_attempt_that_failed_before_another() {
        for (outcomes, failovers) in [
            (&[][..], &[][..]),
            (&["ok"], &[]),
            (&["busy"], &[]),
            (&["unreachable", "ok"], &["0"]),
            (&["unreachable", "busy"], &["0"]),
            (&["unreachable", "busy", "ok"], &["0", "1"]),
            (&["unreachable", "cancelled"], &["0"]),
            (&["cancelled", "ok"], &[]),
            (&["ok", "busy"], &[]),
        ] {
            let hosts: Vec<_> = (0..outcomes.len()).map(|position| position.to_string()).collect();
            let attempts: Vec<_> =
                hosts.iter().zip(outcomes).map(|(host, outcome)| (host.as_str(), *outcome, false)).collect();
            let expected: Vec<_> =
                failovers.iter().map(|host| ((*host).to_owned(), Amount::Count(1))).collect();
            assert_eq!(added(&attempts, &[MetricFamily::Failovers]), expected, "{outcomes:?}");
        }
    }

    #[test]
    fn a_host_that_counts_without_end_stops_no_counter() {
        let families = [MetricFamily::PromptTokens, MetricFamily::CompletionTokens];
        let expected = [7, TOKENS_LIMIT].map(|count| ("m".to_owned(), Amount::Count(count)));
        assert_eq!(added(&[("a", "ok", false)], &families), expected);
    }

    #[test]
    fn each_attempt_that_loads_the_model_is_a_cold_start() {
        let attempts = [("a", "timeout", true), ("b", "busy", false), ("c", "ok", true)];
        let expected = ["a m", "c m"].map(|labels| (labels.to_owned(), Amount::Count(1)));
        assert_eq!(added(&attempts, &[MetricFamily::ColdStarts]), expected);
    }

    #[test]
    fn first_token_and_speed_belong_to_the_host_that_answered_last() {
        let families = [MetricFamily::FirstToken, MetricFamily::Speed];
        for attempts in [
            &[("a", "ok", false)][..],
            &[("b", "busy", false), ("a", "ok", false)],
            &[("b", "ok", false), ("a", "ok", false), ("c", "cancelled", false)],
        ] {
            let [(first_token, time), (speed, limit)] = &added(attempts, &families)[..] else {
                panic!("{attempts:?}")
            };
            assert_eq!((first_token.as_str(), speed.as_str()), ("m a", "m a"), "{attempts:?}");
            assert_eq!(*time, Amount::Observation { bucket: 1, micros: 20_000 });
            assert_eq!(*limit, Amount::Observation { bucket: 13, micros: SPEED_LIMIT });
        }
        for attempts in [&[][..], &[("a", "cancelled", false)]] {
            assert_eq!(added(attempts, &families), [], "{attempts:?}");
        }
    }
}
