//! What users get, as behaviours that hold in every form. Each file ends with the list of the forms that its
//! behaviours are promised for: `on_every_form!`, `on_every_store!`, `where_leaving_is_seen!`, `in_memory!`,
//! `over_http!` and `over_redis!`, which each test binary defines for the forms that it runs. What the store decides is
//! tried on every store; for the rest the store on disk is as the one in memory. A behaviour on no list does not compile
//! without a warning.

use ask::surface_errors as surfaces;

/// A question and its answer on every surface: what is asked of Ollama, what comes back, and when a client leaves.
mod ask {
    mod answer_shapes;
    mod backpressure;
    mod bad_input;
    mod chat;
    mod chat_stream;
    mod leaving_clients;
    mod loading_models;
    mod official_clients;
    mod recorded_exchanges;
    mod relaying;
    pub(super) mod surface_errors;
}

/// Answers that were given before, or are being given: which are kept, whom they answer, and when they are forgotten.
mod cache {
    mod cache_control;
    mod coalescing;
    mod hits;
    mod idempotency;
    mod keys;
    pub(super) mod purging;
}

/// What operators see and set: who may ask, which models there are, health, logs and metrics, and Redis as it is set up.
mod ops {
    mod api_keys;
    mod cors;
    mod explaining;
    mod health;
    mod logs;
    mod metrics;
    mod model_changes;
    mod model_lists;
    mod redis_deployments;
    mod redis_waves;
    mod shared_store;
}

/// Redis is away, or is not as it should be: what users get meanwhile.
mod outage {
    mod redis_gone;
    mod redis_impaired;
}

/// Which host a request goes to, when it waits, and what becomes of it when a host fails.
mod routing {
    mod circuit_breaker;
    mod failover;
    mod placement;
    mod policies;
    mod queueing;
    mod shared_fleet;
}

/// Conversations that the service remembers.
mod sessions {
    mod history;
    mod model_windows;
    pub(super) mod routes;
    mod session_header;
}

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
