//! The routes for operators: health, the state of the fleet, metrics. They must never change anything.

pub(super) mod fleet;
pub(super) mod health;
pub(super) mod scrape;
