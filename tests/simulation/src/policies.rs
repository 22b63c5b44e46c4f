//! The policies that are compared: each is a name and how to make a gateway that follows it.

use anyhow::Result;
use paddock::fleet::Policy;

use crate::{gateway::Gateway, rotation::Rotation, scenario::Scenario};

/// A policy.
#[derive(Debug, Clone, Copy)]
pub struct Contender {
    /// What operators call it.
    pub name: &'static str,
    /// Makes a gateway before the hosts of a scenario; the seed is for its own chance.
    pub gateway: fn(&Scenario, u64) -> Result<Box<dyn Gateway>>,
}

/// All policies; the others are compared with the first.
pub const ALL: [Contender; 2] = [
    Contender {
        name: "round_robin",
        gateway: |scenario, seed| Ok(Box::new(Rotation::new(scenario, Policy::RoundRobin, seed)?)),
    },
    Contender {
        name: "random",
        gateway: |scenario, seed| Ok(Box::new(Rotation::new(scenario, Policy::Random, seed)?)),
    },
];
