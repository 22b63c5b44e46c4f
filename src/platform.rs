//! The leaf ports: what the core needs from the machine it runs on, one small trait per capability.
//!
//! A platform implements them and moves bytes; it never decides. `http`, `http_body` and `bytes` types are the
//! currency.

mod background;
mod entropy;
pub mod journal;
mod locked;
mod maybe_send;
mod race;
mod time;
mod upstream;

pub use background::{Background, Task};
pub use entropy::Entropy;
pub(crate) use entropy::random_id;
pub use journal::Journal;
pub(crate) use locked::Locked;
pub use maybe_send::{MaybeSend, MaybeSync};
pub(crate) use race::race;
pub use time::{Clock, Timer};
pub(crate) use time::{jittered, milliseconds};
pub use upstream::{Phase, Timeouts, Upstream, UpstreamFailure};
