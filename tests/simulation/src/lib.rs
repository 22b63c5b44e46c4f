//! Paddock's routing policies on a simulated herd of Ollama servers: `make simulate`.

pub mod scenario;
pub mod scenarios;
