//! The policies that are compared: each is a name and how to make a gateway that follows it.

use anyhow::Result;
use paddock::fleet::Policy;

use crate::{dispatcher::Dispatcher, gateway::Gateway, scenario::Scenario};

/// A policy.
#[derive(Debug, Clone, Copy)]
pub struct Contender {
    /// What operators call it.
    pub name: &'static str,
    /// Makes a gateway before the hosts of a scenario; the seed is for its own chance.
    pub gateway: fn(&Scenario, u64) -> Result<Box<dyn Gateway>>,
}

/// All policies; the others are compared with the first.
pub const ALL: [Contender; 6] = [
    Contender { name: "round_robin", gateway: |scenario, seed| of(Policy::RoundRobin, scenario, seed) },
    Contender { name: "random", gateway: |scenario, seed| of(Policy::Random, scenario, seed) },
    Contender {
        name: "least_outstanding",
        gateway: |scenario, seed| of(Policy::LeastOutstanding, scenario, seed),
    },
    Contender { name: "p2c", gateway: |scenario, seed| of(Policy::PowerOfTwoChoices, scenario, seed) },
    Contender { name: "affinity", gateway: |scenario, seed| of(Policy::Affinity, scenario, seed) },
    Contender { name: "auto", gateway: |scenario, seed| of(Policy::Auto, scenario, seed) },
];

fn of(policy: Policy, scenario: &Scenario, seed: u64) -> Result<Box<dyn Gateway>> {
    Ok(Box::new(Dispatcher::new(scenario, policy, seed)?))
}
