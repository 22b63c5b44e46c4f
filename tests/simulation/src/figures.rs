//! What is told of a run, and of many runs.

use std::{num::NonZero, time::Duration};

use anyhow::{Result, anyhow};

use crate::{
    engine::{self, End, Run},
    policies::Contender,
    scenario::Scenario,
};

/// What is told of a run. Times are in seconds and count the requests that got a first byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// The time to the first token that half of the requests stay below.
    pub p50: f64,
    /// The time to the first token that 95 % of the requests stay below.
    pub p95: f64,
    /// The same for the requests of all callers but the first.
    pub others_p95: f64,
    /// Model loads.
    pub loads: f64,
    /// Requests that the gateway turned away.
    pub shed: f64,
    /// Requests that no host answered, or not to the end.
    pub failed: f64,
    /// How many requests of all callers but the first were turned away or failed.
    pub others_lost: f64,
}

impl Figures {
    /// The figures of one run.
    pub fn of(run: &Run) -> Self {
        let ended = |end: End, least_caller: usize| {
            let such = run.records.iter().filter(|record| record.end == end && record.caller >= least_caller);
            number(such.count())
        };
        let waits = |least_caller: usize| {
            let records = run.records.iter().filter(|record| record.caller >= least_caller);
            let mut waits: Vec<_> = records.filter_map(|record| record.first_byte).collect();
            waits.sort_unstable();
            waits
        };
        let all = waits(0);
        Self {
            p50: percentile(&all, 50),
            p95: percentile(&all, 95),
            others_p95: percentile(&waits(1), 95),
            loads: f64::from(run.loads),
            shed: ended(End::Shed, 0),
            failed: ended(End::Failed, 0),
            others_lost: ended(End::Shed, 1) + ended(End::Failed, 1),
        }
    }

    /// The median of each figure.
    pub fn median(runs: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> f64| {
            let mut values: Vec<_> = runs.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            let at = |place: usize| values.get(place).copied().unwrap_or_default();
            f64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
        };
        Self {
            p50: median(|figures| figures.p50),
            p95: median(|figures| figures.p95),
            others_p95: median(|figures| figures.others_p95),
            loads: median(|figures| figures.loads),
            shed: median(|figures| figures.shed),
            failed: median(|figures| figures.failed),
            others_lost: median(|figures| figures.others_lost),
        }
    }
}

/// The median of each figure over runs with the seeds from 1.
///
/// # Errors
/// When a run cannot be played.
pub fn measure(scenario: &Scenario, contender: &Contender, seeds: u64) -> Result<Figures> {
    let run = |seed| {
        let mut gateway = (contender.gateway)(scenario, seed)?;
        Ok(Figures::of(&engine::play(scenario, seed, gateway.as_mut())?))
    };
    let seeds: Vec<_> = (1..=seeds).collect();
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let figures = std::thread::scope(|scope| {
        let share = |seeds: &'_ [u64]| {
            let seeds = seeds.to_vec();
            scope.spawn(move || seeds.into_iter().map(run).collect::<Result<Vec<_>>>())
        };
        let threads: Vec<_> = seeds.chunks(seeds.len().div_ceil(threads).max(1)).map(share).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a run panicked"))?);
        joined.collect::<Result<Vec<_>>>()
    });
    Ok(Figures::median(&figures?.concat()))
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).map_or(0.0, Duration::as_secs_f64)
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Record;

    #[test]
    fn percentiles_count_who_got_a_first_byte_and_losses_count_who_got_no_whole_answer() {
        let record = |caller, seconds: Option<u64>, end| Record {
            caller,
            first_byte: seconds.map(Duration::from_secs),
            end,
        };
        let mut records: Vec<_> = (1..=20).map(|seconds| record(0, Some(seconds), End::Answered)).collect();
        records.push(record(1, Some(90), End::Failed));
        records.push(record(1, None, End::Shed));
        let figures = Figures::of(&Run { records, loads: 3, ended: Duration::ZERO });
        assert!((figures.p50 - 11.0).abs() < 1e-9 && (figures.p95 - 20.0).abs() < 1e-9, "{figures:?}");
        assert!((figures.others_p95 - 90.0).abs() < 1e-9, "{figures:?}");
        assert!((figures.others_lost - 2.0).abs() < 1e-9 && (figures.shed - 1.0).abs() < 1e-9, "{figures:?}");
    }

    #[test]
    fn the_median_of_an_even_number_of_runs_is_between_the_middle_two() {
        let run = |p95| Figures {
            p50: 0.0,
            p95,
            others_p95: 0.0,
            loads: 0.0,
            shed: 0.0,
            failed: 0.0,
            others_lost: 0.0,
        };
        let median = Figures::median(&[run(9.0), run(1.0), run(2.0), run(3.0)]);
        assert!((median.p95 - 2.5).abs() < 1e-9, "{median:?}");
    }
}
