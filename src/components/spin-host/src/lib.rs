//! Spin host.
