//! What takes long: load on several replicas with sessions while replicas and Redis fail, and how much time that adds.
//! `make test-full` runs it.

#![cfg(test)]

mod added_time;
mod load;
mod redis;
mod replicas;
