//! Which host a request goes to, when it waits, and what becomes of it when a host fails.

mod circuit_breaker;
mod failover;
mod loops;
mod placement;
mod policies;
mod queueing;
mod shared_fleet;
