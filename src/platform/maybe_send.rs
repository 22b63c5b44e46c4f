//! Bounds that are `Send` and `Sync` where threads exist, and nothing on wasm.
//!
//! With them one trait serves a platform with threads and a platform with one thread. They decide nothing at run time.

/// `Send` where threads exist, nothing on wasm, so that the Spin platform may hold an `Rc`.
#[cfg(not(target_family = "wasm"))]
pub trait MaybeSend: Send {}
#[cfg(not(target_family = "wasm"))]
impl<T: Send> MaybeSend for T {}

/// `Send` where threads exist, nothing on wasm, so that the Spin platform may hold an `Rc`.
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
