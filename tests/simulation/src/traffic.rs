//! The requests of one run, made up from a scenario and a seed: the same for every policy.

use std::time::Duration;

use anyhow::{Context as _, Error, Result};
use rand_distr::{Distribution as _, Exp1, LogNormal, StandardUniform};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng as _};

use crate::{
    gateway::{Request, RequestId},
    ollama::Work,
    scenario::{Arrivals, Caller, HostSpec, Length, Scenario},
};

/// A request that will be made.
#[derive(Debug, Clone)]
pub struct Planned {
    /// What the gateway sees of it.
    pub request: Request,
    /// What it is to a host.
    pub work: Work,
    /// When it arrives; `None` when it follows another.
    pub at: Option<Duration>,
    /// What follows when it has ended, and how long after.
    pub next: Option<(RequestId, Duration)>,
}

/// All requests of a run, by id.
///
/// # Errors
/// When the scenario's numbers are no weights or lengths.
pub fn plan(scenario: &Scenario, seed: u64) -> Result<Vec<Planned>> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let callers: Vec<_> =
        scenario.callers.iter().enumerate().map(|(place, caller)| ((place, caller), caller.weight)).collect();
    let mut planned = Vec::with_capacity(scenario.requests);
    let mut begins = Vec::new();
    while planned.len() < scenario.requests {
        let (place, caller) = choose(&callers, &mut random)?;
        begins.push(planned.len());
        let left = scenario.requests - planned.len();
        planned.extend(conversation(caller, place, planned.len(), left, &mut random)?);
    }
    let conversations = begins.len();
    let mut clock = Clock::new(scenario.arrivals, gap(scenario, &planned, conversations), &mut random);
    for begin in begins {
        let first = planned.get_mut(begin).context("a conversation begins with a request")?;
        first.at = Some(clock.next(&mut random));
    }
    Ok(planned)
}

fn conversation(
    caller: &Caller,
    place: usize,
    first: RequestId,
    longest: usize,
    random: &mut Xoshiro256PlusPlus,
) -> Result<Vec<Planned>> {
    let model = choose(caller.models, random)?;
    let context = choose(caller.contexts, random)?;
    let turns = draw(caller.turns, random)?;
    let id = u64::try_from(first)?;
    let mut history = caller.shared_prompt;
    let mut planned: Vec<Planned> = Vec::new();
    // One turn at least, and no more than are left.
    for request in first..first + longest {
        let turn = f64::from(u32::try_from(request - first)?);
        if turn >= turns.max(1.0) {
            break;
        }
        if let Some(before) = planned.last_mut() {
            before.next = Some((request, exponential(caller.thinking.as_secs_f64(), random)));
        }
        let (prompt, answer) = (draw(caller.prompt, random)?, draw(caller.answer, random)?);
        let known = history;
        history += prompt + answer;
        planned.push(Planned {
            request: Request {
                id: request,
                caller: place,
                session: (turns > 1.0).then_some(id),
                model,
                context,
                prompt_tokens: known + prompt,
            },
            work: Work {
                model,
                context,
                conversation: id,
                caller: place,
                shared_prompt: caller.shared_prompt,
                known_prompt: known,
                prompt: known + prompt,
                answer,
            },
            at: None,
            next: None,
        });
    }
    Ok(planned)
}

/// The mean time between two conversations that makes the load what the scenario says.
fn gap(scenario: &Scenario, planned: &[Planned], conversations: usize) -> f64 {
    let seconds = |host: &HostSpec| {
        let request = |planned: &Planned| {
            let work = &planned.work;
            let size = scenario.models.get(work.model).map_or(1.0, |model| model.size);
            let new = work.prompt - work.known_prompt;
            (new / host.prompt_speed + work.answer / host.token_speed) * size / host.gain()
        };
        planned.iter().map(request).sum::<f64>()
    };
    let runs_a_second: f64 = scenario.hosts.iter().map(|host| 1.0 / seconds(host)).sum();
    let span = 1.0 / (runs_a_second * scenario.load);
    span / f64::from(u32::try_from(conversations).unwrap_or(u32::MAX))
}

/// Says when the next conversation begins.
struct Clock {
    now: f64,
    /// The mean time between two conversations in calm.
    calm_gap: f64,
    /// How many times as many begin in a burst.
    factor: f64,
    /// How long calm and a burst last in the mean; without bursts calm lasts for ever.
    lengths: Option<(f64, f64)>,
    bursting: bool,
    /// When calm or burst ends.
    ends: f64,
}

