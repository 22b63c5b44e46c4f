//! What users get, as behaviours that hold in every form. Each file ends with the list of the forms that its
//! behaviours are promised for: `on_every_form!`, `on_every_store!`, `where_leaving_is_seen!`, `in_memory!`,
//! `over_http!` and `over_redis!`, which each test binary defines for the forms that it runs. What the store decides is
//! tried on every store; for the rest the store on disk is as the one in memory. A behaviour on no list does not compile
//! without a warning.

mod ask;
mod cache;
mod ops;
mod outage;
mod routing;
mod sessions;
mod surfaces;

/// What every behaviour needs.
pub(crate) mod prelude {
    pub(crate) use std::time::{Duration, Instant};

    pub(crate) use anyhow::{Context as _, Result, bail, ensure};
    pub(crate) use futures::future::join_all;
    pub(crate) use http::Method;
    pub(crate) use paddock_tests::{
        gateway::{Form, Gateway, PATIENCE, Payload, Reply},
        ollama::{CHAT, End, FakeOllama, Gate, Recorded, Scripted, TAGS, refusal},
        setup::Setup,
    };
    pub(crate) use serde_json::json;
}
