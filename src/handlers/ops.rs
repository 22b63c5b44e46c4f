//! What operators ask: whether the service lives, how the fleet stands, what was counted.

pub(super) mod fleet;
pub(super) mod health;
pub(super) mod scrape;