impl Clock {
    fn new(arrivals: Arrivals, gap: f64, random: &mut Xoshiro256PlusPlus) -> Self {
        let (factor, lengths) = match arrivals {
            Arrivals::Poisson => (1.0, None),
            Arrivals::Bursts { factor, calm, burst } => {
                (factor, Some((calm.as_secs_f64(), burst.as_secs_f64())))
            }
        };
        let excess = lengths.map_or(1.0, |(calm, burst)| (calm + burst * factor) / (calm + burst));
        let ends = lengths.map_or(f64::INFINITY, |(calm, _)| calm * unit(random));
        Self { now: 0.0, calm_gap: gap * excess, factor, lengths, bursting: false, ends }
    }

    fn next(&mut self, random: &mut Xoshiro256PlusPlus) -> Duration {
        // In units of the mean gap; how much time that is depends on whether there is a burst.
        let mut wait = unit(random);
        loop {
            let gap = if self.bursting { self.calm_gap / self.factor } else { self.calm_gap };
            let arrival = self.now + wait * gap;
            let Some((calm, burst)) = self.lengths.filter(|_| arrival > self.ends) else {
                self.now = arrival;
                return Duration::from_secs_f64(arrival);
            };
            wait -= (self.ends - self.now) / gap;
            self.now = self.ends;
            self.bursting = !self.bursting;
            self.ends += unit(random) * if self.bursting { burst } else { calm };
        }
    }
}

/// Exponential with mean 1.
fn unit(random: &mut Xoshiro256PlusPlus) -> f64 {
    Exp1.sample(random)
}

fn exponential(mean: f64, random: &mut Xoshiro256PlusPlus) -> Duration {
    Duration::from_secs_f64(mean * unit(random))
}

fn draw(length: Length, random: &mut Xoshiro256PlusPlus) -> Result<f64> {
    let beside_median: f64 = LogNormal::new(0.0, length.spread).map_err(Error::msg)?.sample(random);
    Ok((length.median * beside_median).min(length.longest).round().max(1.0))
}

fn choose<T: Copy>(choices: &[(T, f64)], random: &mut Xoshiro256PlusPlus) -> Result<T> {
    let total: f64 = choices.iter().map(|(_, weight)| weight).sum();
    let share: f64 = StandardUniform.sample(random);
    let mut left = share * total;
    let chosen = choices.iter().find(|(_, weight)| {
        left -= weight;
        left < 0.0
    });
    chosen.or_else(|| choices.last()).map(|(choice, _)| *choice).context("something to choose from")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios;

    #[test]
    fn a_run_has_as_many_requests_as_the_scenario_says_and_each_comes_once() {
        for scenario in &scenarios::ALL {
            let planned = plan(scenario, 3).unwrap();
            assert_eq!(planned.len(), scenario.requests, "{}", scenario.name);
            let follow = planned.iter().filter_map(|planned| planned.next).map(|(next, _)| next);
            let begin =
                planned.iter().filter(|planned| planned.at.is_some()).map(|planned| planned.request.id);
            let mut ids: Vec<_> = follow.chain(begin).collect();
            ids.sort_unstable();
            assert!(ids.into_iter().eq(0..scenario.requests), "{}", scenario.name);
        }
    }

    #[test]
    fn bursts_change_when_requests_come_and_not_how_many() {
        let bursts = scenarios::MIXED.arrivals;
        let span = |arrivals| {
            let scenario = Scenario { arrivals, requests: 20_000, ..scenarios::UNIFORM };
            plan(&scenario, 5).unwrap().last().and_then(|planned| planned.at).unwrap().as_secs_f64()
        };
        let ratio = span(bursts) / span(Arrivals::Poisson);
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_turn_repeats_what_was_said_before_and_adds_to_it() {
        let planned = plan(&scenarios::SESSIONS, 1).unwrap();
        for (before, after) in planned.iter().zip(planned.iter().skip(1)) {
            if before.next.is_some() {
                assert_eq!(before.request.session, after.request.session);
                assert!((before.work.prompt + before.work.answer - after.work.known_prompt).abs() < 1e-9);
                assert!(after.work.known_prompt < after.work.prompt);
            }
        }
    }
}
