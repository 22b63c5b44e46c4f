//! The behaviours on the core in memory: no process, no socket, no Redis.

#![cfg(test)]

use paddock_tests::gateway::Memory;

macro_rules! on_every_form {
    ($($behavior:ident,)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $behavior() -> anyhow::Result<()> {
                super::$behavior(&crate::Memory).await
            })*
        }
    };
}

macro_rules! on_every_store {
    ($($behaviors:tt)*) => { on_every_form! { $($behaviors)* } };
}

macro_rules! where_leaving_is_seen {
    ($($behaviors:tt)*) => { on_every_form! { $($behaviors)* } };
}

/// Where time passes by hand.
macro_rules! in_memory {
    ($($behaviors:tt)*) => { on_every_form! { $($behaviors)* } };
}

/// These come from outside, over a socket.
macro_rules! over_http {
    ($($behavior:ident,)*) => { const _: () = { $(let _ = $behavior;)* }; };
}

/// These need a Redis that several replicas share, or that goes away.
macro_rules! over_redis {
    ($($behavior:ident,)*) => { const _: () = { $(let _ = $behavior;)* }; };
}

#[path = "../behaviors/mod.rs"]
mod behaviors;
