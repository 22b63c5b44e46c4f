//! The part of the native binary that other programs may use: the embedded store on disk.
//!
//! Like the binary it makes no decisions: it stores bytes as the core says.

#![forbid(unsafe_code)]

pub mod disk_store;
