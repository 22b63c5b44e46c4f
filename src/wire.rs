//! Wire formats of others (Ollama, OpenAI, Anthropic): pure parsers and writers, bytes in and values out.

pub(crate) mod dialect;
pub(crate) mod form;
pub(crate) mod framer;
pub(crate) mod markdown;
pub mod members;
pub(crate) mod multipart;
pub(crate) mod ollama;
pub(crate) mod options;
pub(crate) mod pace;
pub(crate) mod parts;
pub(crate) mod protocol;
pub(crate) mod repetition;
pub(crate) mod request;
pub(crate) mod spoken;
pub mod tokens;
pub(crate) mod zstd;
