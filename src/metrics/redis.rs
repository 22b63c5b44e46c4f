//! Counters in Redis, for the Spin deployment, where components share nothing else.
//!
//! One hash holds all series and one set holds the models with a label; both are in one hash slot, and one script adds
//! a whole request. A histogram has one field for each bucket and one for its sum.

use std::{collections::BTreeMap, sync::MutexGuard, time::Duration};

use super::{
    Histogram, MODEL_LIMIT, MetricFamily, Metrics, OTHER_MODEL, Sample, Snapshot, Value,
    series::{Amount, Increment, SEPARATOR},
};

use crate::platform::Locked;
use crate::store::{
    StoreResult, TimeLimit,
    redis::{RedisCommands, RedisValue, script::script},
};

/// The placeholder for the model's label, which only the script knows.
const MODEL_SLOT: &str = "\u{1e}";
/// The suffix of the field with a histogram's sum; fields of buckets end in the bucket's number.
const SUM: &str = "sum";

/// The file of the script documents its keys and arguments.
const ADD: &[u8] = script!("scripts/add.lua");

/// Counters in Redis.
#[derive(Debug)]
pub struct RedisMetrics<C> {
    commands: C,
    counters: String,
    models: String,
    limit: TimeLimit,
    waiting: Locked<Waiting>,
}

/// Store failures by operation that wait for a sample that can be added: while Redis is down they cannot be counted
/// there. A failure whose command timed out but was executed is counted twice.
type Waiting = BTreeMap<&'static str, u64>;

