//! What holds of every run, whatever the scenario and the policy.

use super::*;
use crate::{
    figures::Figures,
    gateway::{Probe, Request, Timings},
    policies::{self, Contender},
    scenarios,
};

fn played(scenario: &Scenario, contender: &Contender, seed: u64) -> Run {
    let mut gateway = (contender.gateway)(scenario, seed).unwrap();
    play(scenario, seed, gateway.as_mut()).unwrap()
}

fn shortened(scenario: Scenario) -> Scenario {
    Scenario { requests: 700, ..scenario }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    for contender in &policies::ALL {
        let scenario = shortened(scenarios::FAILURES);
        let run = played(&scenario, contender, 7);
        assert_eq!(run, played(&scenario, contender, 7));
        assert_ne!(run, played(&scenario, contender, 8));
    }
}

#[test]
fn every_request_ends_exactly_once() {
    // The engine refuses to end one twice and to end a run in which one has not; here they are counted.
    for scenario in scenarios::ALL.map(|scenario| Scenario { requests: 300, ..scenario }) {
        for contender in &policies::ALL {
            let run = played(&scenario, contender, 1);
            let answered = run.records.iter().filter(|record| record.end == End::Answered).count();
            let Figures { shed, failed, .. } = Figures::of(&run);
            let ended = f64::from(u32::try_from(answered).unwrap()) + shed + failed;
            assert!((ended - 300.0).abs() < 1e-9, "{} {}: {ended}", scenario.name, contender.name);
        }
    }
}

#[test]
fn faults_fall_into_the_time_in_which_requests_arrive() {
    for scenario in &scenarios::ALL {
        let last = traffic::plan(scenario, 1).unwrap().iter().filter_map(|planned| planned.at).max().unwrap();
        for fault in scenario.faults {
            assert!(fault.until < last, "{}: {fault:?} ends after {last:?}", scenario.name);
        }
    }
}

/// Sends everything to the first host and notes what it is told.
#[derive(Default)]
struct First {
    actions: Actions,
    told: Vec<(Duration, &'static str)>,
    silent_probes: Vec<Duration>,
}

impl Gateway for First {
    fn arrive(&mut self, now: Duration, request: &Request) {
        self.told.push((now, "arrived"));
        self.actions.dispatches.push((request.id, 0));
    }

    fn poll(&mut self, _: Duration) -> Actions {
        std::mem::take(&mut self.actions)
    }

    fn first_byte(&mut self, now: Duration, _: RequestId, _: HostId) {
        self.told.push((now, "first byte"));
    }

    fn finished(&mut self, now: Duration, _: RequestId, _: HostId, _: &Timings) {
        self.told.push((now, "finished"));
    }

    fn failed(&mut self, now: Duration, request: RequestId, _: HostId, failure: Failure) {
        self.told.push((now, if failure == Failure::BrokenOff { "broken off" } else { "failed" }));
        if failure != Failure::BrokenOff {
            self.actions.refusals.push((request, Refusal::Failed));
        }
    }

    fn probed(&mut self, now: Duration, _: HostId, found: Result<&Probe, Failure>) {
        if found.is_err() {
            self.silent_probes.push(now);
        }
    }
}

/// What one request comes to at a host that has this fault from the beginning or from the middle of the answer.
fn told_under(kind: FaultKind, from: Duration) -> (First, Duration) {
    let answer = crate::scenario::Length::always(60.0 * 30.0);
    let callers = Box::leak(Box::new([crate::scenario::Caller { answer, ..scenarios::UNIFORM.callers[0] }]));
    let arrives =
        traffic::plan(&Scenario { requests: 1, callers, ..scenarios::UNIFORM }, 1).unwrap()[0].at.unwrap();
    let from = if from.is_zero() { from } else { arrives + from };
    let until = Duration::from_hours(2);
    let faults = Box::leak(Box::new([crate::scenario::Fault { host: 0, from, until, kind }]));
    let scenario = Scenario { requests: 1, callers, faults, ..scenarios::UNIFORM };
    let mut gateway = First::default();
    play(&scenario, 1, &mut gateway).unwrap();
    (gateway, arrives)
}

#[test]
fn a_host_that_hangs_fails_a_request_at_the_first_byte_limit_and_an_answer_at_the_limit_between_bytes() {
    let (gateway, arrives) = told_under(FaultKind::Hang, Duration::ZERO);
    assert_eq!(gateway.told, [(arrives, "arrived"), (arrives + FIRST_BYTE_LIMIT, "failed")]);
    assert_eq!(gateway.silent_probes.first(), Some(&PROBE_EVERY));
    let middle = Duration::from_secs(40);
    let (gateway, arrives) = told_under(FaultKind::Hang, middle);
    let words: Vec<_> = gateway.told.iter().map(|(_, word)| *word).collect();
    assert_eq!(words, ["arrived", "first byte", "broken off"]);
    assert_eq!(gateway.told[2].0, arrives + middle + BETWEEN_BYTES_LIMIT);
}

#[test]
fn a_host_that_refuses_fails_a_request_at_once_and_breaks_an_answer_off() {
    let (gateway, arrives) = told_under(FaultKind::Refuse, Duration::ZERO);
    assert_eq!(gateway.told, [(arrives, "arrived"), (arrives + ROUND_TRIP, "failed")]);
    let middle = Duration::from_secs(40);
    let (gateway, arrives) = told_under(FaultKind::Refuse, middle);
    assert_eq!(gateway.told[2], (arrives + middle, "broken off"));
}
