//! Which host a request goes to, when it waits, and what becomes of it when a host fails.

mod before_hosts;
mod circuit_breaker;
mod failover;
mod loops;
mod older_hosts;
mod placement;
mod policies;
mod queueing;
mod shared_fleet;
