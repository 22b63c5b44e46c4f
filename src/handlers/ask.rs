//! Questions to one host: `/chat`, and the surfaces that Ollama speaks itself.

pub(super) mod chat;
pub(crate) mod conversation;
pub(crate) mod lookup;
pub(super) mod relay;
