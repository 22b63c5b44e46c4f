//! Paddock's routing policies on a simulated herd of Ollama servers: `make simulate`.

mod agenda;
pub mod chart;
pub mod dispatcher;
pub mod engine;
pub mod figures;
pub mod gateway;
pub mod ollama;
pub mod policies;
pub mod report;
pub mod scenario;
pub mod scenarios;
pub mod traffic;
