//! What takes long: load on several replicas with sessions while replicas and Redis fail, how much time that adds, and a soak
//! under a memory limit.
//! `make test-full` runs it.

#![cfg(test)]

mod added_time;
mod load;
mod redis;
mod replicas;
mod soak;
