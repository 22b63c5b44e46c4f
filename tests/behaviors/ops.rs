//! What operators see and set: who may ask, which models there are, health, logs and metrics, and Redis as it is set up.

mod allowed_hosts;
mod api_keys;
mod cors;
mod explaining;
mod health;
mod logs;
mod metrics;
mod model_changes;
mod model_lists;
mod redis_contents;
mod redis_deployments;
mod redis_waves;
mod shared_store;
