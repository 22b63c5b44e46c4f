//! Bounds that are `Send` and `Sync` where threads exist, and nothing on wasm.
//!
//! They let one trait serve a host with threads and a host with one. They never decide anything at run time.

/// `Send` where threads exist, nothing on wasm, so that a Spin host may hold an `Rc`.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSend: Send {}
#[cfg(not(target_family = "wasm"))]
impl<T: Send> MaybeSend for T {}

/// `Send` where threads exist, nothing on wasm, so that a Spin host may hold an `Rc`.
#[cfg(target_family = "wasm")]
pub trait MaybeSend {}
#[cfg(target_family = "wasm")]
impl<T> MaybeSend for T {}

/// `Sync` where threads exist, nothing on wasm.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSync: Sync {}
#[cfg(not(target_family = "wasm"))]
impl<T: Sync> MaybeSync for T {}

/// `Sync` where threads exist, nothing on wasm.
#[cfg(target_family = "wasm")]
pub trait MaybeSync {}
#[cfg(target_family = "wasm")]
impl<T> MaybeSync for T {}
