//! What the adapter adds to the planner.

use super::*;
use crate::{gateway::LoadedModel as Loaded, scenarios};

fn request(id: RequestId, context: u32) -> Request {
    Request { id, caller: 0, session: None, model: 0, context, prompt_tokens: 100.0 }
}

/// A gateway that knows that every host of the scenario has its first model.
fn dispatcher(policy: Policy, scenario: &Scenario) -> Dispatcher {
    let mut dispatcher = Dispatcher::new(scenario, policy, 1).unwrap();
    for host in 0..scenario.hosts.len() {
        dispatcher.probed(Duration::ZERO, host, Ok(&Probe { models: vec![0], loaded: Vec::new() }));
    }
    dispatcher
}

#[test]
fn a_request_goes_on_to_the_next_host_until_none_is_left() {
    let mut dispatcher = dispatcher(Policy::RoundRobin, &scenarios::UNIFORM);
    dispatcher.arrive(Duration::ZERO, &request(0, 4096));
    for host in [0, 1, 2, 3] {
        assert_eq!(dispatcher.poll(Duration::ZERO).dispatches, [(0, host)]);
        dispatcher.failed(Duration::ZERO, 0, host, Failure::Refused);
    }
    assert_eq!(dispatcher.poll(Duration::ZERO).refusals, [(0, Refusal::Failed)]);
}

#[test]
fn who_finds_no_place_waits_for_a_minute_at_most() {
    let mut dispatcher = dispatcher(Policy::RoundRobin, &scenarios::UNIFORM);
    for id in 0..17 {
        dispatcher.arrive(Duration::ZERO, &request(id, 4096));
    }
    let actions = dispatcher.poll(Duration::ZERO);
    assert_eq!((actions.dispatches.len(), actions.wake_at), (16, Some(WOKEN)));
    for second in 1..60 {
        assert_eq!(dispatcher.poll(Duration::from_secs(second)).refusals, []);
    }
    assert_eq!(dispatcher.poll(QUEUE_TIMEOUT).refusals, [(16, Refusal::Shed)]);
}

#[test]
fn auto_sends_each_context_length_where_it_is_loaded() {
    let mut dispatcher = dispatcher(Policy::Auto, &scenarios::OPTIONS);
    let now = Duration::from_secs(2);
    let loaded = |context| Probe { models: vec![0], loaded: vec![Loaded { model: 0, context }] };
    dispatcher.probed(now, 2, Ok(&loaded(16_384)));
    dispatcher.arrive(now, &request(0, 16_384));
    assert_eq!(dispatcher.poll(now).dispatches, [(0, 2)]);
}

#[test]
fn a_request_is_withdrawn_from_a_host_that_completes_nothing_once_the_model_is_known_to_be_loaded() {
    let mut dispatcher = dispatcher(Policy::RoundRobin, &scenarios::UNIFORM);
    let at = Duration::from_secs;
    for id in 0..4 {
        dispatcher.arrive(at(1), &request(id, 4096));
    }
    assert_eq!(dispatcher.poll(at(1)).dispatches.len(), 4);
    for id in 0..4 {
        dispatcher.first_byte(at(21), id, id);
        dispatcher.finished(at(22), id, id, &Timings::default());
    }
    dispatcher.arrive(at(30), &request(4, 4096));
    assert_eq!(dispatcher.poll(at(30)).wake_at, Some(at(40)));
    assert_eq!(dispatcher.poll(at(40)).withdrawals, [4]);
    dispatcher.failed(at(40), 4, 0, Failure::Withdrawn);
    assert!(matches!(dispatcher.poll(at(40)).dispatches[..], [(4, 1..=3)]));
}
