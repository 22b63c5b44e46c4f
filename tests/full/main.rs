//! What takes long: load on several replicas with sessions while replicas and Redis fail. `make test-full` runs it.

#![cfg(test)]

mod load;
mod redis;
mod replicas;
