//! Conversations that the service remembers.

mod history;
mod model_windows;
pub(super) mod routes;
mod session_header;
