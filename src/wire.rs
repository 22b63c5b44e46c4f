//! Wire formats of others (Ollama, OpenAI, Anthropic): pure parsers and writers, bytes in and values out.

pub mod dialect;
pub(crate) mod form;
pub mod framer;
pub(crate) mod markdown;
pub mod members;
pub mod ollama;
pub mod protocol;
pub mod spoken;
pub mod tokens;
