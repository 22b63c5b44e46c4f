//! Asking a host: which host, when a slot is free, one attempt, and its answer.
//!
//! It never speaks to a client and keeps no answer. What it learns of hosts goes to the store.

pub(crate) mod admission;
pub(crate) mod answer;
mod answer_head;
pub(crate) mod attempt;
mod orphan;
pub mod probe;
mod prompt;
mod request;
mod routing_key;
pub(crate) mod slot;

pub(crate) use admission::{FleetPrefetch, prefetch_fleet};
pub(crate) use answer_head::AnswerHead;
pub(crate) use request::{Reading, UpstreamRequest};
pub(crate) use routing_key::RoutingKey;
pub(crate) use slot::update_stats;
