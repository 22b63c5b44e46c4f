//! Wire formats: pure framers and types, bytes in and values out.

pub mod ndjson;
pub mod ollama;
