//! What of the native host is of use to others: the embedded store that survives a restart.
//!
//! A leaf as the binary is one: it keeps bytes where the core says, and never decides what they mean.

#![forbid(unsafe_code)]

pub mod disk_store;