impl<C: RedisCommands> RedisMetrics<C> {
    /// Counters under keys that begin with `prefix`; each exchange may take `limit`.
    pub fn new(commands: C, prefix: &str, limit: Duration) -> Self {
        Self {
            commands,
            counters: format!("{prefix}:{{metrics}}:1:counters"),
            // The version before gave each spelling of a name a label.
            models: format!("{prefix}:{{metrics}}:2:models"),
            limit: TimeLimit::whole(limit),
            waiting: Locked::default(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }

    /// Adds failures to those that wait for the next sample.
    fn wait(&self, failures: Waiting, store_errors: &[&'static str]) {
        let mut waiting = self.waiting();
        for (operation, count) in failures.into_iter().chain(store_errors.iter().map(|name| (*name, 1))) {
            *waiting.entry(operation).or_default() += count;
        }
    }
}

/// The fields that a sample adds to, with [`MODEL_SLOT`] in place of the model's label.
fn fields(sample: &Sample<'_>) -> Vec<(String, u64)> {
    let mut fields = Vec::new();
    sample.increments(MODEL_SLOT, |increment| {
        let mut key = String::new();
        increment.write_key(&mut key);
        match increment.amount {
            Amount::Count(count) => fields.push((key, count)),
            Amount::Observation { bucket, micros } => {
                fields.push((format!("{key}{SEPARATOR}{bucket}"), 1));
                fields.push((format!("{key}{SEPARATOR}{SUM}"), micros));
            }
        }
    });
    fields
}

/// The arguments for a field: its name before and after the model's label, and whether it has the label.
fn around_model(field: &str) -> [&[u8]; 3] {
    match field.split_once(MODEL_SLOT) {
        Some((before, after)) => [before.as_bytes(), after.as_bytes(), b"1"],
        None => [field.as_bytes(), b"", b"0"],
    }
}

/// The snapshot from the fields and values of the hash. Fields that are not understood are ignored: another version may
/// have written them.
fn parse(reply: &[RedisValue]) -> Snapshot {
    let mut series = BTreeMap::new();
    for pair in reply.chunks_exact(2) {
        let [RedisValue::Bytes(field), RedisValue::Bytes(value)] = pair else { continue };
        let (Ok(field), Some(value)) = (std::str::from_utf8(field), number(value)) else { continue };
        let name = field.split(SEPARATOR).next().unwrap_or_default();
        let Some(family) = MetricFamily::ALL.into_iter().find(|family| family.name() == name) else {
            continue;
        };
        if family.is_histogram() {
            let Some((key, part)) = field.rsplit_once(SEPARATOR) else { continue };
            let entry = series.entry(key.to_owned());
            let entry = entry.or_insert_with(|| Value::zero(family));
            if let Value::Histogram(histogram) = entry {
                fill(histogram, part, value);
            }
        } else {
            series.insert(field.to_owned(), Value::Counter(value));
        }
    }
    Snapshot(series)
}

fn fill(histogram: &mut Histogram, part: &str, value: u64) {
    if part == SUM {
        histogram.sum_micros = value;
    } else if let Some(count) = part.parse().ok().and_then(|bucket: usize| histogram.counts.get_mut(bucket)) {
        *count = value;
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

impl<C: RedisCommands> Metrics for RedisMetrics<C> {
    async fn add(&self, sample: &Sample<'_>) -> StoreResult<()> {
        let mut fields = fields(sample);
        let waiting = std::mem::take(&mut *self.waiting());
        fields.extend(waiting.iter().map(|(operation, count)| {
            let mut key = String::new();
            Increment::count(MetricFamily::StoreErrors, &[operation]).write_key(&mut key);
            (key, *count)
        }));
        let limit = MODEL_LIMIT.to_string();
        let amounts: Vec<_> = fields.iter().map(|(_, amount)| amount.to_string()).collect();
        let model = sample.model_label().unwrap_or_default();
        let answered: &[u8] = if sample.succeeded() { b"1" } else { b"0" };
        let mut arguments: Vec<&[u8]> = vec![
            ADD,
            b"2",
            self.counters.as_bytes(),
            self.models.as_bytes(),
            model.as_bytes(),
            answered,
            limit.as_bytes(),
            OTHER_MODEL.as_bytes(),
        ];
        for ((field, _), amount) in fields.iter().zip(&amounts) {
            arguments.extend(around_model(field));
            arguments.push(amount.as_bytes());
        }
        let added = self.commands.execute("EVAL", &arguments, self.limit).await;
        added.map(drop).inspect_err(|_| self.wait(waiting, sample.store_errors))
    }

    fn add_store_errors(&self, store_errors: &[&'static str]) {
        self.wait(Waiting::new(), store_errors);
    }

    async fn snapshot(&self) -> StoreResult<Snapshot> {
        let reply = self.commands.execute("HGETALL", &[self.counters.as_bytes()], self.limit).await?;
        Ok(parse(&reply))
    }
}

#[cfg(test)]
#[cfg(feature = "memory")]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        metrics::{Attempt, memory::MemoryMetrics},
        store::redis::script::tests::faults_of_eval,
        wire::tokens::Tokens,
    };

    fn attempts() -> [Attempt; 2] {
        [("http://a:1", "busy", true), ("http://b:1", "ok", false)].map(|(host, outcome, cold)| Attempt {
            host: host.to_owned(),
            outcome,
            cold,
        })
    }

    /// A sample that adds to every family with the model's label, so that the label occurs at each position.
    fn sample(attempts: &[Attempt]) -> Sample<'_> {
        Sample {
            route: "/chat",
            model: Some("m"),
            outcome: "ok",
            latency: Duration::from_secs(1),
            cache: None,
            attempts,
            first_token: Some(Duration::from_millis(20)),
            speed: Some(40_500_000),
            tokens: Some(Tokens { prompt: 1, completion: 2 }),
            store_errors: &["cache_get"],
        }
    }

    #[test]
    fn a_field_is_split_where_the_label_of_the_model_goes() {
        let fields = fields(&sample(&attempts()));
        let split: Vec<_> = fields
            .iter()
            .map(|(field, amount)| {
                let parts = around_model(field).map(|part| std::str::from_utf8(part).unwrap());
                (parts.map(|part| part.replace(SEPARATOR, "|")), *amount)
            })
            .collect();
        for (parts, amount) in [
            (["ollama_requests_total|/chat|", "|ok", "1"], 1),
            (["paddock_upstream_attempts_total|http://a:1|busy", "", "0"], 1),
            (["paddock_failovers_total|http://a:1", "", "0"], 1),
            (["paddock_cold_starts_total|http://a:1|", "", "1"], 1),
            (["paddock_time_to_first_token_seconds|", "|http://b:1|1", "1"], 1),
            (["paddock_time_to_first_token_seconds|", "|http://b:1|sum", "1"], 20_000),
            (["paddock_tokens_per_second|", "|http://b:1|6", "1"], 1),
            (["paddock_tokens_per_second|", "|http://b:1|sum", "1"], 40_500_000),
            (["paddock_prompt_tokens_total|", "", "1"], 1),
        ] {
            let expected = (parts.map(ToOwned::to_owned), amount);
            assert!(split.contains(&expected), "{expected:?} is not in {split:#?}");
        }
    }

    #[tokio::test]
    async fn the_fields_are_read_as_the_series_in_memory() {
        let attempts = attempts();
        let sample = sample(&attempts);
        let reply: Vec<_> = fields(&sample)
            .into_iter()
            .flat_map(|(field, amount)| [field.replace(MODEL_SLOT, "m"), amount.to_string()])
            .map(|text| RedisValue::Bytes(text.into_bytes()))
            .collect();
        let in_memory = MemoryMetrics::default();
        in_memory.add(&sample).await.unwrap();
        assert_eq!(parse(&reply), in_memory.snapshot().await.unwrap());
    }

    /// Fails until it is told to succeed, and records the commands.
    #[derive(Debug, Default)]
    struct Scripted {
        answers: std::sync::atomic::AtomicBool,
        sent: Mutex<Vec<Vec<Vec<u8>>>>,
    }

    impl RedisCommands for &Scripted {
        async fn execute(
            &self,
            _: &'static str,
            words: &[&[u8]],
            _: TimeLimit,
        ) -> StoreResult<Vec<RedisValue>> {
            self.sent.lock().unwrap().push(words.iter().map(|word| word.to_vec()).collect());
            let answers = self.answers.load(std::sync::atomic::Ordering::Relaxed);
            if answers { Ok(Vec::new()) } else { Err(crate::store::StoreError::TimedOut) }
        }

        async fn execute_replicated(
            &self,
            _: &'static str,
            _: &[&[u8]],
            _: u32,
            _: TimeLimit,
        ) -> StoreResult<(Vec<RedisValue>, u32)> {
            Err(crate::store::StoreError::Absent)
        }
    }

    impl Scripted {
        /// The failures of `cache_get` that the last script adds, as amounts.
        fn failures(&self) -> Vec<String> {
            let sent = self.sent.lock().unwrap();
            let field = format!("paddock_store_errors_total{SEPARATOR}cache_get");
            let words: Vec<_> =
                sent.last().unwrap().iter().map(|word| String::from_utf8_lossy(word)).collect();
            let found = words.windows(4).filter(|words| *words[0] == *field);
            found.map(|words| words[3].clone().into_owned()).collect()
        }
    }

    #[tokio::test]
    async fn failures_that_cannot_be_added_wait_for_the_next_sample_that_can() {
        let redis = Scripted::default();
        let metrics = RedisMetrics::new(&redis, "p", Duration::from_secs(1));
        let attempts = attempts();
        for _ in 0..2 {
            metrics.add(&sample(&attempts)).await.unwrap_err();
        }
        redis.answers.store(true, std::sync::atomic::Ordering::Relaxed);
        metrics.add(&sample(&attempts)).await.unwrap();
        assert_eq!(redis.failures(), ["1", "2"]);
        metrics.add(&sample(&attempts)).await.unwrap();
        assert_eq!(redis.failures(), ["1"]);
    }

    #[tokio::test]
    async fn the_script_is_lua_5_1_and_reads_no_more_than_it_is_sent() {
        let redis = Scripted::default();
        let metrics = RedisMetrics::new(&redis, "p", Duration::from_secs(1));
        metrics.add(&sample(&[])).await.unwrap_err();
        let sent = redis.sent.lock().unwrap();
        assert_eq!(faults_of_eval(&sent[0]), [""; 0]);
    }

    #[tokio::test]
    async fn failures_that_come_too_late_for_their_sample_wait_for_the_next() {
        let redis = Scripted { answers: true.into(), ..Scripted::default() };
        let metrics = RedisMetrics::new(&redis, "p", Duration::from_secs(1));
        metrics.add_store_errors(&["cache_get", "cache_get"]);
        let sample = Sample { store_errors: &[], ..sample(&[]) };
        for failures in [&["2"][..], &[]] {
            metrics.add(&sample).await.unwrap();
            assert_eq!(redis.failures(), failures);
        }
    }

    #[test]
    fn a_bucket_that_the_family_lacks_is_left_out() {
        let bytes = |text: &str| RedisValue::Bytes(text.as_bytes().to_vec());
        let name = "paddock_tokens_per_second\u{1f}m\u{1f}http://a:1";
        let reply = [13, 14].map(|bucket| [bytes(&format!("{name}\u{1f}{bucket}")), bytes("7")]).concat();
        let Snapshot(series) = parse(&reply);
        let Some(Value::Histogram(Histogram { counts, .. })) = series.get(name) else { panic!("{series:?}") };
        assert_eq!((counts.len(), counts.iter().sum::<u64>()), (14, 7));
    }
}
