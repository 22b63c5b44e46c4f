//! Wire formats: pure framers and types, bytes in and values out.

pub mod dialect;
pub(crate) mod form;
pub mod framer;
pub(crate) mod markdown;
pub mod members;
pub mod ollama;
pub mod protocol;
pub mod spoken;
pub mod tokens;
