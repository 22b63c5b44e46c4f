//! What Paddock is tested with: a stand-in Ollama, a real Redis, and the service in each of its forms.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ollama`] | an upstream that replays recorded answers and fails as it is told |
//! | [`redis_server`] | a real Redis that can be stopped and paused |
//! | [`redis_tls`] | TLS in front of a Redis |
//! | [`mod@gateway`] | the service in memory, as a native process and on Spin, behind one door |
//! | [`setup`] | what a form is started with |
//! | [`artifacts`] | builds what tests run |
//! | [`clients`] | the official Python clients of each protocol |
//! | [`history`] | whether the turns of a session could have happened one after the other |
//! | [`http_client`] | requests and replies |
//! | [`memory_limit`] | a limit for the memory of a process |
//! | [`prometheus`] | metrics through Prometheus' own Python parser |
//! | [`redis_commands`] | the core's Redis port over redis-rs |
//! | [`redis_cluster`] | a real Redis Cluster |
//! | [`redis_liar`] | what speaks Redis' protocol and answers without end |
//! | [`redis_proxy`] | a proxy before a Redis that holds replies and counts waves |
//! | [`spin`] | Spin in a test |
//!
//! Nothing here uses a fixed port, and every process ends with the value that stands for it.

pub mod artifacts;
pub mod clients;
pub mod gateway;
pub mod history;
pub mod http_client;
pub mod memory_limit;
pub mod ollama;
pub mod prometheus;
pub mod redis_cluster;
pub mod redis_commands;
pub mod redis_liar;
pub mod redis_proxy;
pub mod redis_server;
pub mod redis_tls;
pub mod setup;
pub mod spin;
